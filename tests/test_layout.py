"""The house: which package may import which, what lies where, what is said of every dependency."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FLOORS = ("trainables", "spaces", "search")  # each may import itself and what stands before it
HEAVY = ("torch", "transformers", "ray", "mlflow")
PYPROJECT = (ROOT / "pyproject.toml").read_text()


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """(module, whether the import runs when the file is imported)."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module]
        else:
            continue
        yield from ((name, node in tree.body) for name in names)


def top(name: str) -> str:
    return name.partition(".")[0]


def tracked() -> list[Path]:
    found = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, text=True, check=False
    )
    if found.returncode or not found.stdout:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in found.stdout.split("\0") if name and (ROOT / name).is_file()]


# -- imports -------------------------------------------------------------------------------------


@pytest.mark.parametrize("package", FLOORS)
def test_imports_point_one_way(package: str) -> None:
    above = FLOORS[FLOORS.index(package) + 1 :]
    for path in modules(package):
        wrong = [name for name, _ in imports(path) if top(name) in above]
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


def test_only_the_engine_and_the_trainable_know_ray() -> None:
    for package in ("trainables", "spaces"):
        for path in modules(package):
            if path != ROOT / "trainables" / "worker.py":
                assert "ray" not in {top(name) for name, _ in imports(path)}, path


def test_the_engine_never_touches_a_tensor() -> None:
    for path in modules("search"):
        for name, _ in imports(path):
            assert top(name) not in ("torch", "transformers", "safetensors"), path


def test_methods_and_spaces_know_no_ledger() -> None:
    for package in ("trainables", "spaces"):
        for path in modules(package):
            assert "mlflow" not in {top(name) for name, _ in imports(path)}, path


@pytest.mark.parametrize(
    "command",
    [["--help"], ["status", "--storage", "{folder}"], ["best", "x", "--storage", "{folder}"]],
)
def test_reading_commands_load_no_heavy_library(command: list[str], tmp_path: Path) -> None:
    arguments = [part.format(folder=tmp_path) for part in command]
    code = f"""
import sys
from search.cli import main
try:
    main({arguments!r})
except SystemExit:
    pass
sys.stderr.write(",".join(name for name in {HEAVY!r} if name in sys.modules))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    loaded = done.stderr.splitlines()[-1:] or [""]
    assert not set(loaded[0].split(",")) & set(HEAVY)


def test_the_driver_searches_without_transformers() -> None:
    spaces = [f"spaces.{path.stem}" for path in modules("spaces") if path.stem != "__init__"]
    names = ["search.launch", "trainables.worker", *spaces]
    code = f"import sys, {', '.join(names)}; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=120).returncode == 0


# -- rooms ---------------------------------------------------------------------------------------

# An entry (a file or a folder) may import only itself and those before it; TYPE_CHECKING counts.
ORDER = {
    "search": "errors terminal study samplers journal report ledger engine readiness rebuild "
    "export apply compare launch confirm progress run routing commands cli __main__",
    "trainables": "core stage bench recover distill wanda magnitude neurons codebook quantize "
    "omission similarity ilm plugin routing load routed trial worker testing",
    "trainables/bench": "assets data models prefix metrics training survey uneven footprint "
    "opening bench",
}
LISTS = {"trainables", "spaces"}  # rooms whose entries are a list that grows: methods, spaces
MOST = 12  # files in any other room


def named(path: Path) -> str:
    """A file's module, a package by its own name."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def graph() -> dict[str, set[str]]:
    """Every module of ours, and those it imports."""
    files = {named(path): path for package in FLOORS for path in modules(package)}
    return {name: set(_targets(path, files)) - {name} for name, path in files.items()}


def _targets(path: Path, known: dict[str, Path]) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield from [name for name in (inner, node.module) if name in known][:1]


@pytest.mark.parametrize("room", ORDER)
def test_arrows_between_rooms_point_down(room: str) -> None:
    order, base = ORDER[room].split(), room.replace("/", ".") + "."

    def entry(name: str) -> str | None:
        return name.removeprefix(base).split(".")[0] if name.startswith(base) else None

    there = {entry(name) for name in graph()} - {None}
    assert there == set(order), "an entry of a room stands in its order"
    for name, targets in graph().items():
        here = entry(name)
        for target in targets if here else ():
            below = entry(target)
            if below is not None and here is not None:
                assert order.index(below) <= order.index(here), f"{name} imports {target}"


def test_no_files_import_each_other_in_a_circle() -> None:
    imported, done = graph(), set[str]()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join([*trail[trail.index(name) :], name])
        if name not in done:
            for target in sorted(imported[name]):
                visit(target, (*trail, name))
            done.add(name)

    for name in imported:
        visit(name, ())


def test_no_room_is_crowded_and_each_says_what_it_is_for() -> None:
    for package in FLOORS:
        for init in (ROOT / package).rglob("__init__.py"):
            room = init.parent
            found = ast.get_docstring(ast.parse(init.read_text())) or ""
            assert found and len(found.splitlines()[0]) > 20, room
            files = [path for path in room.glob("*.py") if path.name != "__init__.py"]
            if str(room.relative_to(ROOT)) not in LISTS:
                assert len(files) <= MOST, f"{room}: {len(files)} files"


def test_every_folder_with_code_is_a_room() -> None:
    for package in FLOORS:
        for folder in {path.parent for path in modules(package)}:
            assert (folder / "__init__.py").is_file(), folder


def test_tests_mirror_the_rooms() -> None:
    for folder in {path.parent for path in (ROOT / "tests").rglob("test_*.py")}:
        place = folder.relative_to(ROOT / "tests")
        assert (ROOT / place).is_dir(), f"tests/{place} mirrors no room"


def test_the_modules_whose_shapes_are_checked_exist() -> None:
    text = (ROOT / "tests" / "conftest.py").read_text()
    names = re.findall(r'"(trainables\.[\w.]+)"', text)
    assert len(names) > 5
    for name in names:
        assert (ROOT / f"{name.replace('.', '/')}.py").is_file(), name


# -- the ledger's folder -------------------------------------------------------------------------


def test_the_ledgers_folder_holds_no_python() -> None:
    assert (ROOT / "mlflow").is_dir()
    assert not [path for path in (ROOT / "mlflow").rglob("*") if path.suffix in (".py", ".pyi")]


def test_mlflow_is_the_real_one_even_from_here() -> None:
    code = "import importlib.util as u; print(u.find_spec('mlflow').origin)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    origin = Path(done.stdout.strip())
    assert origin.name == "__init__.py"
    assert ROOT / "mlflow" not in origin.parents


@pytest.mark.parametrize("name", ["datasets", "models", "ray", "optuna", "torch"])
def test_no_folder_takes_the_name_of_a_library(name: str) -> None:
    assert not (ROOT / name).exists()


def test_the_wheel_holds_our_packages_and_nothing_else() -> None:
    wheel = tomllib.loads(PYPROJECT)["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert sorted(wheel["packages"]) == sorted(FLOORS)


@pytest.mark.parametrize("package", [*FLOORS, "trainables/bench"])
def test_our_packages_are_packages(package: str) -> None:
    assert (ROOT / package / "__init__.py").is_file()


# -- dependencies --------------------------------------------------------------------------------


def test_every_dependency_says_which_files_need_it() -> None:
    project = tomllib.loads(PYPROJECT)["project"]
    extras = project["optional-dependencies"].values()
    wanted = [*project["dependencies"], *(one for extra in extras for one in extra)]
    assert len(wanted) > 20
    for dependency in wanted:
        lines = [
            line for line in PYPROJECT.splitlines() if line.strip().startswith(f'"{dependency}"')
        ]
        assert lines, dependency
        comments = [re.search(r'",\s*# (\S.*)', line) for line in lines]
        assert all(comments), dependency
        for comment in comments:
            for place in re.findall(
                r"(?:search|trainables|spaces|tests)/[\w/.]*\.py", str(comment)
            ):
                assert (ROOT / place).is_file(), f"{dependency}: there is no {place}"


def test_files_named_for_a_dependency_import_it() -> None:
    modules_of = {"scikit-learn": "sklearn", "pillow": "PIL", "psycopg": "postgresql+psycopg"}
    for line in PYPROJECT.splitlines():
        found = re.match(r'\s*"([A-Za-z0-9-]+)[^"]*",\s*# (.*)', line)
        for place in re.findall(r"[\w/]+\.py", found[2]) if found else ():
            assert found is not None
            module = modules_of.get(found[1], found[1].replace("-", "_"))
            text = (ROOT / place).read_text()
            used = {top(name) for name, _ in imports(ROOT / place)}
            assert module in used or f'"{module}' in text, f"{place} does not use {module}"


def test_constraints_are_names_and_versions() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert len(lines) > 50
    for line in lines:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9._!]+(\+[a-z0-9.]+)?", line), line


def test_no_file_names_a_registry() -> None:
    registry = re.compile(
        r"--(extra-)?index-url|--find-links|files\.pythonhosted|https?://[\w.-]*(pypi|download\.pytorch)"
        r"|https?://[\w.-]+/simple\b"
    )
    for path in tracked():
        if path == Path(__file__) or path.suffix in (".png", ".svg", ".parquet"):
            continue
        found = registry.search(path.read_text(encoding="utf-8", errors="replace"))
        assert not found, f"{path.relative_to(ROOT)}: {found}"


# -- habits --------------------------------------------------------------------------------------


@pytest.mark.parametrize("package", [*FLOORS, "tests", "benchmarks"])
def test_every_module_says_what_it_is_for(package: str) -> None:
    for path in modules(package):
        assert ast.get_docstring(ast.parse(path.read_text())), path


def test_no_module_prints() -> None:
    for package in (*FLOORS, "benchmarks"):
        for path in modules(package):
            calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
            names = [call.func.id for call in calls if isinstance(call.func, ast.Name)]
            assert "print" not in names, path
