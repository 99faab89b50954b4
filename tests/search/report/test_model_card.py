"""The card of an export names every model that had a part in it."""

from search.journal.results import Step
from search.report.model_card import _head, _licence


def test_a_stage_says_which_models_had_a_part_in_it() -> None:
    record = {"stage": "Distill", "settings": {}, "effects": [{}], "counts": {}}
    assert Step.read(record).models == ()
    told = {**record, "details": {"models": ["a/teacher", "b/student"]}}
    assert Step.read(told).models == ("a/teacher", "b/student")


def test_all_of_them_are_base_models_and_licences_to_look_up() -> None:
    assert _head(["a/teacher"], None).startswith("base_model: a/teacher\n")
    assert _head(["a/teacher", "b/student"], None).startswith(
        "base_model: [a/teacher, b/student]\n"
    )
    assert _head(["/local/teacher", "b/student"], None).startswith("base_model: b/student\n")
    known, said = _licence("b/student", "a model that had a part in it")
    assert known is None and said.startswith("That of a model that had a part in it, `b/student`")
