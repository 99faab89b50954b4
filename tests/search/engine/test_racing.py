"""A search that races beside one that does not: the same front to the last bit, for fewer items."""

import os
import random
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from optuna.trial import FixedTrial
from transformers import LlamaConfig, LlamaForCausalLM

from search.engine.rivals import Rivals
from search.journal.results import Result
from search.journal.view import read
from search.samplers.build import sampler_source
from search.study.load import parse_study
from search.study.space import load_space
from tests.support.families import GROUPED
from tests.support.journals import Sample, record
from tests.support.searched import TOML
from tests.support.toys import bytes_tokenizer, jsonl
from trainables.bench.survey import gather
from trainables.core.cache import write_durably
from trainables.core.places import CHECKOUT
from trainables.core.scores import from_text, scores_file
from trainables.stage import drain
from trainables.trial import open_bench, run_stages

TRIALS, ITEMS = 12, 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that minds what is done to it, and a text."""
    made = tmp_path_factory.mktemp("racing")
    torch.manual_seed(0)
    sizes = GROUPED | {"vocab_size": 300, "initializer_range": 0.3}
    LlamaForCausalLM(LlamaConfig(**sizes)).save_pretrained(made / "model")
    bytes_tokenizer().save_pretrained(made / "model")
    words = random.Random(0)
    rows = [{"text": "".join(words.choices("abcdefgh ", k=60))} for _ in range(200)]
    jsonl(made / "rows.jsonl", rows)
    return made


def search(folder: Path, name: str, scheduler: str, dies: int | None = None) -> list[Result]:
    """Search in this process, as a driver with one worker does, or go on with a search; killed
    while a trial runs, if one is named."""
    text = TOML.format(model=folder / "model", data=folder / "rows.jsonl")
    text = text.replace("search = 4", f"search = {ITEMS}").replace("<= 150%", "<= 110%")
    study = parse_study(f'{text}[scheduler]\nname = "{scheduler}"\n', "tiny.toml")
    made = Sample(folder / name, study)
    bench, space = open_bench(study.bench_spec(made.store.cache)), load_space(study.space)
    facts, journal = gather(bench, space), made.journal
    rivals = Rivals(study, journal, made.store.results)

    def ask(trial: Any) -> Any:
        return space.stages(trial, facts)

    def settle(number: int, stages: Any, more: dict[str, Any]) -> None:
        own, race = bench.fork(f"tiny/{number}"), rivals.race() if number else None
        found = drain(run_stages(own, stages, race))
        if "scores" in found:
            path = scores_file(made.store.results, journal.uid(number))
            write_durably(path, from_text(found["scores"]).pack())
        journal.settle(number, record("", number, {}) | found | more)

    journal.reclaim(made.store.results)
    if journal.baseline() is None:
        first = journal.hand_out(None)
        assert first is not None
        settle(first.number, [], {"facts": asdict(facts)})
    journal.begin(sampler_source(study.sampler, seed=1, trials=TRIALS, ask=ask), [])
    while journal.owed or len(journal.trials()) <= TRIALS:
        given = journal.hand_out(ask)
        assert given is not None
        if given.number == dies:
            os.kill(os.getpid(), signal.SIGKILL)
        settle(given.number, ask(FixedTrial(given.params)), {})
    made.close()
    return list(read(made.store).results)


def evaluated(results: list[Result]) -> float:
    """Shares of the items that were looked at, added up."""
    whole = sum(one.state == "complete" and not one.same_as for one in results)
    return whole + sum(one.record["share"] for one in results if one.state == "pruned")


def test_the_same_front_for_fewer_items(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "hf")
    whole, racing = (search(folder, name, name) for name in ("none", "racing"))
    fronts = [
        [(one.params, one.metrics) for one in found if one.on_front] for found in (whole, racing)
    ]
    assert fronts[0] == fronts[1] and len(fronts[0]) > 1
    lost = [one for one in racing if one.state == "pruned"]
    assert lost and all(one.reason and "of the items: " in one.reason for one in lost)
    assert evaluated(racing) < evaluated(whole)
    beaten = {one.number for one in lost}
    assert not beaten & {one.number for one in whole if one.on_front}


PROGRAM = """
import pathlib, sys
from tests.search.engine.test_racing import search
search(pathlib.Path(sys.argv[1]), "killed", "racing", dies=int(sys.argv[2]))
"""


@pytest.mark.slow
def test_a_race_that_was_killed_ends_as_one_that_was_not(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "hf")
    for number in (4, 9):
        told = [sys.executable, "-c", PROGRAM, str(folder), str(number)]
        assert subprocess.run(told, cwd=CHECKOUT, check=False).returncode == -signal.SIGKILL
    after, whole = (search(folder, name, "racing") for name in ("killed", "unharmed"))
    assert len(after) == TRIALS + 1
    for one, other in zip(after, whole, strict=True):
        assert (one.params, one.metrics, one.state) == (other.params, other.metrics, other.state)
        assert one.record.get("share") == other.record.get("share")
