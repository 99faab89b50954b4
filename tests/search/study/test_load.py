"""Study files that are right: what they read as, and what may change between two launches."""

import importlib
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from optuna import TrialPruned
from optuna.trial import FixedTrial
from ray import cloudpickle

from search.engine import preflight as resources
from search.engine.preflight import check_resources, gpu_count
from search.study.load import (
    compare,
    load_study,
    parse_study,
    storage_overrides,
    study_toml,
)
from search.study.schema import Resources, SpaceSpec
from search.study.space import FunctionSpace, load_space, try_out
from trainables.core.errors import UserError
from trainables.core.places import CHECKOUT
from trainables.stage import Facts
from trainables.wanda import Wanda

SHORT = """
name = "depth"
space = "omission"
[model]
id = "org/model"
[data]
dataset = "org/rows"
task = "language-modelling"
[objectives]
perplexity = "min"
parameters = "min"
[budget]
trials = 40
"""
LONG = """
name = "depth"
seed = 2023
[space]
name = "omission"
max_skip = 4
[model]
id = "asset:smollm2-135m"
dtype = "bfloat16"
[data]
dataset = "asset:bbc-news"
task = "language-modelling"
items = { search = 16 }
[objectives]
perplexity = "min"
parameters = "min"
[constraints]
perplexity = "<= 130% of baseline"
parameters = ["<= 1e8", ">= 10% of baseline"]
[metrics]
toxicity = "my_package.scores:toxicity"
[budget]
trials = 40
hours = 1.5
[sampler]
name = "nsga2"
population_size = 10
[scheduler]
name = "asha"
metric = "perplexity"
grace_period = 2
[resources]
cpus = 2
gpus = 0.5
memory_gb = 8
workers = 4
[storage]
folder = "elsewhere"
database = "postgresql://me@host/name"
cache_gb = 5
[[first]]
"omission.skip" = [20, 21]
[[first]]
"wanda.percent" = 50
"""
OWN = """
from typing import Any
from spaces.space import Space
class Own(Space):
    most: int = 3
    def stages(self, trial: Any, facts: Any) -> Any:
        return ["own", self.most]
"""
TRIAL, FACTS = FixedTrial({}), Facts(blocks=0)
SPACE = (
    OWN
    + """
from typing import Annotated, Any
from pydantic import Field
def space(trial: Any, facts: Any, *, ratio: tuple[float, float] = (0.1, 0.5),
          kinds: list[str] = ["l1"], most: Annotated[int, Field(ge=1)] = 8) -> Any:
    return [ratio, kinds, most]
def survey(bench: Any) -> Any:
    return {"looked": True}
def starts(facts: Any, *, most: int = 8) -> Any:
    return [{"most": most}]
def other(trial: Any, facts: Any) -> Any:
    return "other"
number = 5
"""
)


@pytest.fixture(autouse=True)
def users_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "users_space.py").write_text(SPACE)
    (tmp_path / "users_package").mkdir()
    (tmp_path / "users_package" / "own.py").write_text(OWN)
    (tmp_path / "users_package" / "inner.py").write_text(
        "def space(trial, facts):\n    return 'inner'\n"
    )
    (tmp_path / "torn_space.py").write_text("def space(trial,\n")
    (tmp_path / "broken_space.py").write_text("import no_such_package_anywhere\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    importlib.invalidate_caches()
    yield
    for name in [name for name in sys.modules if name.startswith(("users_", "broken_"))]:
        del sys.modules[name]


def test_short_form() -> None:
    study = parse_study(SHORT, "study.toml")
    assert study.space == SpaceSpec(name="omission")
    assert list(study.objectives) == ["perplexity", "parameters"]
    assert (study.seed, study.sampler.name, study.scheduler.name) == (0, "auto", "none")
    assert (study.resources.cpus, study.resources.gpus) == (1, 0)
    assert study.limits == ()


def test_long_form(tmp_path: Path) -> None:
    study = parse_study(LONG, "study.toml")
    assert study.space.options == {"max_skip": 4}
    assert study.sampler.options == {"population_size": 10}
    assert [limit.text for limit in study.limits] == [
        *("<= 130% of baseline", "<= 1e8", ">= 10% of baseline")
    ]
    assert study.first == ({"omission.skip": [20, 21]}, {"wanda.percent": 50})
    assert study.storage.folder == str(tmp_path / "elsewhere")


@pytest.mark.parametrize("text", [SHORT, LONG])
def test_survives_its_own_file(text: str) -> None:
    study = parse_study(text, "study.toml")
    assert parse_study(study_toml(study), "again") == study


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(SHORT, encoding="utf-8-sig")
    assert load_study(tmp_path / "study.toml").name == "depth"


def test_command_line_overrides(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(SHORT)
    given = {"budget.trials": 3, "budget.hours": None, "resources.cpus": 2}
    study = load_study(tmp_path / "study.toml", {**given, **storage_overrides("sub")})
    assert (study.budget.trials, study.budget.hours) == (3, None)
    assert study.resources.cpus == 2
    assert study.storage.folder == str(tmp_path / "sub")
    assert storage_overrides("postgresql://h/n") == {"storage.database": "postgresql://h/n"}
    assert storage_overrides(None) == {}
    with pytest.raises(UserError, match=r"budget\.\*, resources\.\*, storage\.\*"):
        load_study(tmp_path / "study.toml", {"seed": 3})


def test_what_workers_get(tmp_path: Path) -> None:
    study = parse_study(LONG, "study.toml")
    spec = study.bench_spec(Path("cache"), naive=True)
    assert spec.objectives == ("perplexity", "parameters", "toxicity")
    assert (spec.device, spec.threads, spec.seed, spec.naive) == ("cuda", 2, 2023, True)
    assert spec.cache == str(tmp_path / "cache")
    assert spec.metrics == {"toxicity": "my_package.scores:toxicity"}
    assert parse_study(SHORT, "").bench_spec(Path("cache")).device == "cpu"
    for gpus, cards in ((0.5, 1), (1, 1), (2, 2)):
        asked = study.model_copy(update={"resources": Resources(gpus=gpus)})
        assert asked.bench_spec(Path("cache")).cards == cards


def test_local_paths_become_absolute(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").touch()
    (tmp_path / "rows.csv").touch()
    text = SHORT.replace("org/model", "./model").replace("org/rows", "rows.csv")
    study = parse_study(text, "study.toml")
    assert study.model.id == str(tmp_path / "model")
    assert study.data.dataset == str(tmp_path / "rows.csv")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("trials = 40", "trials = 80"),
        ("cpus = 2", "cpus = 1"),
        ("cache_gb = 5", "cache_gb = 50"),
        ('"wanda.percent" = 50', '"wanda.percent" = 50\n[[first]]\n"wanda.percent" = 60'),
    ],
)
def test_may_differ_between_launches(old: str, new: str) -> None:
    assert compare(parse_study(LONG, ""), parse_study(LONG.replace(old, new), "")) == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("seed = 2023", "seed = 1", "seed: was 2023, now 1"),
        ("max_skip = 4", "max_skip = 5", "space.max_skip: was 4, now 5"),
        ("max_skip = 4", "", "space.max_skip: was 4, now null"),
        ("search = 16", "search = 32", "data.items.search: was 16, now 32"),
        ('"bfloat16"', '"float32"', 'model.dtype: was "bfloat16", now "float32"'),
        ('toxicity = "my', 'toxicity = "your', "metrics.toxicity: was"),
        (">= 10%", ">= 20%", "constraints.parameters: was"),
        ('name = "nsga2"', 'name = "nsga3"', 'sampler.name: was "nsga2", now "nsga3"'),
    ],
)
def test_must_not_differ_between_launches(old: str, new: str, said: str) -> None:
    assert old in LONG
    (line,) = compare(parse_study(LONG, ""), parse_study(LONG.replace(old, new), ""))
    assert line.startswith(said)


def test_the_order_of_objectives_must_not_differ() -> None:
    swapped = SHORT.replace(
        'perplexity = "min"\nparameters = "min"', 'parameters = "min"\nperplexity = "min"'
    )
    (line,) = compare(parse_study(SHORT, ""), parse_study(swapped, ""))
    assert line == "objectives: was perplexity, parameters, now parameters, perplexity"


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("users_space:space", [(0.1, 0.5), ["l1"], 8]),
        ("users_space:other", "other"),
        ("users_package.inner", "inner"),
        ("users_space:Own", ["own", 3]),
        ("users_package.own", ["own", 3]),
    ],
)
def test_a_users_space(name: str, stages: object) -> None:
    assert load_space(SpaceSpec(name=name)).stages(TRIAL, FACTS) == stages


def test_what_stands_beside_a_users_function_belongs_to_it() -> None:
    found = load_space(SpaceSpec(name="users_space:space", options={"most": 3}))
    assert found.starts(FACTS) == [{"most": 3}]
    assert found.survey(None) == {"looked": True}  # type: ignore[arg-type]


def given(stages: Any) -> FunctionSpace:
    """A function that returns these, or raises them."""

    def space(trial: Any, facts: Any) -> Any:
        trial.suggest_int("n", 0, trial.number + 1)
        if isinstance(stages, Exception):
            raise stages
        return stages

    return FunctionSpace(function=space, ranges={}, surveys=None, starting=None)


@pytest.mark.parametrize("stages", [[], (Wanda(0.5),), ValueError("odd"), TrialPruned()])
def test_a_space_may_refuse_what_it_is_tried_with(stages: Any) -> None:
    asked: list[object] = []
    space = given(stages)

    def noted(trial: object, facts: Facts) -> Any:
        asked.append(trial)
        return space.function(trial, facts)

    try_out(space.model_copy(update={"function": noted}), FACTS, "mine:space")
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("stages", "part"),
    [
        (KeyError("influence"), "space mine:space raised KeyError: 'influence'"),
        (None, 'space mine:space returned: got ["NoneType"]; allowed: a list of stages'),
        ([Wanda, "omission"], 'got ["ABCMeta", "str"]; allowed: a list of stages'),
        (Wanda(0.5), "allowed: a list of stages"),
    ],
)
def test_a_mistake_in_a_space_is_told_before_any_trial(stages: Any, part: str) -> None:
    with pytest.raises(UserError) as caught:
        try_out(given(stages), FACTS, "mine:space")
    assert part in str(caught.value)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("omission", {"max_skip": 3}),
        ("omission_wanda", {"high": 20}),
        ("wanda", {"sequential": [False, True]}),
        ("similarity", {"recover": {"epochs": 1}}),
        ("users_space:space", {"most": 3}),
        ("users_space:Own", {"most": 3}),
    ],
)
def test_a_space_travels_to_the_workers(name: str, options: dict[str, object]) -> None:
    space = load_space(SpaceSpec(name=name, options=options))
    assert pickle.loads(cloudpickle.dumps(space)) == space


def test_a_space_in_the_current_folder_is_found_by_the_installed_command(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(SHORT.replace('"omission"', '"users_space:space"'))
    code = "from search.study.load import load_study; load_study('study.toml')"
    script = tmp_path / "bin" / "rayduce"  # Python looks where the script lies, not where it runs
    script.parent.mkdir()
    script.write_text(f"import sys; sys.path.insert(1, {str(CHECKOUT)!r}); {code}")
    run = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True)
    assert run.returncode == 0, run.stderr


def test_overrides_bind_to_the_space() -> None:
    options = {"ratio": [0.2, 0.3], "kinds": ["l2", "rms"], "most": 3}
    found = load_space(SpaceSpec(name="users_space:space", options=options))
    assert found.stages(TRIAL, FACTS) == [(0.2, 0.3), ["l2", "rms"], 3]


@pytest.mark.parametrize(
    ("name", "options", "fragments"),
    [
        ("users_space:spaec", {}, ["has no function spaec", 'did you mean "space"?']),
        ("users_space:number", {}, ["has no function number", "allowed: Own, other, space"]),
        ("users_space.space", {}, ["cannot import", 'write "users_space:space"']),
        ("users_space:starts", {}, ['got "(facts: Any', "a function (trial, facts, *, ranges)"]),
        ("spaces.router", {}, ["spaces.router has no function space", "allowed: start, vary"]),
        ("users_space:Own", {"most": "3"}, ['space.most: got "3"', "allowed: a whole number"]),
        ("wanda", {"low": 70}, ["space.high: got 60; allowed: low = 70, or more"]),
        ("wanda", {"sequential": []}, ["space.sequential: empty; allowed: one or more"]),
        ("torn_space:space", {}, ["space torn_space:space raised SyntaxError", "mend it"]),
        ("users_space.py", {}, ["cannot import", "there is no users_space.py"]),
        ("no_such_module:space", {}, ["cannot import", "no_such_module"]),
        ("broken_space:space", {}, ["not installed: no_such_package_anywhere"]),
        (
            "users_space:space",
            {"moost": 3},
            ["space.moost: unknown key", "most (default 8)", 'did you mean "most"?'],
        ),
        ("users_space:space", {"most": "3"}, ['space.most: got "3"', "allowed: a whole number"]),
        ("users_space:space", {"most": 0}, ["space.most: got 0", "allowed: 1 or more"]),
        ("users_space:space", {"ratio": [1, 2, 3]}, ["space.ratio"]),
        ("users_space:other", {"most": 3}, ["space.most: unknown key", "nothing to set"]),
    ],
)
def test_broken_spaces(name: str, options: dict[str, object], fragments: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        load_space(SpaceSpec(name=name, options=options))
    for fragment in fragments:
        assert fragment in str(caught.value)


def test_reading_a_study_needs_no_torch() -> None:
    code = (
        "import sys, search.study.load, search.journal.store;"
        "import search.engine.schedulers, search.engine.preflight;"
        "print(sorted({'torch', 'ray', 'mlflow', 'transformers'} & set(sys.modules)))"
    )
    root = CHECKOUT
    run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert run.stdout == "[]\n", run.stderr


def test_what_this_machine_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    check_resources(Resources())
    with pytest.raises(UserError) as caught:
        check_resources(Resources(gpus=0.5, cpus=100_000, memory_gb=1e9))
    message = str(caught.value)
    assert "resources.gpus: got 0.5; allowed: 0, as there is no GPU here" in message
    assert "set RAY_ADDRESS to a cluster" in message
    assert "resources.cpus: got 100000" in message
    assert "resources.memory_gb" in message
    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    check_resources(Resources(gpus=8))


def test_counts_visible_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for visible, count in (("0,1", 2), ("-1", 0), ("GPU-1f", 1)):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert gpu_count() == count
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    for bus in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / "gpus" / bus).mkdir(parents=True)
    monkeypatch.setattr(resources, "NVIDIA", tmp_path / "gpus")
    assert gpu_count() == 2
    monkeypatch.setattr(resources, "NVIDIA", tmp_path / "none")
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert gpu_count() == 0
