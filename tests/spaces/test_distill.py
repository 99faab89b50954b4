"""The space of distillation: students, the stages of a point, and the study on hub models with
local stand-ins: other vocabularies, Cyrillic text."""

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FixedTrial
from pydantic import ValidationError
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from search.study.load import load_study, parse_study, study_toml
from search.study.space import load_space
from spaces.distill import DistillSpace
from tests.support.benches import tiny_bench
from tests.support.cyrillic import NAMES, save_student, save_teacher, texts
from tests.support.families import build
from tests.support.toys import jsonl
from trainables.bench.models.save import save
from trainables.bench.survey import gather
from trainables.core.errors import PlanError, UserError
from trainables.core.spec import ItemCounts, ModelSpec, TextsSpec, TrainSpec
from trainables.distill import Distill
from trainables.omission.method import Omission
from trainables.recover import Recover
from trainables.similarity.method import Similarity
from trainables.stage import Facts, Stage, drain
from trainables.trial import open_bench, run_stages

STUDIES = Path(__file__).parents[2] / "spaces" / "studies"
FACTS = Facts(blocks=6, stacks=(6,), survey={"influence": [0.5, 0.1, 0.2, 0.9, 0.3, 0.8]})
POINT = {"temperature": 4, "alpha": 70, "lr": 1e-4, "epochs": 2}


def stages(space: DistillSpace, facts: Facts = FACTS, **more: Any) -> list[Stage]:
    params = {f"distill.{name}": value for name, value in {**POINT, **more}.items()}
    return space.stages(FixedTrial(params), facts)


@pytest.mark.parametrize(
    ("name", "cut"),
    [
        ("every:2", Omission((1, 3, 5))),
        ("every:3", Omission((1, 2, 4, 5))),
        ("blocks:0,5", Omission((1, 2, 3, 4))),
        ("influence:4", Omission((1, 2))),
        ("similarity:95", Similarity(95.0)),
    ],
)
def test_a_student_is_cut_from_the_studys_model(name: str, cut: Stage) -> None:
    space = DistillSpace(students=(name,), training=TrainSpec(batch_size=16))
    training = Recover(TrainSpec(batch_size=16, lr=1e-4, epochs=2))
    taught = Distill(temperature=4.0, alpha=0.7, recover=training)
    assert stages(space) == [cut, taught]


def test_every_so_many_of_each_stack() -> None:
    facts = Facts(blocks=7, stacks=(3, 4), fixed=(0, 3))
    assert stages(DistillSpace(students=("every:2",)), facts)[0] == Omission((1, 4, 6))
    assert stages(DistillSpace(students=("blocks:2",)), facts)[0] == Omission((1, 4, 5, 6))


def test_a_student_may_be_a_model_or_a_fresh_one() -> None:
    sizes = {"hidden_size": 64}
    more = TextsSpec(dataset="more.txt")
    space = DistillSpace(
        students=("a/b", "small"), smaller={"small": sizes}, hidden=(0.0, 1.0), unlabelled=more
    )
    (one,) = stages(space, student="a/b", hidden=1.0)
    assert isinstance(one, Distill)
    assert one.student == ModelSpec(id="a/b") and one.hidden == 1.0 and one.unlabelled == more
    (other,) = stages(space, student="small", hidden=0.0)
    assert isinstance(other, Distill) and other.student is None and other.smaller == sizes


def test_every_student_is_started_with() -> None:
    space = DistillSpace(students=("every:2", "a/b"), temperatures=(2, 6), epochs=(1, 3))
    points = space.starts(FACTS)
    assert [point["distill.student"] for point in points] == ["every:2", "a/b"]
    for point in points:
        assert len(space.stages(FixedTrial(point), FACTS)) >= 1
        assert (point["distill.temperature"], point["distill.epochs"]) == (4, 3)


@pytest.mark.parametrize("name", ["every:1", "every", "blocks:", "influence:0", "similarity:x"])
def test_what_is_no_student_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match='such as "every:2"'):
        DistillSpace(students=(name,))


def test_students_that_cannot_be_are_refused_with_the_baseline(tmp_path: Path) -> None:
    bench = tiny_bench(tmp_path, build("bert"))
    before = bench.subject
    for name, said in (
        ("blocks:1,4", "blocks from 0 to 3"),
        ("influence:4", "fewer blocks than 4"),
    ):
        with pytest.raises(PlanError, match=said):
            DistillSpace(students=("every:2", name)).survey(bench)
    with pytest.raises(UserError, match="one model"):
        DistillSpace(students=("every:9", "similarity:100")).survey(bench)
    found = DistillSpace(students=("every:2", "influence:2"), attention=(0.0, 1.0)).survey(bench)
    assert bench.subject is before and len(found["influence"]) == 4
    with pytest.raises(ValidationError, match="the least, then the most"):
        DistillSpace(temperatures=(4, 2))


def test_the_offline_study_starts_with_each_of_its_students() -> None:
    study = load_study(STUDIES / "distill-minilm.toml", {})
    space, points = load_space(study.space), []
    for point in space.starts(FACTS):
        points.append(point["distill.student"])
        *cuts, taught = space.stages(FixedTrial(point), FACTS)
        assert isinstance(taught, Distill) and taught.student is None
        assert bool(cuts) != bool(taught.smaller)
    assert points == study.space.options["students"]


# -- the study on hub models, with stand-ins -------------------------------------------------------


def test_rubert_and_its_student_by_stand_ins(tmp_path: Path) -> None:
    """Another vocabulary, Cyrillic text, labels sorted: from the study file to an export."""
    study = load_study(STUDIES / "distill-rubert-tiny2.toml", {})
    assert study.model.id == "DeepPavlov/rubert-base-cased"
    assert study.space.options["students"] == ["cointegrated/rubert-tiny2"]
    student = save_student(tmp_path / "tiny2")
    training = TrainSpec(epochs=6, lr=1e-2, batch_size=8)
    model = ModelSpec(id=save_teacher(tmp_path / "rubert"), train=training)
    few = ItemCounts(calibration=8, train=24, search=16, held_out=8)
    rows = jsonl(tmp_path / "rows.jsonl", texts(80))
    changed = {"dataset": rows, "subset": None, "splits": {}, "columns": {}, "rows": None}
    data = study.data.model_copy(update={**changed, "items": few, "max_length": 160})
    options = {**study.space.options, "students": [student]}
    space_spec = study.space.model_copy(update={"options": options})
    study = study.model_copy(
        update={
            "model": model,
            "data": data,
            "space": space_spec,
            "resources": type(study.resources)(),
        }
    )
    space = load_space(study.space)
    bench = open_bench(study.bench_spec(tmp_path / "cache"))
    facts = gather(bench.fork(), space)
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1)).ask()
    chain = space.stages(trial, facts)
    record = drain(run_stages(bench, chain))
    assert record["metrics"]["bytes"] < 4 * facts.parameters
    assert record["shape"]["parameters"] < facts.parameters
    (tmp_path / "out").mkdir()
    save(bench.model, bench.processor, "classification", tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    exported = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert len(tokenizer) == 259 and exported.config.num_hidden_layers == 1
    assert set(exported.config.id2label.values()) == set(NAMES)
    assert (
        tokenizer("город")["input_ids"]
        == AutoTokenizer.from_pretrained(student)("город")["input_ids"]
    )


def test_local_students_are_found_wherever_a_worker_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_student(tmp_path / "models" / "small")
    jsonl(tmp_path / "more.jsonl", [{"text": "город"}])
    jsonl(tmp_path / "rows.jsonl", texts(4))
    monkeypatch.chdir(tmp_path)
    text = """
    name = "local"
    [space]
    name = "distill"
    students = ["./models/small", "models/small", "every:2", "a/b"]
    unlabelled = { dataset = "more.jsonl" }
    [model]
    id = "x/y"
    [data]
    dataset = "rows.jsonl"
    task = "classification"
    [objectives]
    accuracy = "max"
    [budget]
    trials = 1
    """
    study = parse_study(text, "local.toml")
    small = str(tmp_path / "models" / "small")
    assert study.space.options["students"] == [small, small, "every:2", "a/b"]
    assert study.space.options["unlabelled"] == {"dataset": str(tmp_path / "more.jsonl")}
    monkeypatch.chdir(tmp_path.parent)
    assert parse_study(study_toml(study), "again").space == study.space
