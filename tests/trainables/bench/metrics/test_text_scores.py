"""METEOR with punctuation and without; the other scores are tried through the metrics."""

from trainables.bench.metrics import text_scores


def test_meteor_counts_punctuation_only_where_it_is_asked_to() -> None:
    said, wanted = ["well, it sat."], ["well it sat"]
    assert text_scores.meteor(said, wanted).total() == text_scores.meteor(wanted, wanted).total()
    assert (
        text_scores.meteor_punctuation(said, wanted).total()
        < text_scores.meteor(said, wanted).total()
    )
    assert (
        text_scores.meteor_punctuation(wanted, wanted).total()
        == text_scores.meteor(wanted, wanted).total()
    )


def test_tokens_are_those_of_the_usual_evaluators() -> None:
    found = text_scores.tokens("Well, it's late. So it is! (Dr. No)")
    first = ["Well", ",", "it", "'s", "late", ".", "So", "it", "is", "!", "(", "Dr", ".", "No", ")"]
    assert found == first
