"""Weight clustering against scikit-learn's k-means, and what chains and training make of it."""

import warnings
from pathlib import Path

import pytest
import torch
from sklearn.cluster import KMeans
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel

from tests.support.benches import do, tiny_bench
from tests.support.families import COMMON, batches, build
from trainables.bench.metrics.cost import count_nonzero, saved_bytes
from trainables.bench.models.packed.weights import codes_of, noted_codes
from trainables.bench.models.structure import linears, rows
from trainables.codebook import Codebook, Start, TuneCodebook, cluster, k_means, starts
from trainables.core.errors import PlanError
from trainables.core.fork import fork
from trainables.stage import check_order
from trainables.wanda import Wanda


def spread(kind: str) -> Tensor:
    """Values in one group, with tails or without, some of them twice."""
    if kind == "heavy tails":
        return torch.distributions.StudentT(3.0).sample((1, 4000))
    values = torch.randn(1, 4000)
    if kind == "bfloat16":
        return values.bfloat16()
    return values.round(decimals=2) if kind == "twice" else values


@pytest.mark.parametrize(
    ("kind", "start"),
    [
        ("normal", "linear"),
        ("normal", "k-means++"),
        ("heavy tails", "linear"),
        ("heavy tails", "k-means++"),
        ("twice", "linear"),
        ("twice", "k-means++"),
        ("bfloat16", "linear"),
    ],
)
@pytest.mark.parametrize("bits", [2, 4, 6])
def test_inertia_is_that_of_scikit_learn_from_the_same_start(
    kind: str, start: Start, bits: int
) -> None:
    values = spread(kind)
    order = values.double().sort(1).values
    counted = torch.ones_like(order, dtype=torch.bool)
    begin = starts(order, counted, 2**bits, start)
    book = k_means(order, counted, begin)
    ours = float((order[0, :, None] - book[0]).square().amin(1).sum())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of fewer distinct values than clusters
        peer = KMeans(2**bits, init=begin[0, :, None].numpy(), n_init=1, max_iter=300, tol=0)
        theirs = peer.fit(order[0, :, None].numpy()).inertia_
    assert ours <= 1.01 * theirs
    if kind not in (
        "twice",
        "bfloat16",
    ):  # where any of equal values may move into an empty cluster
        assert theirs <= 1.01 * ours


def test_two_clusters_of_five_numbers_by_hand() -> None:
    codes = cluster(torch.tensor([[0.0, 1.0, 2.0, 10.0, 12.0]]), 2)
    assert codes.book.tolist() == [[1.0, 11.0]]
    assert codes.indices.tolist() == [[0, 0, 0, 1, 1]]


def test_an_empty_cluster_takes_the_value_that_is_farthest_off() -> None:
    """Of the even start -1, 4.5, 10 nothing is near 4.5; from there 2 is farthest from its own."""
    codes = cluster(torch.tensor([[-1.0, -1.0, -1.0, 0.5, 10.0, 10.0]]), 3)
    assert codes.book.tolist() == [[-1.0, 0.5, 10.0]]


def test_groups_of_rows_have_books_of_their_own() -> None:
    values = torch.cat([torch.randn(2, 50), torch.randn(2, 50) * 10]).view(2, 100)
    both = cluster(values, 4)
    for index in range(2):
        alone = cluster(values[index : index + 1], 4)
        assert torch.equal(both.book[index : index + 1], alone.book)
        assert torch.equal(both.indices[index : index + 1], alone.indices)


@pytest.mark.parametrize("start", ["linear", "k-means++"])
def test_zeros_stay_and_take_one_code(start: Start) -> None:
    values = torch.randn(2, 300)
    values[:, ::3] = 0
    codes = cluster(values, 8, start, zeros=True)
    assert codes.zero and codes.book.shape == (2, 8) and bool((codes.book[:, 0] == 0).all())
    assert torch.equal(codes.numbers() == 0, values == 0)
    none = cluster(values.masked_fill(values == 0, 1.0), 8, start, zeros=True)
    assert not none.zero and none.book.shape == (2, 8)


def test_rows_of_nothing_but_zeros_stay() -> None:
    values = torch.randn(2, 300)
    values[0] = 0
    assert bool((cluster(values, 4, zeros=True).numbers()[0] == 0).all())


def test_draws_depend_on_their_seed() -> None:
    values = torch.randn(1, 500)
    one, two, again = (cluster(values, 16, "k-means++", seed=s).book for s in (1, 2, 1))
    assert torch.equal(one, again) and not torch.equal(one, two)


def test_a_pruned_model_keeps_its_zeros_unless_told_not_to() -> None:
    model = build("bert")
    pruned = fork(model)
    Wanda(0.5).apply(pruned, Wanda.calibrate(model, batches("bert")))
    kept, lost = fork(pruned), fork(pruned)
    Codebook(3).apply(kept, {})
    Codebook(3, zeros=False).apply(lost, {})
    assert count_nonzero(kept) == count_nonzero(pruned) < count_nonzero(lost)
    assert saved_bytes(kept) == saved_bytes(lost) < saved_bytes(pruned)


def test_a_table_tied_to_the_head_stays_tied() -> None:
    own = fork(build("gemma3_text"))
    Codebook(4, embeddings=True).apply(own, {})
    assert own.lm_head.weight is own.get_input_embeddings().weight
    assert len(own.lm_head.weight.unique()) <= 16


def test_a_group_that_does_not_divide_the_rows_is_a_plan_error() -> None:
    with pytest.raises(PlanError, match=r"Codebook\.group: got 7; allowed: 0, or a divisor"):
        Codebook(4, group=7).apply(fork(build("bert")), {})


# -- training --------------------------------------------------------------------------------------


def three_classes() -> PreTrainedModel:
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(**COMMON, num_labels=3)).eval()


def tuned(folder: Path, *, naive: bool = False) -> PreTrainedModel:
    own = tiny_bench(folder, three_classes(), naive=naive).fork()
    do(own, Codebook(2), TuneCodebook(epochs=2, lr=1e-2))
    return own.model


def test_gradients_are_summed_over_all_who_have_a_code() -> None:
    from trainables.codebook import _books

    own = fork(build("bert"))
    Codebook(2).apply(own, {})
    layer = next(iter(linears(own).values()))
    codes = noted_codes(layer)
    assert codes is not None
    factor = torch.randn(layer.weight.shape)
    with _books([layer]):
        (layer.weight * factor).sum().backward()
        book = layer.parametrizations.weight.original
        found = book.grad.clone()
    wanted = torch.stack([factor.flatten()[codes.indices[0] == n].sum() for n in range(4)])
    assert torch.allclose(found[0], wanted, atol=1e-4)


def test_what_was_trained_is_still_a_codebook_and_shared_as_trained(tmp_path: Path) -> None:
    before = fork(three_classes())
    Codebook(2).apply(before, {})
    first, shared = tuned(tmp_path), tuned(tmp_path)
    naive = tuned(tmp_path / "naive", naive=True)
    for name, old in linears(before).items():
        layer, others = linears(first)[name], [linears(one)[name] for one in (shared, naive)]
        for one in (layer, *others):
            codes, noted = codes_of(one, rows(one).detach()), noted_codes(old)
            assert codes is not None and noted is not None
            assert torch.equal(codes.indices, noted.indices)
        assert not torch.equal(layer.weight, old.weight)
        assert all(torch.equal(layer.weight, one.weight) for one in others)


def test_zeros_stay_while_centroids_are_trained(tmp_path: Path) -> None:
    own = tiny_bench(tmp_path, three_classes()).fork()
    do(own, Wanda(0.5), Codebook(3), TuneCodebook(epochs=1, lr=1e-2))
    for layer in linears(own.model).values():
        assert float((layer.weight == 0).double().mean()) >= 0.5


def test_there_must_be_a_codebook_to_train(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="no weight is clustered"):
        do(tiny_bench(tmp_path, build("bert")).fork(), TuneCodebook(epochs=1))


def test_a_tied_table_is_not_trained_by_its_codes(tmp_path: Path) -> None:
    own = tiny_bench(tmp_path, build("gemma3_text")).fork()
    with pytest.raises(PlanError, match="tied to the head"):
        do(own, Codebook(4, embeddings=True), TuneCodebook(epochs=1))


def test_only_its_own_training_may_follow() -> None:
    check_order([Wanda(0.5), Codebook(4), TuneCodebook()])
    with pytest.raises(PlanError, match="Wanda after Codebook, which leaves weights that are code"):
        check_order([Codebook(4), TuneCodebook(), Wanda(0.5)])
