"""Commands that are wrong, and what is said about each: one message, exit code 2, no traceback.

A row is an id, a command, and texts the message must hold. `{folder}` is where a study `depth` of
six trials lies with its file `depth.toml`; trial 4 failed, trial 5 misses the constraint.
"""

import json
import shutil
import tomllib
from pathlib import Path

import pytest

from search.cli import main
from search.journal.lock import study_lock
from search.journal.store import Store
from search.journal.view import saved_toml
from search.study.load import load_study
from search.study.schema import Study
from tests.support.journals import TOML, Sample

RUNS = "--storage {folder}/runs"
TABLE: list[tuple[str, str, list[str]]] = [
    # -- the command line itself
    ("no such command", "lunch depth", ["No such command 'lunch'"]),
    ("no such option", f"best depth --wher accuracy {RUNS}", ["No such option: --wher"]),
    ("no name", "best", ["Missing argument"]),
    (
        "a number that is none",
        "launch {folder}/depth.toml --trials many",
        ["Invalid value for '--trials'"],
    ),
    # -- names
    (
        "unknown study",
        f"status dpeth {RUNS}",
        ['no such study in {folder}/runs: got "dpeth"', "depth", 'did you mean "depth"?'],
    ),
    ("unknown study for best", f"best width {RUNS}", ['got "width"', "allowed: depth"]),
    ("unknown study for report", f"report width {RUNS}", ['got "width"', "allowed: depth"]),
    ("unknown study for export", f"export width --to x {RUNS}", ['got "width"']),
    ("unknown study for sync", f"sync width {RUNS}", ['got "width"', "allowed: depth"]),
    (
        "resume of what was never launched",
        "resume depth --storage {folder}/elsewhere",
        ['got "depth"', "nothing yet: launch a study first"],
    ),
    (
        "explaining all studies",
        f"status --explain {RUNS}",
        ["--explain", "with a study's name, and without --json"],
    ),
    ("a name that is a path", f"resume ../depth {RUNS}", ['got "../depth"', "allowed: depth"]),
    (
        "no study file",
        "launch {folder}/dept.toml",
        ["no such study file", 'did you mean "depth.toml"'],
    ),
    ("a folder as a study file", "launch {folder}", ["no such study file"]),
    (
        "a file as the storage",
        "status --storage {folder}/depth.toml",
        ["--storage: not a folder", "depth.toml"],
    ),
    # -- best
    (
        "unknown metric",
        f"best depth --where perplexty<=25 {RUNS}",
        ['where: unknown metric: got "perplexty"', 'did you mean "perplexity"?'],
    ),
    ("no limit", f"best depth --where perplexity {RUNS}", ["where", "METRIC LIMIT"]),
    ("a strict limit", f"best depth --where perplexity<25 {RUNS}", ['write "<=" instead of "<"']),
    (
        "a limit that is no number",
        f"best depth --where perplexity<=low {RUNS}",
        ["allowed", "<= 5"],
    ),
    ("none of the best", f"best depth --top 0 {RUNS}", ["Invalid value for '--top'"]),
    # -- launch
    (
        "a routing study",
        "launch spaces/studies/pudding-smollm2.toml --trials 3",
        ['got "budget.trials"', "a routing study says the rest in its file"],
    ),
    (
        "a study that routes nothing",
        "route eval spaces/studies/smoke.toml",
        ["no routing study", "rayduce launch spaces/studies/smoke.toml"],
    ),
    (
        "zero trials",
        f"launch {{folder}}/depth.toml --trials 0 {RUNS}",
        ["budget.trials: got 0", "allowed: 1 or more"],
    ),
    (
        "negative hours",
        f"launch {{folder}}/depth.toml --hours -1 {RUNS}",
        ["budget.hours: got -1.0", "more than 0"],
    ),
    (
        "no such GPU",
        f"launch {{folder}}/depth.toml --gpus 1 {RUNS}",
        ["this machine", "resources.gpus: got 1.0", "no GPU here", "RAY_ADDRESS"],
    ),
    (
        "more CPUs than there are",
        f"launch {{folder}}/depth.toml --cpus 9999 {RUNS}",
        ["resources.cpus"],
    ),
    ("zero workers", f"launch {{folder}}/depth.toml --workers 0 {RUNS}", ["resources.workers"]),
    (
        "the same name with other settings",
        f"launch {{folder}}/other.toml {RUNS}",
        ["was launched with other settings", "seed: was 7, now 8", "give the study a new name"],
    ),
    (
        "a database that is none",
        "launch {folder}/depth.toml --storage mysql://me:secret@host/db",
        ["storage.database", "mysql://me@host/db", "postgresql://"],
    ),
    (
        "a storage that cannot be made",
        "launch {folder}/depth.toml --storage {folder}/depth.toml/runs",
        ["cannot write to", "choose another folder with --storage"],
    ),
    (
        "a model's folder without a model",
        f"launch {{folder}}/nomodel.toml {RUNS}",
        ["model.id: not a model's folder", "it holds no config.json"],
    ),
    (
        "a model's folder that is not there",
        f"launch {{folder}}/lost.toml {RUNS}",
        ['model.id: no such path: got "{folder}/gone"', "looked at {folder}/gone"],
    ),
    (
        "a data file that is not there",
        f"launch {{folder}}/nodata.toml {RUNS}",
        ['data.dataset: no such path: got "{folder}/gone.jsonl"'],
    ),
    # -- export
    (
        "trial out of range",
        f"export depth --trial 99 --to {{folder}}/x {RUNS}",
        ["no such trial: got 99", "0 (the baseline) to 6"],
    ),
    (
        "negative trial",
        f"export depth --trial -1 --to {{folder}}/x {RUNS}",
        ["no such trial: got -1"],
    ),
    (
        "failed trial",
        f"export depth --trial 4 --to {{folder}}/x {RUNS}",
        ["trial 4 has no model", "perplexity was nan"],
    ),
    (
        "a folder that is not empty",
        f"export depth --trial 1 --to {{folder}} {RUNS}",
        ["--to: the folder is not empty", "name a new one"],
    ),
    (
        "two ways to choose",
        f"export depth --trial 1 --best accuracy --to {{folder}}/x {RUNS}",
        ["--trial and --best both name a trial; give one of them"],
    ),
    ("no such port", f"ui --port 99999 {RUNS}", ["Invalid value for '--port'"]),
    (
        "best in what was not measured",
        f"export depth --best speed --to {{folder}}/x {RUNS}",
        ['--best: not measured: got "speed"', "allowed: perplexity, parameters"],
    ),
    (
        "a name MLflow refuses",
        f"export depth --trial 1 --register a/b --to {{folder}}/x {RUNS}",
        ['--register: got "a/b"'],
    ),
    (
        "nowhere to export to",
        f"export depth --trial 1 --to {{folder}}/depth.toml/x {RUNS}",
        ["--to: cannot make"],
    ),
    (
        "a run and a choice among trials",
        f"export {'0' * 32} --trial 1 --to {{folder}}/x {RUNS}",
        ["--trial and --best choose among a study's trials"],
    ),
    (
        "a run without a ledger",
        f"export {'0' * 32} --to {{folder}}/x --storage {{folder}}/elsewhere",
        ["no ledger in {folder}/elsewhere", "MLFLOW_TRACKING_URI"],
    ),
    # -- apply
    (
        "stages that are not there",
        "apply {folder}/gone.json --model asset:smollm2-135m --to {folder}/x",
        ["cannot read {folder}/gone.json", "a compression.json or a trial.toml"],
    ),
    (
        "a study file in place of stages",
        "apply {folder}/depth.toml --model asset:smollm2-135m --to {folder}/x",
        ["{folder}/depth.toml: no study", "allowed: study, model"],
    ),
    (
        "nothing to apply",
        "apply {folder}/depth.toml --to {folder}/x",
        ["no study", "allowed: study, model"],
    ),
    # -- report, ui
    (
        "nowhere to report to",
        f"report depth --to {{folder}}/depth.toml/x.html {RUNS}",
        ["cannot write"],
    ),
    (
        "nothing to open",
        "ui --storage {folder}/elsewhere",
        ["no ledger in", "launch a study first"],
    ),
]


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a study that ran, its file, and other files."""
    folder = tmp_path_factory.mktemp("broken")
    Sample(folder / "runs").run().close()
    (folder / "empty").mkdir()
    files = {
        "depth": TOML,
        "other": TOML.replace("seed = 7", "seed = 8"),
        "nomodel": TOML.replace("asset:smollm2-135m", f"{folder}/empty"),
        "lost": TOML.replace("asset:smollm2-135m", f"{folder}/gone"),
        "nodata": TOML.replace("asset:imdb", f"{folder}/gone.jsonl"),
    }
    for name, text in files.items():
        (folder / f"{name}.toml").write_text(text)
    return folder


@pytest.fixture
def folder(searched: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """It, on a machine without GPUs and without networks."""
    monkeypatch.setattr("search.engine.preflight.gpu_count", lambda: 0)
    monkeypatch.setattr("search.launch.fetch_assets", lambda study: None)
    monkeypatch.setenv("COLUMNS", "200")
    return searched


def said(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What a command that is refused says."""
    with pytest.raises(SystemExit) as end:
        main(command.split())
    told = capsys.readouterr()
    assert end.value.code == 2
    assert "Traceback" not in told.out + told.err
    return told.err


@pytest.mark.parametrize(
    ("command", "parts"), [pytest.param(*row, id=name) for name, *row in TABLE]
)
def test_a_broken_command_says_what_is_wrong(
    command: str, parts: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = said(command.format(folder=folder), capsys)
    for part in parts:
        assert part.format(folder=folder) in told
    assert len(told.strip().splitlines()) <= 8


def test_the_table_holds_twenty_commands_and_more() -> None:
    assert len({row[0] for row in TABLE}) == len(TABLE) > 30


def test_a_second_launch_is_refused_with_the_first_ones_name(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with study_lock(Store(folder / "runs", "depth")):
        told = said(f"launch {folder}/depth.toml --storage {folder}/runs", capsys)
    for part in ("study depth is running already:", "@", "pid", "since", "rayduce status depth"):
        assert part in told


def test_a_resume_while_it_runs_is_refused_too(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with study_lock(Store(folder / "runs", "depth")):
        told = said(f"resume depth --storage {folder}/runs", capsys)
    assert "study depth is running already:" in told


def test_a_study_without_a_result_has_nothing_to_show(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Sample(tmp_path).close()
    for command in ("report depth", f"export depth --to {tmp_path}/x"):
        told = said(f"{command} --storage {tmp_path}", capsys)
        assert told.startswith("rayduce: ")
        assert len(told.splitlines()) == 1


def test_a_journal_that_is_no_database_is_one_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Sample(tmp_path).close()
    Store(tmp_path, "depth").journal.write_text("this is not SQLite")
    for command in ("status depth", "best depth", f"export depth --trial 1 --to {tmp_path}/x"):
        told = said(f"{command} --storage {tmp_path}", capsys)
        assert "cannot open the journal at sqlite" in told


def test_a_saved_study_that_was_edited_is_one_message(
    searched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(searched / "runs", tmp_path / "runs")
    toml = Store(tmp_path / "runs", "depth").toml
    toml.write_text(toml.read_text().replace("trials = 6", 'trials = "six"'))
    told = said(f"resume depth --storage {tmp_path}/runs", capsys)
    assert "study.toml: 1 problem" in told
    assert 'budget.trials: got "six"' in told


def test_a_study_explains_how_its_numbers_come_about(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Sample(tmp_path).run().close()
    main_ends(["status", "depth", "--explain", "--storage", str(tmp_path)])
    told = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert {"perplexity", "model", "data", "hardware", "time"} <= set(told)
    assert "held out for exports" in told["data"]


def test_a_study_that_cannot_be_read_hides_no_other_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Sample(tmp_path).run().close()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "study.toml").write_text("[tool]\nname = 3\n")
    (tmp_path / "garbage").mkdir()
    (tmp_path / "garbage" / "study.db").write_text("this is not SQLite")
    main_ends(["status", "--storage", str(tmp_path)])
    told = capsys.readouterr().out
    assert "depth" in told and "finished" in told
    assert "garbage: cannot be read: cannot open the journal" in told
    assert "foreign: cannot be read: study foreign has no journal yet" in told
    main_ends(["status", "--json", "--storage", str(tmp_path)])
    found = {one["study"]: one for one in json.loads(capsys.readouterr().out)}
    assert found["depth"]["state"] == "finished"
    assert found["garbage"]["state"] == "unreadable"
    assert "cannot open the journal" in found["garbage"]["error"]


def test_a_launch_of_which_nothing_came_ends_with_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def search(study: Study, store: Store, *_: object, **__: object) -> bool:
        sample = Sample(store.folder, study)
        sample.baseline()
        for _ in range(6):
            sample.journal.fail(sample.hand_out(), "out of [cuda] memory")
        sample.close()
        return False

    monkeypatch.setattr("search.run.search", search)
    (tmp_path / "depth.toml").write_text(TOML)
    with pytest.raises(SystemExit) as end:
        main(["launch", str(tmp_path / "depth.toml"), "--storage", str(tmp_path / "runs")])
    told = capsys.readouterr().out
    assert end.value.code == 1
    assert "no trial came to a result; the last one: out of [cuda] memory" in " ".join(told.split())


def test_a_study_begun_with_shortcuts_does_not_become_naive(
    searched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(searched, tmp_path, dirs_exist_ok=True)
    told = said(f"launch {tmp_path}/depth.toml --naive --storage {tmp_path}/runs", capsys)
    assert "study depth was begun with its shortcuts" in told and "another name" in told
    main_ends(["resume", "depth", "--storage", str(tmp_path / "runs")])  # and is left as it was


def test_a_launch_with_nothing_left_to_do_says_so(
    searched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(searched, tmp_path, dirs_exist_ok=True)
    main_ends(["resume", "depth", "--storage", str(tmp_path / "runs")])
    told = capsys.readouterr().out
    assert "depth: all its trials ended before; --trials asks for more" in told
    assert "rayduce report depth" in told


def test_resuming_takes_the_budget_and_the_workers_that_are_given_now(
    searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(searched, tmp_path, dirs_exist_ok=True)
    seen: list[Study] = []

    def search(study: Study, *_: object, **__: object) -> bool:
        seen.append(study)
        return False

    monkeypatch.setattr("search.run.search", search)
    command = "resume depth --trials 40 --hours 2 --cpus 3 --workers 5"
    main_ends([*command.split(), "--storage", str(tmp_path / "runs")])
    main_ends(["resume", "depth", "--storage", str(tmp_path / "runs")])
    given, plain = seen
    assert (given.budget.trials, given.budget.hours) == (40, 2.0)
    assert (given.resources.cpus, given.resources.workers) == (3, 5)
    assert plain.resources == load_study(tmp_path / "depth.toml").resources != given.resources


def test_a_torn_study_file_is_read_from_the_journal(
    searched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(searched / "runs", tmp_path / "runs")
    store = Store(tmp_path / "runs", "depth")
    whole = store.toml.read_text()
    for text in (whole[: len(whole) // 2], ""):
        store.toml.write_text(text)
        main_ends(["status", "depth", "--storage", str(tmp_path / "runs")])
        assert "finished" in capsys.readouterr().out
        assert tomllib.loads(saved_toml(store))["name"] == "depth"


def main_ends(arguments: list[str]) -> None:
    """Run a command that goes well."""
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 0
