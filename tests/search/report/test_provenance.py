"""What a record says of where it comes from."""

from search.report.provenance import read_as


def test_how_the_data_was_read_is_told_where_there_are_forms_of_it() -> None:
    windows = {"windows": "as published", "columns": {"text": "text"}, "passed over": {}}
    assert read_as({"data_form": windows}) == "text: as published"
    assert read_as({"data_form": {"prompts": "PIQA, as lm-eval asks"}}) == (
        "questions: PIQA, as lm-eval asks"
    )
    assert read_as({}) == read_as({"data_form": {"columns": {}}}) == ""
