"""What items scored: numbers by hand, sacrebleu and scikit-learn beside ours, the file."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainables.bench.metrics import text_scores
from trainables.core.errors import MetricError
from trainables.core.scores import (
    ItemScores,
    Scores,
    from_text,
    mean_of,
    read_scores,
    unpack,
)


def test_numbers_by_hand() -> None:
    assert mean_of([True, False, True, True]).total() == 0.75
    columns = {"value": np.array([2.0, 4.0]), "weight": np.array([1, 5])}
    assert ItemScores("ratio", columns).total() == 1.0
    assert ItemScores("exp-ratio", columns).total() == np.exp(1.0)
    classes = {"predicted": np.array([0, 0, 1, 7]), "wanted": np.array([0, 1, 1, 1])}
    assert ItemScores("macro-f1", classes).total() == (2 / 3 + 1 / 2 + 0) / 3


def test_the_order_of_items_changes_no_bit() -> None:
    values = np.random.default_rng(0).lognormal(0, 5, 999)
    mixed = np.random.default_rng(1).permutation(999)
    one = mean_of(values)
    assert one.total() == one.take(mixed).total()
    assert len(one.take([3, 5])) == 2


def test_macro_f1_is_scikit_learns() -> None:
    from sklearn.metrics import f1_score

    draw = np.random.default_rng(0)
    predicted, wanted = draw.integers(0, 5, 60), draw.integers(1, 6, 60)
    found = ItemScores("macro-f1", {"predicted": predicted, "wanted": wanted}).total()
    assert found == pytest.approx(f1_score(wanted, predicted, average="macro"), abs=1e-12)


@pytest.mark.parametrize("words", [1, 3, 9])
def test_bleu_is_sacrebleus(words: int) -> None:
    import sacrebleu

    draw = random.Random(words)
    texts, wanted = (
        [" ".join(draw.choices("abcd.", k=draw.randint(0, words))) for _ in range(20)]
        for _ in range(2)
    )
    for some in (texts, wanted, ["", ""]):
        found = text_scores.bleu(some, wanted[: len(some)]).total()
        whole = sacrebleu.corpus_bleu(some, [wanted[: len(some)]]).score
        assert found == pytest.approx(whole, rel=1e-12)


def test_a_file_gives_back_every_bit(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=50)
    columns = {"value": values, "weight": np.arange(50)}
    found = Scores("mark", {"my:own/one": mean_of(values), "loss": ItemScores("ratio", columns)})
    path = tmp_path / "one.npz"
    path.write_bytes(found.pack())
    for read in (read_scores(path), from_text(found.text())):
        assert read is not None and read.fingerprint == "mark"
        assert sorted(read) == ["loss", "my:own/one"]
        assert {name: read[name].total() for name in read} == {
            name: found[name].total() for name in found
        }
    assert found.pack() == found.pack()
    assert read_scores(tmp_path / "none.npz") is None
    with pytest.raises(MetricError, match="no such metric"):
        found["accuracy"]


@pytest.mark.parametrize("data", [b"", b"text", Scores("a", {"b": mean_of([1.0])}).pack()[:-30]])
def test_a_torn_file_is_told(data: bytes) -> None:
    with pytest.raises(MetricError, match="not a file"):
        unpack(data)


@pytest.mark.parametrize("given", [("median", {"value": [1]}), ("ratio", {"value": [1]})])
def test_columns_fit_their_rule(given: Any) -> None:
    with pytest.raises(MetricError, match="scores of items"):
        ItemScores(*given)
