"""What `best` and `status` answer."""

import io
import json
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import pytest
from rich.console import Console

from search.journal.results import Result, front
from search.journal.view import View, read, with_front
from search.ledger.run_ids import run_ids, save_links
from search.report.best import best, best_json, status_json, where_of
from search.report.course import growth
from search.report.format import better, brief, cell, delta, scaled, settings, story
from search.report.provenance import best_toml
from search.report.tables import best_table, status_lines
from tests.support.journals import Sample, sample_study
from trainables.core.errors import UserError


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sample]:
    made = Sample(tmp_path_factory.mktemp("runs")).run()
    yield made
    made.close()


def test_json(sample: Sample) -> None:
    view = read(sample.store)
    links = {"uri": "sqlite://", "experiment": "1", "parent": "p"}
    save_links(sample.store, {**links, "runs": {"1": {"run_id": "abc", "front": "yes"}}})
    found = json.loads(json.dumps(best_json(view, best(view), run_ids(sample.store))))
    assert (found["study"], found["note"]) == ("depth", None)
    assert found["objectives"] == {"perplexity": "min", "parameters": "min"}
    assert found["baseline"]["metrics"] == {"perplexity": 20.0, "parameters": 134e6}
    assert [(one["number"], one["run_id"]) for one in found["trials"]] == [(1, "abc"), (2, None)]
    first = found["trials"][0]
    assert first["feasible"] and first["front"]
    assert first["params"] == {"omission.skip.20": 1, "omission.skip.21": 0, "wanda.percent": 0}


def test_table_shows_changes(sample: Sample) -> None:
    view = read(sample.store)
    console = Console(width=140, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(best_table(view, best(view, top=5)))
    console.file.close()
    text = console.export_text()
    assert "134M" in text and "127M  -5.2 %" in text and "25  +25 %" in text
    assert "untouched model" in text and "Omission skip=20,21" in text


def test_the_table_fits_a_narrow_window(sample: Sample) -> None:
    view = read(sample.store)
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(best_table(view, best(view, top=5)))
    text = console.export_text()
    assert "…" not in text
    for words in ("untouched model", "Omission skip=20,21", "127M  -5.2 %", "(min)"):
        assert words in text


def test_status(sample: Sample) -> None:
    view = read(sample.store)
    found = json.loads(json.dumps(status_json(view)))
    assert found["trials"] == view.counts
    assert (found["state"], found["front"], found["best"]) == ("finished", [1, 2], 1)
    assert found["failures"] == [{"number": 4, "reason": "perplexity was nan"}]
    text = "\n".join(status_lines(view))
    assert "5 finished, 1 failed, 0 running, 0 waiting of 6 trials" in text
    assert "best: trial 1: perplexity 21 (+5.0 %), parameters 131M (-2.2 %)" in text


def test_where_knows_the_metrics(sample: Sample) -> None:
    view = read(sample.store)
    assert where_of(view, None) == ()
    assert where_of(view, "parameters <= 1e8")[0].metric == "parameters"
    with pytest.raises(UserError, match='did you mean "perplexity"'):
        where_of(view, "perplexty <= 3")


def test_best_toml_is_a_starting_point(sample: Sample) -> None:
    view = read(sample.store)
    found = tomllib.loads(best_toml(view, best(view)))
    assert found["constraints"] == ["perplexity <= 130% of baseline (<= 26)"]
    assert found["trials"][0]["point"] == {"omission.skip": [20], "wanda.percent": 0}
    assert found["trials"][1]["stages"][0] == {
        "stage": "Omission",
        "skip": [20, 21],
        "attention": [],
        "ffn": [],
    }


def test_numbers_as_people_read_them() -> None:
    assert [scaled(v) for v in (3.0, 999.0, 999_999.0, 134_515_008.0)] == [
        "3",
        "999",
        "1M",
        "134.5M",
    ]
    assert cell("accuracy", 0.91) == "0.9100"
    assert cell("bytes", 513_100_000.0) == "513.1 MB"
    assert cell("latency_ms", 12.34567) == "12.35 ms"
    assert (delta("parameters", 110.0, 134.0), delta("parameters", 134.0, 134.0)) == ("-18 %", "=")
    assert (delta("accuracy", 0.9, 0.92), delta("perplexity", 3.0, None)) == ("-0.020", "")


def test_better_or_worse(sample: Sample) -> None:
    assert better(sample.study, "perplexity", 19.0, 20.0) == "better"
    assert better(sample.study, "accuracy", 0.8, 0.9) == "worse"
    assert better(sample.study, "unknown", 0.8, 0.9) == "same"
    assert better(sample.study, "perplexity", 20.001, 20.0) == "same"  # shown as "="
    assert better(sample.study, "perplexity", 0.0, 0.0) == "same"


def test_sets_by_their_members() -> None:
    params = {"omission.skip.03": 1, "omission.skip.04": 0, "wanda.percent": 30, "top.2": 0.5}
    assert brief(params) == "omission.skip=3  wanda.percent=30  top.2=0.5"
    assert brief({"omission.skip.03": 0}) == "omission.skip=none"


def test_stories(sample: Sample) -> None:
    view = read(sample.store)
    assert story(view.trial(0)) == "untouched model"
    assert story(view.trial(5)) == "Omission skip=20,21 > Wanda sparsity=0.4"
    assert story(view.trial(4)) == "omission.skip=20,21  wanda.percent=50"


def test_settings_of_repeated_stages(sample: Sample) -> None:
    trial = read(sample.store).trial(5)
    assert settings(trial) == {"Omission.skip": [20, 21], "Wanda.sparsity": 0.4}
    twice = {"stages": [*trial.record["stages"], *trial.record["stages"]]}
    names = list(settings(replace(trial, record=twice)))
    assert names == ["Omission.skip", "Wanda.sparsity", "Omission2.skip", "Wanda2.sparsity"]


def test_answers_need_no_heavy_library(sample: Sample) -> None:
    code = (
        "import sys; from pathlib import Path; from search.journal.view import read;"
        "from search.report.best import best, best_json, status_json;"
        "from search.journal.store import Store;"
        f"store = Store(Path({str(sample.store.folder)!r}), 'depth'); view = read(store);"
        "best_json(view, best(view)); status_json(view);"
        "print([m for m in ('torch', 'ray', 'mlflow', 'pandas', 'transformers') "
        "if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_times_of_another_card_compete_for_nothing(sample: Sample) -> None:
    view = read(sample.store)
    goals = {"latency_ms": "min", "perplexity": "min"}
    study = view.study.model_copy(update={"objectives": goals})

    def on(number: int, card: str | None, latency: float, perplexity: float) -> Result:
        record = {"lineage": str(number), "hardware": {"device": card} if card else None}
        metrics = {"latency_ms": latency, "perplexity": perplexity}
        return Result(number, "complete", {}, metrics, {}, record)

    results = [
        on(0, "A6000", 10.0, 20.0),
        on(1, "A6000", 9.0, 21.0),
        on(2, "H100", 1.0, 20.0),  # of a card ten times as fast
        on(3, "A6000", 8.0, 22.0),
        on(4, None, 7.0, 23.0),  # of an older version, which did not say
    ]
    found = View(study, tuple(with_front(results, study)))
    assert [one.number for one in found.results if one.on_front] == [0, 1, 3, 4]
    assert [one.number for one in best(found).trials] == [4, 3, 1]
    assert found.doubts == [
        "1 trials were timed on H100, not on the untouched model's device: they compete for nothing"
    ]
    sizes = found.study.model_copy(update={"objectives": {"perplexity": "min"}})
    assert View(sizes, found.results).doubts == []
    assert 2 in {one.number for one in front(found.results, {"perplexity": "min"})}


class Counted(dict[str, float]):
    """Metrics that count how often they are looked at."""

    looks = 0

    def __getitem__(self, name: str) -> float:
        Counted.looks += 1
        return super().__getitem__(name)


def _looks(call: Callable[[View], object], trials: int) -> int:
    """How often a call looks at the metrics of a study, each of whose trials beats those before."""
    results = [
        Result(n, "complete", {}, Counted(perplexity=500.0 - n, parameters=500.0 - n), {}, {})
        for n in range(trials)
    ]
    Counted.looks = 0
    call(View(sample_study(), tuple(results)))
    return Counted.looks


@pytest.mark.parametrize("call", [partial(best, top=3), growth, status_json])
def test_twice_as_many_trials_are_looked_at_twice_as_often(call: Callable[[View], object]) -> None:
    assert 0 < _looks(call, 200) <= 2.2 * _looks(call, 100)
