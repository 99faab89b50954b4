"""Study files that are wrong, and what is said about each: what, got, allowed, what to do.

A row is an id, edits to the study below (text -> other text), and texts the message must hold.
"""

from pathlib import Path

import pytest

from search.errors import StudyError
from search.study.load import load_study
from trainables.core.errors import UserError

GOOD = """
name = "depth"
seed = 1
space = "omission"
[model]
id = "asset:smollm2-135m"
[data]
dataset = "asset:bbc-news"
task = "language-modelling"
[objectives]
perplexity = "min"
parameters = "min"
[constraints]
perplexity = "<= 130% of baseline"
[metrics]
toxicity = "my_package.scores:toxicity"
[budget]
trials = 40
[sampler]
name = "tpe"
n_startup_trials = 5
[scheduler]
name = "none"
[resources]
gpus = 0
[storage]
folder = "runs"
[[first]]
"omission.skip" = [3]
"""
Edits = list[tuple[str, str]]
TABLE: list[tuple[str, Edits, list[str]]] = [
    (
        "a metric of the harness without its tasks",
        [('perplexity = "min"', 'acc = "max"'), ('perplexity = "<= 130% of baseline"', "")],
        ["data.harness: missing, for acc", 'such as harness = "arc_easy,piqa"'],
    ),
    (
        "a form of other data",
        [("[objectives]", 'prompts = "lm-eval"\n[objectives]')],
        ['prompts = "lm-eval" is for task = "multiple-choice"'],
    ),
    (
        "a batch of nothing",
        [("[objectives]", "batch_size = 0\n[objectives]")],
        ['data.batch_size: got 0; allowed: a whole number, 1 or more, or "auto"'],
    ),
    (
        "an encoding nobody knows",
        [("[objectives]", 'encoding = "latin-99"\n[objectives]')],
        ["data.encoding", "an encoding that Python knows"],
    ),
    (
        "a space that watches no metric of the task",
        [
            ('space = "omission"', ""),
            (
                "[model]",
                '[space]\nname = "similarity"\nwatch = "accuracy"\n[model]',
            ),
        ],
        [
            "space.watch: not measured when data.task is language-modelling",
            "allowed: toxicity, perplexity, loss",
        ],
    ),
    (
        "unknown key",
        [("trials = 40", "trails = 40")],
        ["budget.trails: unknown key", "allowed: trials, hours", 'did you mean "trials"?'],
    ),
    (
        "unknown table",
        [("[resources]", "[resource]")],
        ["resource: unknown key", 'did you mean "resources"?'],
    ),
    (
        "no table",
        [('[model]\nid = "asset:smollm2-135m"', ""), ("seed = 1", 'model = "gpt2"')],
        ['model: got "gpt2"; allowed: a table [model] with id = "..."'],
    ),
    (
        "unknown key far down",
        [("task =", "items = { serch = 3 }\ntask =")],
        [
            "data.items.serch: unknown key",
            "allowed: calibration (default 32), train (default 1024), search (default 128)",
            'did you mean "search"?',
        ],
    ),
    (
        "missing table",
        [('[model]\nid = "asset:smollm2-135m"', "")],
        ['model: missing; allowed: a table [model] with id = "..."'],
    ),
    (
        "missing key",
        [('task = "language-modelling"', "")],
        ['data.task: missing; allowed: "language-modelling" or "classification"'],
    ),
    (
        "no objective",
        [('perplexity = "min"\nparameters = "min"', "")],
        ['objectives: empty; allowed: a table [objectives], such as accuracy = "max"'],
    ),
    (
        "direction misspelt",
        [('parameters = "min"', 'parameters = "mim"')],
        ['objectives.parameters: got "mim"; allowed: "min" or "max"; did you mean "min"?'],
    ),
    (
        "task misspelt",
        [('"language-modelling"', '"language-modeling"')],
        ['data.task: got "language-modeling"', 'did you mean "language-modelling"?'],
    ),
    (
        "text for a number",
        [("trials = 40", 'trials = "40"')],
        ['budget.trials: got "40"; allowed: a whole number'],
    ),
    (
        "half a trial",
        [("trials = 40", "trials = 1.5")],
        ["budget.trials: got 1.5; allowed: a whole number"],
    ),
    (
        "truth for a number",
        [("seed = 1", "seed = true")],
        ["seed: got true; allowed: a whole number"],
    ),
    (
        "no trials",
        [("trials = 40", "trials = 0")],
        ["budget.trials: got 0; allowed: 1 or more"],
    ),
    (
        "negative hours",
        [("trials = 40", "hours = -1")],
        ["budget.hours: got -1; allowed: more than 0"],
    ),
    (
        "endless hours",
        [("trials = 40", "hours = inf")],
        ["budget.hours: got Infinity", "allowed: a number that is not infinite"],
    ),
    (
        "no budget",
        [("trials = 40", "")],
        ["budget: empty; allowed: trials = 40 and/or hours = 8"],
    ),
    (
        "one and a half GPUs",
        [("gpus = 0", "gpus = 1.5")],
        ["resources.gpus: got 1.5", "a share of one GPU, such as 0.5, or a whole number"],
    ),
    (
        "name with a slash",
        [('name = "depth"', 'name = "my/depth"')],
        ['name: got "my/depth"', "letters, digits, dots, - and _"],
    ),
    (
        "name that is taken",
        [('name = "depth"', 'name = "cache"')],
        ['name: got "cache"', "any name but cache, mlartifacts, mlflow.db"],
    ),
    (
        "space misspelt",
        [('space = "omission"', 'space = "omision"')],
        [
            'space: got "omision"',
            'or "package.module:name"',
            'did you mean "omission"?',
        ],
    ),
    (
        "space in a package that is not there",
        [('space = "omission"', 'space = "my_lost_package.space"')],
        ["space: no such package", "my_lost_package/", "install it"],
    ),
    (
        "space twice",
        [('space = "omission"', 'space = "omission"\n[space]\nmax_skip = 3')],
        ["not valid TOML", 'write its name inside: [space] name = "..."'],
    ),
    (
        "space without a name",
        [('space = "omission"', ""), ("[model]", "[space]\nmax_skip = 3\n[model]")],
        ['space.name: missing; allowed: what may vary, such as name = "omission"'],
    ),
    (
        "no such asset",
        [('"asset:smollm2-135m"', '"asset:smolm2-135m"')],
        [
            'model.id: got "asset:smolm2-135m"',
            "asset:minilm-l6",
            'did you mean "smollm2-135m"?',
        ],
    ),
    (
        "a model for data",
        [('"asset:bbc-news"', '"asset:smollm2-135m"')],
        ['data.dataset: got "asset:smollm2-135m"', "asset:bbc-news"],
    ),
    (
        "no such folder",
        [('"asset:smollm2-135m"', '"./my/model"')],
        ['model.id: no such path: got "./my/model"; allowed: a hub id', "looked at /", "/my/model"],
    ),
    (
        "no such data file",
        [('"asset:bbc-news"', '"rows.csv"')],
        ['data.dataset: no such path: got "rows.csv"; allowed: a hub', "looked at /", "/rows.csv"],
    ),
    (
        "constraint with <",
        [('"<= 130% of baseline"', '"< 130% of baseline"')],
        ['constraints.perplexity: got "< 130% of baseline"', 'write "<=" instead of "<"'],
    ),
    (
        "constraint without a base",
        [('"<= 130% of baseline"', '"<= 130%"')],
        ['constraints.perplexity: got "<= 130%"', '">= baseline - 0.04"'],
    ),
    (
        "constraint as a number",
        [('"<= 130% of baseline"', "30")],
        ["constraints.perplexity: got 30", 'a limit in quotes, such as "<= 5"'],
    ),
    (
        "constraints that exclude each other",
        [('"<= 130% of baseline"', '["<= 20", ">= 30"]')],
        ['constraints.perplexity: no value meets both "<= 20" and ">= 30"'],
    ),
    (
        "shares of the baseline that exclude each other",
        [('"<= 130% of baseline"', '["<= 90% of baseline", ">= baseline"]')],
        ['no value meets both "<= 90% of baseline" and ">= baseline"'],
    ),
    (
        "limit below what is possible",
        [('"<= 130% of baseline"', '"<= -1"')],
        ['constraints.perplexity: can never be met: got "<= -1"', "never below 1"],
    ),
    (
        "limit below the least perplexity",
        [('"<= 130% of baseline"', '"<= 0.5"')],
        [
            'constraints.perplexity: can never be met: got "<= 0.5"',
            "allowed: perplexity is never below 1",
        ],
    ),
    (
        "limit above what is possible",
        [
            ('task = "language-modelling"', 'task = "classification"'),
            ('perplexity = "min"', 'accuracy = "max"'),
            ('perplexity = "<= 130% of baseline"', 'accuracy = ">= 1.2"'),
        ],
        ["constraints.accuracy: can never be met", "accuracy lies between 0 and 1"],
    ),
    (
        "objective misspelt",
        [('perplexity = "min"', 'perplexty = "min"')],
        [
            "objectives.perplexty: unknown metric",
            "allowed: toxicity, perplexity, loss,",
            "or one of your own in [metrics]",
            'did you mean "perplexity"?',
        ],
    ),
    (
        "objective of another task",
        [('perplexity = "min"', 'accuracy = "max"')],
        [
            "objectives.accuracy: not measured when data.task is language-modelling",
            "accuracy is for classification and image-classification and multiple-choice",
        ],
    ),
    (
        "objective backwards",
        [('parameters = "min"', 'parameters = "max"')],
        ['objectives.parameters: got "max"; allowed: "min"', "the highest parameters"],
    ),
    (
        "constraint on a metric that is not there",
        [('perplexity = "<= 130% of baseline"', 'size = "<= 5"')],
        ["constraints.size: unknown metric", "parameters"],
    ),
    (
        "metric of a name that is taken",
        [('toxicity = "my_package', 'loss = "my_package')],
        ["metrics.loss: there is a metric of this name", "rename yours"],
    ),
    (
        "sampler misspelt",
        [('name = "tpe"', 'name = "tpee"')],
        ['sampler.name: got "tpee"', "nsga2, nsga3, random, grid", 'did you mean "tpe"?'],
    ),
    (
        "sampler's setting misspelt",
        [("n_startup_trials = 5", "n_startup_trails = 5")],
        ["sampler.n_startup_trails: unknown key", 'did you mean "n_startup_trials"?'],
    ),
    (
        "scheduler with nothing to watch",
        [('name = "none"', 'name = "asha"')],
        ["scheduler.metric: missing", "allowed: perplexity, parameters", "watches one metric"],
    ),
    (
        "scheduler without a direction",
        [('name = "none"', 'name = "median"\nmetric = "toxicity"')],
        ['scheduler.mode: missing; allowed: "min" or "max"'],
    ),
    (
        "scheduler misspelt",
        [('name = "none"', 'name = "ahsa"')],
        ['scheduler.name: got "ahsa"', 'did you mean "asha"?'],
    ),
    (
        "metric that cannot be imported",
        [('"my_package.scores:toxicity"', '"toxicity"')],
        ['metrics.toxicity: got "toxicity"', '"my_package.scores:toxicity"'],
    ),
    (
        "first point without quotes",
        [('"omission.skip" = [3]', "omission.skip = [3]")],
        ["first[0].omission: a table", 'put dotted names in quotes: "omission.skip" = ...'],
    ),
    (
        "first point that is no list",
        [('[[first]]\n"omission.skip" = [3]', '[first]\n"omission.skip" = [3]')],
        ["first: got", "allowed: a list of tables, each begun with [[first]]"],
    ),
    (
        "journal of another kind",
        [('folder = "runs"', 'database = "mysql://me:secret@host/name"')],
        [
            'storage.database: got "mysql://me@host/name"',
            'allowed: "postgresql://user@host/name", its password in $PGPASSWORD or ~/.pgpass',
        ],
    ),
    (
        "journal behind a variable",
        [('folder = "runs"', 'database = "postgresql://me:$NO_SUCH_VARIABLE@host/name"')],
        ["storage.database: a variable is not set", "set the environment variable"],
    ),
    (
        "no TOML",
        [('name = "depth"', "name = depth")],
        ["study.toml: not valid TOML", "line 2"],
    ),
]


@pytest.mark.parametrize(
    ("edits", "fragments"), [row[1:] for row in TABLE], ids=[r[0] for r in TABLE]
)
def test_broken(edits: Edits, fragments: list[str], tmp_path: Path) -> None:
    text = GOOD
    for old, new in edits:
        assert text.count(old) == 1, f"{old!r} is to be replaced once"
        text = text.replace(old, new)
    file = tmp_path / "study.toml"
    file.write_text(text)
    with pytest.raises(UserError) as caught:
        load_study(file)
    message = str(caught.value)
    assert str(file) in message
    for fragment in fragments:
        assert fragment in message
    if isinstance(caught.value, StudyError):
        (problem,) = caught.value.problems
        key = problem.what.partition(":")[0]
        assert problem.allowed, message
        assert problem.do or problem.got is not None or problem.what != key, message
    else:
        assert caught.value.do, message


def test_the_good_one_is_good(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(GOOD)
    assert load_study(tmp_path / "study.toml").name == "depth"


def test_every_problem_is_named_at_once(tmp_path: Path) -> None:
    file = tmp_path / "study.toml"
    file.write_text(GOOD.replace("trials = 40", "trials = 0").replace("seed = 1", 'seed = "x"'))
    with pytest.raises(StudyError) as caught:
        load_study(file)
    assert str(caught.value).splitlines() == [
        f"{file}: 2 problems",
        '  seed: got "x"; allowed: a whole number',
        "  budget.trials: got 0; allowed: 1 or more",
    ]


def test_every_wrong_limit_is_named_at_once(tmp_path: Path) -> None:
    file = tmp_path / "study.toml"
    wrong = 'perplexity = ["<= 130% of baseline", "< 5"]\nparameters = 3'
    file.write_text(GOOD.replace('perplexity = "<= 130% of baseline"', wrong))
    with pytest.raises(StudyError) as caught:
        load_study(file)
    first, second = caught.value.problems
    assert str(first).startswith('constraints.perplexity: got "< 5"; allowed: "<= 5"')
    assert str(second).startswith("constraints.parameters: got 3; allowed: a limit in quotes")


def test_no_such_file(tmp_path: Path) -> None:
    (tmp_path / "depth.toml").write_text(GOOD)
    with pytest.raises(UserError, match=r'no such study file.*did you mean "depth\.toml"'):
        load_study(tmp_path / "dept.toml")
    with pytest.raises(UserError, match="no such study file"):
        load_study(tmp_path)
