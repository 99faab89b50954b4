"""Distillation as a stage: what stands in the trial's place afterwards, what is shared, resumed."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

from tests.support import families
from tests.support.benches import TinyData, do, reading_of, tiny_bench
from tests.support.cyrillic import GOOD, NAMES, save_classifier, save_student, spec_of
from tests.support.planted import tiny
from tests.support.same import same_tensors
from tests.support.toys import jsonl
from trainables.bench.bench import Bench
from trainables.bench.models.batches import ready
from trainables.bench.models.save import save
from trainables.bench.models.structure import blocks, linears
from trainables.bench.models.verify import logits
from trainables.core.spec import ModelSpec, TextsSpec
from trainables.distill import Distill, lesson, teacher
from trainables.distill.losses import kd_loss
from trainables.magnitude import Magnitude
from trainables.omission.method import Omission
from trainables.recover import Recover
from trainables.similarity.method import Similarity
from trainables.stage import Stage, drain
from trainables.trial import open_bench, run_stages
from trainables.wanda import Wanda

FAST = Recover(epochs=2, lr=2e-3, batch_size=8)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A trained teacher of words; the folder `student` holds one of bytes, `other` one with the
    same classes in another order."""
    folder = tmp_path_factory.mktemp("cyrillic")
    save_student(folder / "student")
    save_classifier(folder / "other", ("ПЛЮС", "Минус"))
    return open_bench(spec_of(folder))


def place(bench: Bench, name: str) -> ModelSpec:
    return ModelSpec(id=str(Path(bench.spec.cache).parent / name))


def fresh(bench: Bench, folder: Path, *, naive: bool = False) -> Bench:
    """A fork whose cache is empty."""
    spec = bench.spec.model_copy(update={"cache": str(folder), "naive": naive})
    cache = type(bench.cache)(folder)
    return replace(bench, spec=spec, cache=cache)


# -- another student -------------------------------------------------------------------------------


def test_the_student_stands_in_the_teachers_place(opened: Bench, tmp_path: Path) -> None:
    bench = opened.fork()
    before = bench.base.reading
    record = drain(run_stages(bench, [Distill(place(opened, "student"), recover=FAST)]))
    assert bench.model.config.hidden_size == 16
    assert len(bench.processor) == 259 != len(before.processor)
    mine, theirs = (rows.batches("search")[0] for rows in (bench.data, before.data))
    assert mine["input_ids"].shape[1] > theirs["input_ids"].shape[1], "bytes, not words"
    assert [i.text for i in bench.data.items("search")] == [
        i.text for i in before.data.items("search")
    ]
    assert bench.subject.lineage.base != opened.base.lineage.base
    assert len(bench.subject.lineage.steps) == 1
    assert record["lineage"] == bench.subject.lineage.key
    assert record["base"] == opened.base.lineage.base
    assert record["data"]["search"] == before.data.fingerprint("search"), "the study's rows"
    assert record["shape"]["parameters"] < 30_000
    save(bench.model, bench.processor, "classification", tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    text = bench.data.items("held_out")[0].text
    assert tokenizer(text)["input_ids"] == bench.processor(text)["input_ids"]
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    batch = bench.data.batches("held_out")[0]
    assert torch.equal(logits(again, batch), logits(bench.model, batch))
    assert set(again.config.id2label.values()) == set(NAMES)


def test_what_follows_works_on_the_student(opened: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench, seen = opened.fork(), []
    calibrate = Wanda.calibrate.__func__  # type: ignore[attr-defined]

    def spy(cls: Any, model: PreTrainedModel, batches: Any) -> Any:
        found = list(batches)
        seen.append((model.config.hidden_size, found[0]["input_ids"].shape))
        return calibrate(cls, model, found)

    monkeypatch.setattr(Wanda, "calibrate", classmethod(spy))
    chain = [
        Distill(place(opened, "student"), recover=FAST),
        Wanda(0.5),
        Recover(epochs=1, freeze="part", batch_size=8),
        Magnitude(0.75),
    ]
    do(bench, *chain)
    assert seen == [(16, bench.data.batches("calibration")[0]["input_ids"].shape)]
    assert len(bench.subject.lineage.steps) == 4
    zeros = sum(int((layer.weight == 0).sum()) for layer in linears(bench.model).values())
    assert zeros == 0.75 * sum(layer.weight.numel() for layer in linears(bench.model).values())
    assert bench.measure(["accuracy"]).values["accuracy"] > 0


def test_classes_are_matched_by_their_names(opened: Bench) -> None:
    """The student has them in the opposite order, and keeps it."""
    bench = opened.fork()
    stage = Distill(
        place(opened, "other"), alpha=1.0, recover=Recover(epochs=24, lr=1e-2, batch_size=8)
    )
    pair = stage.check(bench)
    assert bench.data.labels == NAMES and pair.student.reading.data.labels == ("ПЛЮС", "Минус")
    assert pair.order == (1, 0)
    do(bench, stage)
    assert bench.model.config.id2label == {0: "ПЛЮС", 1: "Минус"}
    assert set(zip(named(opened.fork()), named(bench), strict=True)) == {
        ("минус", "минус"),
        ("плюс", "плюс"),
    }


def named(bench: Bench) -> list[str]:
    """What the model calls the rows that it was trained on."""
    batches = [ready(bench.model, batch) for batch in bench.data.batches("train")]
    with torch.no_grad():
        found = [n for batch in batches for n in bench.model(**batch).logits.argmax(1).tolist()]
    return [bench.model.config.id2label[number].lower() for number in found]


def test_the_loss_is_that_of_both_models_logits(opened: Bench) -> None:
    bench = opened.fork()
    stage = Distill(place(opened, "other"), temperature=3.0, alpha=0.7, recover=FAST)
    pair = stage.check(bench)
    taught = lesson.Lesson(bench, pair, stage._weights(), None)
    bench.subject = pair.student
    recipe = taught.recipe(FAST._recipe(bench, []))
    mine, theirs = pair.student.model, pair.teacher.model
    for batch in recipe.batches(5):
        rows = batch["row"].tolist()
        with torch.no_grad():
            loss = float(recipe.loss(mine, batch))
            texts = [bench.data.items("train")[row].text for row in rows]
            words = opened.processor(texts, padding=True, return_tensors="pt")
            said = theirs(**words).logits[:, [1, 0]]
            shown = {k: v for k, v in batch.items() if k not in ("row", "labels")}
            wanted = kd_loss(mine(**shown).logits, said, batch["labels"], 3.0, 0.7)
        assert loss == pytest.approx(float(wanted), rel=1e-4)
        assert [bench.data.items("train")[row].label for row in rows] == batch["labels"].tolist()


def test_a_fresh_student_of_other_sizes_reads_as_the_teacher(opened: Bench) -> None:
    bench = opened.fork()
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    do(bench, Distill(smaller=sizes, recover=FAST))
    assert bench.model.config.hidden_size == 16 and len(blocks(bench.model)) == 1
    assert bench.processor is opened.processor
    assert bench.subject.lineage.base != opened.base.lineage.base
    again = opened.fork()
    assert do(again, Distill(smaller=sizes, recover=FAST))[0].counts["epochs_run"] == 0
    assert same_tensors(bench.model, again.model)
    assert bench.model.config.id2label == opened.model.config.id2label


# -- shared, and equal to naive --------------------------------------------------------------------


def test_the_teacher_is_asked_once_for_all_trials(
    opened: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, logits = [], teacher._logits
    monkeypatch.setattr(teacher, "_logits", lambda *a: asked.append(1) or logits(*a))
    shared = fresh(opened, tmp_path / "shared")
    for heat in (1.0, 4.0):
        do(shared.fork(), Distill(place(opened, "student"), temperature=heat, recover=FAST))
    do(shared.fork(), Distill(place(opened, "other"), recover=FAST))
    assert len(asked) == 1
    naive, one = fresh(opened, tmp_path / "naive", naive=True), shared.fork()
    stage = Distill(place(opened, "student"), temperature=4.0, recover=FAST)
    assert do(one, stage)[0].counts["epochs_run"] == 0
    assert do(naive, stage)[0].counts["epochs_run"] == 2
    assert len(asked) == 2
    assert same_tensors(one.model, naive.model)
    assert one.subject.lineage == naive.subject.lineage


def test_other_settings_are_another_lineage(opened: Bench) -> None:
    stage = Distill(place(opened, "student"), recover=FAST)
    others = [
        {"temperature": 3.0},
        {"alpha": 0.1},
        {"hidden": 1.0},
        {"student": place(opened, "other")},
    ]
    found = []
    for one in (stage, *(replace(stage, **changed) for changed in others)):
        bench = opened.fork()
        do(bench, one)
        found.append(bench.subject.lineage.key)
    assert len(set(found)) == 5


@pytest.mark.parametrize("losses", [{}, {"hidden": 1.0}, {"hidden": 0.5, "attention": 1.0}])
def test_an_interrupted_distillation_goes_on(losses: dict[str, float], tmp_path: Path) -> None:
    model = tiny("bert", depth=2)
    stage = Distill(**losses, recover=Recover(epochs=3, lr=1e-3, batch_size=8))
    found = []
    for folder, cut in (("whole", False), ("cut", True)):
        for _ in range(1 + cut):
            bench = tiny_bench(tmp_path / folder, model)
            do(bench, Omission(skip=(0,)))
            running = stage.on(bench)
            if cut and not found[1:]:
                told = next(running)
                running.close()
                found.append(told)
                continue
            summary = drain(running)
        found.append(bench.model)
        assert summary.counts["epochs"] == 3
    assert same_tensors(found[0], found[-1])


# -- what earlier stages left ----------------------------------------------------------------------

TAUGHT = ["bert", "roberta", "distilbert", "vit", "resnet", "t5"]


@pytest.mark.parametrize("name", TAUGHT)
def test_every_family_is_taught_by_its_untouched_self(name: str, tmp_path: Path) -> None:
    bench = tiny_bench(tmp_path, tiny(name, depth=3))
    cut = Similarity(0.0) if name == "resnet" else Omission(skip=(1,))
    stage = Distill(alpha=1.0, recover=Recover(epochs=6, lr=2e-3, batch_size=8))
    do(bench, cut)
    kept = len(blocks(bench.model))
    losses = [step["train_loss"] for step in stage.on(bench)]
    assert losses[-1] < losses[0] and len(blocks(bench.model)) == kept
    base = bench.base.model.state_dict()
    assert all(torch.equal(v, base[k]) for k, v in tiny(name, depth=3).state_dict().items())


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3_text"])
def test_decoders_are_taught_token_by_token(name: str, tmp_path: Path) -> None:
    bench = decoder_bench(tmp_path, name)
    do(bench, Omission(skip=(1,)), Wanda(0.5))
    dense = {n: layer.weight == 0 for n, layer in linears(bench.model).items()}
    stage = Distill(alpha=0.5, recover=Recover(epochs=3, lr=2e-3, batch_size=4))
    taught = lesson.Lesson(bench, stage.check(bench), stage._weights(), None)
    recipe = taught.recipe(stage.recover._recipe(bench, []))
    batch = next(iter(recipe.batches(0)))
    with torch.no_grad():
        given = {k: v for k, v in batch.items() if k not in ("row", "labels")}
        wanted = [(m(**given).logits[:, :-1]) for m in (bench.model, bench.base.model)]
        kept = batch["labels"][:, 1:] != -100
        rows = [logits[kept] for logits in wanted]
        loss = kd_loss(rows[0], rows[1], batch["labels"][:, 1:][kept], 2.0, 0.5)
        assert float(recipe.loss(bench.model, batch)) == pytest.approx(float(loss), rel=1e-4)
    losses = [step["train_loss"] for step in stage.on(bench)]
    assert losses[-1] < losses[0]
    assert all(
        torch.equal(layer.weight == 0, dense[n]) for n, layer in linears(bench.model).items()
    )


def test_logits_that_would_fill_the_disk_are_asked_for_anew(tmp_path: Path) -> None:
    found = []
    for limit in (20.0, 1e-6):
        bench = decoder_bench(tmp_path / str(limit), "llama")
        bench.cache.limit = int(limit * 1e9)
        do(bench, Omission(skip=(1,)))
        found.append([s["train_loss"] for s in Distill(recover=FAST).on(bench)])
        kept = list((tmp_path / str(limit) / "teacher").glob("*.safetensors"))
        assert len(kept) == (limit == 20.0)
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def decoder_bench(folder: Path, name: str) -> Bench:
    model = families.build(name)
    bench = tiny_bench(folder, model)
    made = {
        role: [
            {**b, "labels": b["input_ids"].masked_fill(b["attention_mask"] == 0, -100)}
            for b in families.batches(name)
        ]
        for role in ("calibration", "train", "search")
    }
    data = bench.spec.data.model_copy(update={"task": "language-modelling"})
    bench = reading_of(bench, TinyData(model, "language-modelling", made=made))
    return replace(bench, spec=bench.spec.model_copy(update={"data": data}))


def test_half_precision_and_ties_stay(tmp_path: Path) -> None:
    bench = tiny_bench(tmp_path, tiny("t5", depth=2).to(torch.bfloat16))
    do(bench, Omission(skip=(1,)), Distill(recover=Recover(epochs=1, batch_size=8)))
    assert {p.dtype for p in bench.model.parameters()} == {torch.bfloat16}
    assert bench.model.shared.weight is bench.model.encoder.embed_tokens.weight


# -- hidden states, attention ----------------------------------------------------------------------


def test_states_are_learned_too_and_the_model_is_left_as_it_was(tmp_path: Path) -> None:
    bench = tiny_bench(tmp_path, tiny("bert", depth=4))
    do(bench, Omission(skip=(0, 2)))
    names, before = set(bench.model.state_dict()), bench.model.config._attn_implementation
    stage = Distill(hidden=1.0, attention=1.0, recover=Recover(epochs=4, lr=1e-3, batch_size=8))
    assert stage.check(bench).layers == (1, 3)
    (summary,) = do(bench, stage)
    assert summary.details["layers"] == [1, 3]
    assert set(bench.model.state_dict()) == names
    assert bench.model.config._attn_implementation == before
    assert bench.base.model.config._attn_implementation == before
    plain = tiny_bench(tmp_path, tiny("bert", depth=4))
    do(plain, Omission(skip=(0, 2)), Distill(recover=Recover(epochs=4, lr=1e-3, batch_size=8)))
    assert not same_tensors(plain.model, bench.model)


def test_states_of_other_tokens_are_compared_by_their_mean(opened: Bench) -> None:
    bench = opened.fork()
    student = place(opened, "student")
    losses = [
        step["train_loss"]
        for step in Distill(student, hidden=1.0, recover=replace(FAST, training=FAST.training)).on(
            bench
        )
    ]
    assert losses[1] < losses[0]
    assert not Distill(student).check(opened.fork()).alike


# -- texts without a label -------------------------------------------------------------------------


def test_texts_that_nobody_labelled_are_learned_from(opened: Bench, tmp_path: Path) -> None:
    bench = opened.fork()
    rows = [{"text": f"{word} вечер {n}"} for n in range(4) for word in GOOD]
    known = [item.text for role in ("held_out", "train") for item in bench.data.items(role)]
    file = jsonl(tmp_path / "more.jsonl", [*rows, *({"text": f" {t.upper()} "} for t in known)])
    stage = Distill(place(opened, "student"), unlabelled=TextsSpec(dataset=file), recover=FAST)
    taught = lesson.Lesson(bench, stage.check(bench), stage._weights(), stage.unlabelled)
    assert sorted(taught.texts) == sorted(row["text"] for row in rows), "none of the roles'"
    (summary,) = do(bench, stage)
    assert summary.counts["unlabelled"] == 20
    alone = opened.fork()
    do(alone, replace(stage, unlabelled=None))
    assert not same_tensors(alone.model, bench.model)
    few = replace(stage, unlabelled=TextsSpec(dataset=file, rows=5))
    assert do(opened.fork(), few)[0].counts["unlabelled"] == 5


def test_a_stage_comes_back_from_plain_data(opened: Bench) -> None:
    stage = Distill(
        "cointegrated/rubert-tiny2",  # type: ignore[arg-type]
        temperature=4.0,
        unlabelled={"dataset": "texts.txt"},  # type: ignore[arg-type]
        recover=FAST,
    )
    again = Stage.from_dict(json.loads(json.dumps(stage.to_dict())))
    assert again == stage and stage.student == ModelSpec(id="cointegrated/rubert-tiny2")
    told = stage.settings()
    assert (told["student"], told["unlabelled"], told["epochs"]) == (
        "cointegrated/rubert-tiny2",
        "texts.txt",
        2,
    )
    fresh = Distill(smaller={"hidden_size": 16}, recover=FAST)
    assert Stage.from_dict(json.loads(json.dumps(fresh.to_dict()))) == fresh
