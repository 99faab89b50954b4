"""A search in phases over neurons, judged by what the model answers: from the study file to the
best trials and the table, without Ray."""

import io
from pathlib import Path
from typing import Any

import datasets
import pytest
from optuna.trial import FixedTrial
from rich.console import Console

from search.journal.journal import Journal
from search.journal.view import View, results_of
from search.report.best import best, best_json
from search.report.papers.chains import chain_rows, chain_table
from search.samplers.build import sampler_source
from search.study.constraints import doubts
from search.study.load import parse_study
from search.study.schema import Study
from search.study.space import load_space
from tests.support.families import DECODERS, build
from tests.support.journals import memory
from tests.support.toys import jsonl, word_tokenizer
from trainables.bench.survey import gather
from trainables.core.scores import from_text, scores_file
from trainables.stage import drain
from trainables.trial import open_bench, run_stages

STUDY = """
name = "answers"
[space]
name = "neurons"
prune_ratio = [0.05, 0.6]
max_prune_per_layer = [0.2, 0.9]
min_neurons_per_layer = [1, 8]
[model]
id = "MODEL"
[data]
dataset = "ROWS"
task = "generation"
prompt = "question : {question} answer :"
columns = { target = "said" }
max_length = 32
items = { calibration = 4, train = 1, search = 6, held_out = 2 }
[objectives]
rouge_1 = "max"
parameters = "min"
[constraints]
rouge_1 = ">= 95% of baseline"
parameters = "<= LIMIT of baseline"
[budget]
trials = 6
[sampler]
name = "phases"
[[sampler.phases]]
name = "how much"
points = [{ "neurons.prune_ratio" = 0.05 }, { "neurons.prune_ratio" = 0.5 }]
[[sampler.phases]]
best_of = 1
by = "rouge_1"
vary = { "neurons.layer_scale.early" = [0.2, 0.8] }
[[sampler.phases]]
best_of = [1, 2]
around = 0.3
"""


class Search:
    """A driver and its one worker, in this process."""

    def __init__(self, folder: Path, name: str, limit: str) -> None:
        model, tokenizer = build(name), word_tokenizer()
        model.save_pretrained(folder / "model")
        tokenizer.save_pretrained(folder / "model")
        rows = [
            {"question": f"who is x{i % 10} {'red ' * i}?", "said": "x1 yes"} for i in range(20)
        ]
        text = STUDY.replace("MODEL", str(folder / "model")).replace("LIMIT", limit)
        text = text.replace("ROWS", jsonl(folder / "rows.jsonl", rows))
        self.study: Study = parse_study(text, "answers.toml")
        self.bench = open_bench(self.study.bench_spec(folder / "cache"))
        self.space, self.folder = load_space(self.study.space), folder / "results"
        limits = {one.key: one for one in self.study.limits}
        self.journal = Journal(memory(), "answers", self.study.objectives, limits)

    def run(self) -> View:
        given = self.journal.hand_out(None)
        assert given is not None
        facts = gather(self.bench.fork(), self.space)
        self._settle(given, [], facts={"parameters": facts.parameters, "blocks": facts.blocks})

        def ask(trial: Any) -> Any:
            return self.space.stages(trial, facts)

        source = sampler_source(
            self.study.sampler, seed=0, trials=6, ask=ask, directions=self.study.directions
        )
        self.journal.begin(source, [])
        while len(self.journal.trials()) <= 6:
            if (given := self.journal.hand_out(ask)) is not None:
                self._settle(given, ask(FixedTrial(given.params)))
        notes = {"facts": self.journal.noted("facts")}
        return View(self.study, tuple(results_of(self.study, self.journal.trials())), notes=notes)

    def _settle(self, given: Any, stages: Any, **more: Any) -> None:
        record = drain(run_stages(self.bench.fork(f"answers/{given.number}"), stages))
        kept = scores_file(self.folder, given.uid)
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(from_text(record["scores"]).pack())
        whole = {**record, **more, "state": "complete", "uid": given.uid, "number": given.number}
        self.journal.settle(given.number, whole)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")


@pytest.mark.parametrize(("name", "limit"), [("llama", "99%"), ("gemma3_text", "20%")])
def test_best_answers_with_the_front_or_says_what_came_closest(
    tmp_path: Path, name: str, limit: str
) -> None:
    assert name in DECODERS
    search = Search(tmp_path, name, limit)
    view = search.run()
    assert [one.phase for one in view.trials[:4]] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert all(one.phase is not None and one.phase[0] == 2 for one in view.trials[4:])
    found = best(view)
    if limit == "20%":
        told = "no trial meets rouge_1 >= 95% of baseline and parameters <= 20% of baseline"
        assert found.note is not None and found.note.startswith(told)
        assert all(not one.feasible for one in view.trials)
    for one in found.trials:
        assert one.metrics["parameters"] < view.base["parameters"]
    assert best_json(view, found)["warnings"] == []

    rows = chain_rows(view, search.folder)
    assert [row.phase for row in rows[:4]] == ["", "1-1", "1-2", "2-1"]
    assert rows[0].pruned == 0 and all((row.pruned or 0) > 0 for row in rows[1:])
    for row in rows:
        value, low, high = row.intervals["rouge_1"]
        assert low <= value == row.scores["rouge_1"] <= high
    screen = Console(file=io.StringIO(), width=200)
    screen.print(chain_table(view, search.folder))
    said = screen.file.getvalue()  # type: ignore[attr-defined]
    assert "pruned %" in said and "1-2" in said and "remark" in said

    scores = from_text(drain(run_stages(search.bench.fork(), []))["scores"])
    assert doubts(search.study.limits, scores) == [] or view.base["rouge_1"] < 0.2
