"""When a study is done, and what is said where nothing came of it."""

import json
from pathlib import Path

import pytest

from search.journal import tables
from search.journal.view import Reader, read, results_of
from search.report.best import best, best_json, status_json
from search.study.schema import Budget
from tests.support.journals import Sample, sample_study
from trainables.core.errors import UserError


@pytest.mark.parametrize(
    ("budget", "notes", "state"),
    [
        (Budget(trials=6), {}, "finished"),
        (Budget(trials=7), {}, "interrupted"),
        (Budget(trials=7), {"exhausted": True}, "finished"),
        (Budget(hours=1), {"seconds": 3599.0}, "interrupted"),
        (Budget(hours=1), {"seconds": 3600.0}, "finished"),
    ],
)
def test_a_study_is_done_when_its_budget_is_spent_or_its_grid_is_through(
    budget: Budget, notes: dict[str, object], state: str, tmp_path: Path
) -> None:
    sample = Sample(tmp_path, sample_study(budget=budget)).run()
    for key, value in notes.items():
        sample.journal.note(key, value)
    assert read(sample.store).state == state


def test_a_study_whose_trials_all_failed_says_so(tmp_path: Path) -> None:
    sample = Sample(tmp_path)
    sample.baseline()
    assert read(sample.store).failed == ""
    for reason in ("too big", "perplexity was nan"):
        sample.journal.fail(sample.hand_out(), reason)
    failed = read(sample.store).failed
    assert failed == "no trial came to a result; the last one: perplexity was nan"
    assert read(Sample(tmp_path / "other").run().store).failed == ""


def test_a_torn_study_file_that_the_journal_does_not_have_either_is_one_message(
    tmp_path: Path,
) -> None:
    sample = Sample(tmp_path).run(upto=1)
    sample.journal.note("toml", "")  # as an older version left it
    for torn in (b'name = "dep', b"\xff\xfe"):
        sample.store.toml.write_bytes(torn)
        with pytest.raises(UserError, match=r"study\.toml cannot be read"):
            read(sample.store)
    sample.close()


def test_what_is_read_is_what_the_driver_has_whoever_wrote_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = Sample(tmp_path).run(upto=4)
    monkeypatch.setattr("search.journal.rows.brief", lambda *_: None)  # an older version
    sample.settle(sample.hand_out((0, 1), 20), {"perplexity": 23.0, "parameters": 131e6})
    sample.hand_out((1, 0), 10)
    wanted = results_of(sample.study, sample.journal.trials(), driving=False)
    found = read(sample.store).results
    assert list(found) == wanted
    assert [dict(one.params) for one in found] == [one.params for one in wanted]
    assert [one.stages for one in found] == [one.stages for one in wanted]
    assert len(found[1].record) == len(wanted[1].record) and len(found[1].params) == 3


def test_what_ends_between_two_looks_is_seen(tmp_path: Path) -> None:
    sample = Sample(tmp_path).run(upto=1)
    reader, number = Reader(sample.store), sample.hand_out((1, 1), 20)
    assert reader.view().results[number].params["wanda.percent"] == 20
    sample.settle(number, {"perplexity": 20.5, "parameters": 120e6})
    after = reader.view().results[number]
    assert after.state == "complete" and after.params["wanda.percent"] == 20 and after.on_front
    reader.close()


def test_choosing_among_many_trials_decodes_the_records_of_the_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = Sample(tmp_path).run()
    decoded, decode = list[str](), json.loads

    def loads(text: str) -> object:
        decoded.append(text)
        return decode(text)

    monkeypatch.setattr(tables.json, "loads", loads)
    view = read(sample.store)
    found = best(view)
    status_json(view)
    records = [text for text in decoded if '"stages"' in text]
    assert records == []
    best_json(view, found)
    assert len([text for text in decoded if '"stages"' in text]) == 1 + len(found.trials) == 3
