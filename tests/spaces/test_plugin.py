"""The spaces over plugged layers and over ILM: what points mean, what is refused, every study with
local stand-ins for what it names."""

import json
from pathlib import Path
from typing import Any

import optuna
import pytest

from search.errors import StudyError
from search.samplers.grid import grid_points
from search.study.load import load_study
from search.study.schema import SpaceSpec
from search.study.space import load_space
from spaces.ilm import ILMSpace
from spaces.plugin import PlugInSpace
from tests.support.plugged import donor, opened
from trainables.bench.bench import Bench
from trainables.core.errors import UserError
from trainables.ilm import ILM
from trainables.plugin import PlugIn
from trainables.stage import Facts, drain
from trainables.trial import run_stages

STUDIES = Path(__file__).parents[2] / "spaces" / "studies"
FACTS = Facts(blocks=2, survey={"layers": {"x/big": 4, "x/other": 6}})
SPACE = PlugInSpace(donors=("x/big",), which=("none", "last", "ilm", "any"), seeds=(1, 2))


def stage(space: Any, **params: Any) -> Any:
    given = {name.replace("__", "."): value for name, value in params.items()}
    (found,) = space.stages(optuna.trial.FixedTrial(given), FACTS)
    return found


def test_a_point_says_which_layer() -> None:
    none = stage(SPACE, plugin__layer="none", plugin__seed=2)
    assert isinstance(none, PlugIn) and none.donor == "" and none.seed == 2
    last, pick = (stage(SPACE, plugin__layer=arm, plugin__seed=1) for arm in ("last", "ilm"))
    assert (last.layer, pick.layer) == (-1, None)
    assert last.choose == pick.choose == ILM("x/big")
    params = {"plugin.layer": "any", "plugin.seed": 1, "plugin.number.big": 3}
    (third,) = SPACE.stages(optuna.trial.FixedTrial(params), FACTS)
    assert isinstance(third, PlugIn) and third.layer == 3


def test_arms_of_one_seed_are_trained_alike() -> None:
    arms = [stage(SPACE, plugin__layer=arm, plugin__seed=2) for arm in ("none", "last", "ilm")]
    assert len({one.training for one in arms}) == 1 and arms[0].training.training.seed == 2


def test_what_the_source_ablates_is_an_arm() -> None:
    space = PlugInSpace(donors=("x/big",), which=("random", "learning", "two"))
    found = {arm: stage(space, plugin__layer=arm) for arm in space.which}
    assert found["random"].random and not found["learning"].frozen
    assert (found["two"].layers, found["two"].layer) == (2, -2)
    assert all(one.choose is None for one in found.values())


def test_a_choice_of_one_is_no_parameter() -> None:
    space = PlugInSpace(
        donors=("x/big", "x/other"), which=("last",), lr=(1e-4, 5e-5), epochs=(1, 3)
    )
    probe = optuna.create_study().ask()
    space.stages(probe, FACTS)
    assert set(probe.params) == {"plugin.layer", "plugin.donor", "recover.lr", "recover.epochs"}


def test_every_arm_comes_first_and_seed_by_seed() -> None:
    points = SPACE.starts(FACTS)
    assert [(p["plugin.layer"], p["plugin.seed"]) for p in points] == [
        *(("none", 1), ("last", 1), ("ilm", 1), ("none", 2), ("last", 2), ("ilm", 2))
    ]
    for point in points:
        stage(SPACE, **{name.replace(".", "__"): value for name, value in point.items()})


def test_a_grid_has_every_layer_once() -> None:
    space = PlugInSpace(donors=("x/big",), which=("none", "any"))
    points = grid_points(lambda trial: space.stages(trial, FACTS))
    assert len(points) == 1 + 4


def test_a_selection_file_is_taken_instead_of_looking(tmp_path: Path) -> None:
    told = {"task": "classification", "dataset": "cola", "slm_type": "bert", "llm_type": "big"}
    told |= {"n_samples": 400, "n_pcs": 16, "top_pc": 5, "seed": 2023}  # type: ignore[dict-item]
    file = tmp_path / "selection.json"
    file.write_text(json.dumps(told | {"effects": [0.1, 0.2, 0.0], "best_llm_layer": 1}))
    space = PlugInSpace(donors=("x/big",), which=("ilm",), selection=str(file))
    found = stage(space, plugin__layer="ilm")
    assert (found.layer, found.choose) == (1, None)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"donors": ["x"], "which": ["nonsense"]}, "which"),
        ({"donors": []}, "donors"),
        ({"donors": ["a/x", "b/x"]}, "donors"),
        ({"donors": ["x"], "top_pc": 20}, "top_pc"),
        ({"donors": ["x"], "selection": "nowhere.json"}, "nowhere.json"),
        ({}, "donors"),
    ],
)
def test_ranges_that_make_no_sense_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        load_space(SpaceSpec(name="plugin", options=options))


# -- ILM -------------------------------------------------------------------------------------------


def test_top_pc_goes_up_to_n_pcs() -> None:
    space = ILMSpace(donor="x/big", n_pcs=(4, 16))
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(30):
        probe = study.ask()
        (found,) = space.stages(probe, FACTS)
        assert isinstance(found, PlugIn) and found.choose is not None
        assert 1 <= found.choose.top_pc <= found.choose.n_pcs
        assert set(probe.params) == {"ilm.n_pcs", f"ilm.top_pc.of_{found.choose.n_pcs}"}


def test_the_published_setting_comes_first() -> None:
    space = ILMSpace(donor="x/big", n_samples=(400, 100), lambdas=(0.0, 1.0), fine_tune=False)
    (point,) = space.starts(FACTS)
    (found,) = space.stages(optuna.trial.FixedTrial(point), FACTS)
    assert found == ILM("x/big")
    (strong,) = space.stages(optuna.trial.FixedTrial(point | {"ilm.lambda": 1.0}), FACTS)
    assert isinstance(strong, ILM) and strong.lambdas == (1.0,)


# -- studies ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plugin")
    donor(folder / "donor")
    return folder


@pytest.fixture(scope="module")
def bench(place: Path) -> Bench:
    return opened(place, objectives=("accuracy", "macro_f1", "parameters"))


NAMES = sorted(p.stem for pattern in ("plugin-*", "ilm-*") for p in STUDIES.glob(f"{pattern}.toml"))


@pytest.mark.parametrize("name", NAMES)
def test_a_study_runs_with_local_stand_ins(name: str, place: Path, bench: Bench) -> None:
    """The file's own ranges, on a tiny donor, encoder and rows: all of its first points."""
    study = load_study(STUDIES / f"{name}.toml", {})
    assert set(study.objectives) <= {"accuracy", "macro_f1", "parameters", "latency_ms"}
    options = dict(study.space.options) | {"n_samples": 40, "max_length": 16}
    options["recover"] = {**options["recover"], "epochs": 1, "lr": 1e-3}
    if study.space.name == "ilm":
        options |= {"donor": str(place / "donor"), "n_samples": [40, 20]}
    else:
        options |= {"donors": [str(place / "donor")]}
    space = load_space(SpaceSpec(name=study.space.name, options=options))
    facts = Facts(blocks=2, survey=space.survey(bench.fork()))
    seen = []
    for point in space.starts(facts)[:4]:
        stages = space.stages(optuna.trial.FixedTrial(point), facts)
        record = drain(run_stages(bench.fork(), stages))
        seen.append(record["lineage"])
        assert 0 <= record["metrics"]["accuracy"] <= 1
        json.dumps(record)
    if "any" in study.space.options.get("which", ()):
        params = {"plugin.layer": "any", "plugin.number.donor": 2}
        params |= {"plugin.seed": 1} if len(study.space.options.get("seeds", [1])) > 1 else {}
        record = drain(
            run_stages(bench.fork(), space.stages(optuna.trial.FixedTrial(params), facts))
        )
        assert record["stages"][0]["counts"]["layer"] == 2
    if len(space.starts(facts)) > 1:
        assert len(set(seen)) > 1


def test_published_splits_are_the_sources() -> None:
    tests = {"cola": "validation", "imdb": "test", "sst2": "validation", "tweet-offensive": "test"}
    for name, split in tests.items():
        study = load_study(STUDIES / f"plugin-bert-{name}.toml", {})
        assert study.data.splits["held_out"] == split
        wanted = "validation" if name == "tweet-offensive" else "train"
        assert study.data.splits["search"] == wanted
        training = load_space(study.space).recover  # type: ignore[attr-defined]
        assert (training.lr, training.epochs, training.batch_size) == (5e-5, 3, 32)
        assert (training.label_smoothing, training.clip, training.best) == (0.05, 5.0, "accuracy")
        assert study.data.max_length == 100


def test_what_no_trial_could_do_is_refused_with_the_baseline(place: Path, bench: Bench) -> None:
    for space, said in (
        (PlugInSpace(donors=(str(place / "gone"),)), "gone"),
        (PlugInSpace(donors=(str(place / "donor"),), n_samples=4000), "calibration"),
        (ILMSpace(donor=str(place / "donor"), n_samples=(20, 4000)), "calibration"),
    ):
        with pytest.raises(UserError, match=said):
            space.survey(bench.fork())


def test_a_study_that_names_no_donor_is_told() -> None:
    with pytest.raises((StudyError, UserError), match="donor"):
        load_space(SpaceSpec(name="ilm", options={}))
