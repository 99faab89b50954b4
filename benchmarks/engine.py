"""The engine against plain Ray Tune with Ray's OptunaSearch: trials per hour on the same points.

    python -m benchmarks.engine [--points 30] [--tokens 1024] [--gpus 0.5]

Both sides evaluate the same points (omission x Wanda on SmolLM2-135M, English news), each in a
fresh process on all cores (with `--gpus` on all GPUs, of which a trial gets that share), one after
the other. Plain: a function that loads the model, calibrates, applies and evaluates for every
point, under Tune's defaults but for the dashboard, which is off. Ours: `rayduce launch` with the
points as [[first]] and an empty cache. Methods and metrics are the same code on both sides, so what
differs is the engine; the metrics must be equal to the last bit, or this exits with 1.

Trials per hour count the whole of a run, from the process's start to its end, ours with the
measuring of the baseline and of what the space asks for. `steady` leaves the start out: the rate
while all workers are warm. Overhead is what lies between two trials of one worker: from the last
metric of one to the first stage of the next. It holds the fork of the model, the durable result,
Tune, the journal and the proposal of the next point. `course` tells what a launch's time went to,
part by part, from its first moment to its last; `passes`, how much of whole passes was run, as
trials begin at the block where their model first differs.

Fetches asset:smollm2-135m and asset:bbc-news (96 MB) on first use. The last line is JSON.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import mean, median
from typing import Any

from rich.console import Console
from rich.table import Table

METRICS = ("perplexity", "parameters")
WINDOW = 128  # tokens
BLOCKS = range(1, 29)  # those the space may skip
SETS: tuple[tuple[int, ...], ...] = (  # none empty: alone that is the untouched model, no trial
    (14,),
    (20,),
    (10, 14),
    (10, 14, 17),
    (12, 19, 22),
    (10, 14, 17, 24),
    (3, 9, 14, 20),
    (10, 12, 14, 17, 22),
    (5, 11, 16, 20, 26),
    (8, 10, 14, 17, 22, 24),
)
PERCENTS = (0, 30, 50)
MOST = len(SETS) * len(PERCENTS)

Point = dict[str, int]


def points(count: int) -> list[Point]:
    """The points, no two alike, as a search tries none twice; mixed: settings of one set do not
    follow each other."""
    sets, percents = len(SETS), len(PERCENTS)
    turns = [(i % sets, PERCENTS[(i + i // sets) % percents]) for i in range(MOST)]
    return [_point(SETS[which], percent) for which, percent in turns[:count]]


def _point(skip: Sequence[int], percent: int) -> Point:
    chosen = {f"omission.skip.{block:02d}": int(block in skip) for block in BLOCKS}
    return {"omission.skip.count": len(skip), **chosen, "wanda.percent": percent}


def study_file(count: int, tokens: int, gpus: float = 0.0) -> str:
    """Our side's study."""
    items = tokens // WINDOW
    first = [
        "[[first]]\n" + "".join(f'"{name}" = {value}\n' for name, value in point.items())
        for point in points(count)
    ]
    return f"""
name = "engine"
space = "omission_wanda"
[model]
id = "asset:smollm2-135m"
dtype = "float32"
[data]
dataset = "asset:bbc-news"
task = "language-modelling"
max_length = {WINDOW}
batch_size = 4
items = {{ calibration = {items}, train = 1, search = {items}, held_out = 1 }}
[objectives]
perplexity = "min"
parameters = "min"
[budget]
trials = {count}
[resources]
gpus = {gpus}
""" + "\n".join(first)


# -- the plain way -------------------------------------------------------------------------------


def evaluate_plainly(config: Point, spec: dict[str, Any]) -> None:
    """One trial as one would write it first; reports its metrics and where its time went."""
    from ray import tune

    from trainables.bench.metrics.evaluate import measure_all
    from trainables.bench.models.cards import waiter
    from trainables.core.spec import BenchSpec
    from trainables.omission.method import Omission
    from trainables.trial import open_bench
    from trainables.wanda import Wanda

    clock = [time.perf_counter()]
    bench = open_bench(BenchSpec(**spec))
    finish = waiter(bench.model)
    clock.append(time.perf_counter())
    skip = [block for block in BLOCKS if config[f"omission.skip.{block:02d}"]]
    Omission(skip=tuple(skip)).apply(bench.model, {})
    stats = Wanda.calibrate(bench.model, bench.batches("calibration"))
    finish()
    clock.append(time.perf_counter())
    Wanda(config["wanda.percent"] / 100).apply(bench.model, stats)
    finish()
    clock.append(time.perf_counter())
    found = measure_all(bench, METRICS, "search")
    clock.append(time.perf_counter())
    spent = [after - before for before, after in pairwise(clock)]
    names = ("load", "calibrate", "apply", "evaluate")
    tune.report({**found, **dict(zip(names, spent, strict=True))})


def plain(study: Path) -> None:
    """The plain side: writes one JSON line per trial to plain.jsonl beside the study."""
    import optuna
    import ray
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    from search.study.load import load_study

    given = load_study(study)
    wanted = [dict(point) for point in given.first]
    choices: dict[str, Any] = {
        name: optuna.distributions.IntDistribution(0, 1) for name in wanted[0]
    }
    choices["omission.skip.count"] = optuna.distributions.IntDistribution(0, 8)
    choices["wanda.percent"] = optuna.distributions.IntDistribution(0, 50, step=10)
    spec = given.bench_spec(study.parent / "plain-cache", naive=True).model_dump()
    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    trial = tune.with_parameters(evaluate_plainly, spec=spec)
    results = tune.Tuner(
        tune.with_resources(trial, {"cpu": 1, "gpu": given.resources.gpus}),
        tune_config=tune.TuneConfig(
            search_alg=OptunaSearch(
                choices, metric=list(METRICS), mode=["min", "min"], points_to_evaluate=wanted
            ),
            num_samples=len(wanted),
        ),
        run_config=tune.RunConfig(storage_path=str(study.parent / "plain"), verbose=0),
    ).fit()
    lines = [json.dumps(result.metrics, default=str) for result in results]
    (study.parent / "plain.jsonl").write_text("\n".join(lines))


# -- both sides ----------------------------------------------------------------------------------


def run(study: Path, *command: str) -> float:
    """Run one side in a fresh process; the seconds it took."""
    here = Path(__file__).resolve().parent.parent
    threads = {"OMP_NUM_THREADS": "1", "RAY_AIR_NEW_OUTPUT": "0", "PYTHONPATH": str(here)}
    began = time.perf_counter()
    with (study.parent / f"{command[0]}.log").open("w") as log:
        arguments = [sys.executable, "-m", *command, str(study)]
        done = subprocess.run(arguments, stdout=log, stderr=log, env=os.environ | threads, cwd=here)
    if done.returncode:
        raise SystemExit(f"{command[0]} failed:\n{Path(log.name).read_text()[-3000:]}")
    return time.perf_counter() - began


Key = tuple[tuple[str, int], ...]
Found = dict[Key, set[tuple[float, ...]]]  # point -> its metrics, as often as they differ


def read_plain(folder: Path) -> tuple[Found, dict[str, float]]:
    """The plain side's metrics, and its mean seconds per trial."""
    rows = [json.loads(line) for line in (folder / "plain.jsonl").read_text().splitlines()]
    found = _gathered((row["config"], row) for row in rows)
    parts = ("load", "calibrate", "apply", "evaluate")
    return found, {part: mean(row[part] for row in rows) for part in parts}


def read_ours(folder: Path) -> tuple[Found, list[dict[str, Any]]]:
    """Our metrics without the baseline's, and all records, the baseline's first."""
    from search.journal.store import Store
    from search.journal.view import read

    view = read(Store(folder / "runs", "engine"))
    for trial in view.trials:
        if trial.state != "complete":
            raise SystemExit(f"{trial.name} failed: {trial.reason}")
    found = _gathered((trial.params, trial.metrics) for trial in view.trials)
    return found, [dict(result.record) for result in view.results]


def _gathered(pairs: Iterable[tuple[Mapping[str, int], Mapping[str, float]]]) -> Found:
    found: Found = defaultdict(set)
    for point, metrics in pairs:
        found[_key(point)].add(tuple(metrics[name] for name in METRICS))
    return dict(found)


def _key(point: Mapping[str, int]) -> Key:
    return tuple(sorted(point.items()))


def differences(theirs: Found, ours: Found, count: int) -> list[str]:
    """Every point must be on both sides, with one result, to the last bit; what is not so."""
    wanted = {_key(point) for point in points(count)}
    told = []
    for key in sorted(wanted | theirs.keys() | ours.keys()):
        plain, mine = theirs.get(key, set()), ours.get(key, set())
        if plain != mine or len(plain) != 1:
            point = ", ".join(f"{name} {value}" for name, value in key if value)
            asked = "" if key in wanted else ", which nobody asked for"
            told.append(
                f"{point or 'no change'}{asked}: plain {sorted(plain)}, ours {sorted(mine)}"
            )
    return told


def breakdown(records: list[dict[str, Any]], wall: float, workers: int) -> dict[str, float]:
    """Mean seconds of a worker per trial: opening, stages, evaluation, and all else."""
    count = len(records)
    opened = {record["worker"]: record["opened"] for record in records}
    spent = {
        "load": sum(opened.values()) / count,
        "stages": mean(record["seconds"]["stages"] for record in records),
        "evaluate": mean(record["seconds"]["evaluate"] for record in records),
    }
    return spent | {"rest": wall * workers / count - sum(spent.values())}


def course(
    baseline: Mapping[str, Any], records: Sequence[Mapping[str, Any]], began: float, ended: float
) -> dict[str, float]:
    """Seconds of a launch by part, one after the other.

    Args:
        began, ended: when the process did, in seconds since the epoch.
    """
    opened = baseline["began"] - baseline["opened"]
    first = min(record["began"] for record in records)
    last = max(record["began"] + record["seconds"]["total"] for record in records)
    return {
        "imports, Ray's start, the worker's imports": opened - began,
        "opening model and data": baseline["opened"],
        "the untouched model, and what the space asks": first - baseline["began"],
        "trials": last - first,
        "the last results, closing Ray and the ledger": ended - last,
    }


def gaps(records: list[dict[str, Any]]) -> list[float]:
    """Seconds between two trials of one worker."""
    by_worker = defaultdict(list)
    for record in sorted(records, key=lambda record: record["began"]):
        by_worker[record["worker"]].append(record)
    return [
        after["began"] - before["began"] - before["seconds"]["total"]
        for mine in by_worker.values()
        for before, after in pairwise(mine)
    ]


def steady(records: list[dict[str, Any]]) -> float:
    """Trials per hour from when every worker has begun its first to the end of the last."""
    begun: dict[str, float] = {}
    for record in records:
        begun[record["worker"]] = min(record["began"], begun.get(record["worker"], 1e12))
    warm = max(begun.values())
    ends = [record["began"] + record["seconds"]["total"] for record in records]
    rate: float = 3600 * sum(end > warm for end in ends) / (max(ends) - warm)
    return rate


def compare(count: int, tokens: int, gpus: float, folder: Path) -> dict[str, Any]:
    """Run both sides and put them side by side."""
    study = folder / "engine.toml"
    study.write_text(study_file(count, tokens, gpus))
    theirs = run(study, "benchmarks.engine", "--plain")
    started = time.time()
    ours = run(study, "search", "launch", "--storage", str(folder / "runs"))
    wanted, parts = read_plain(folder)
    found, (baseline, *records) = read_ours(folder)
    workers = len({record["worker"] for record in (baseline, *records)})
    passes = [record["passes"] for record in (baseline, *records)]
    between, unlike = gaps(records), differences(wanted, found, count)
    for line in unlike:
        sys.stderr.write(f"not equal: {line}\n")
    return {
        "baseline": 3600 * count / theirs,
        "ours": 3600 * count / ours,
        "ratio": theirs / ours,
        "equal": not unlike,
        "overhead_s_per_trial": mean(between),
        "overhead_median_s": median(between),
        "overhead_worst_s": max(between),
        "steady_ours": steady(records),
        "course": course(baseline, records, started, started + ours),
        "passes": [sum(one["whole"] for one in passes), sum(one["done"] for one in passes)],
        "points": count,
        "tokens": tokens,
        "gpus": gpus,
        "workers": workers,
        "not_evaluated_again": sum(record["same_as"] is not None for record in records),
        "breakdown": {
            "baseline": parts | {"rest": theirs * workers / count - sum(parts.values())},
            "ours": breakdown(records, ours, workers),
        },
    }


def show(found: dict[str, Any], console: Console) -> None:
    """The tables for people."""
    table = Table("", "plain Ray Tune", "Rayduce", title=f"{found['points']} points")
    rates = [f"{found[side]:.0f}" for side in ("baseline", "ours")]
    table.add_row("trials per hour", *rates)
    theirs, ours = found["breakdown"]["baseline"], found["breakdown"]["ours"]
    table.add_row(
        "seconds of a worker per trial", *(f"{sum(s.values()):.2f}" for s in (theirs, ours))
    )
    table.add_row("  opening model and data", f"{theirs['load']:.2f}", f"{ours['load']:.2f}")
    stages = theirs["calibrate"] + theirs["apply"]
    table.add_row("  calibrating and applying", f"{stages:.2f}", f"{ours['stages']:.2f}")
    table.add_row("  evaluating", f"{theirs['evaluate']:.2f}", f"{ours['evaluate']:.2f}")
    table.add_row("  processes, Ray, all else", f"{theirs['rest']:.2f}", f"{ours['rest']:.2f}")
    console.print(table)
    for part, seconds in found["course"].items():
        console.print(f"{seconds:7.1f} s  {part}")
    console.print("{:,} block-forwards in whole passes, {:,} run".format(*found["passes"]))
    console.print(
        f"{found['ratio']:.1f}x the trials per hour; metrics equal: {found['equal']}; "
        f"{found['overhead_s_per_trial']:.3f} s on average between two trials of a worker; "
        f"{found['steady_ours']:.0f} trials per hour once warm; "
        f"{found['not_evaluated_again']} of {found['points']} not evaluated again"
    )


def main(arguments: Sequence[str]) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--points", type=int, default=MOST)
    parser.add_argument("--tokens", type=int, default=1024, help="per pass over the data")
    parser.add_argument("--gpus", type=float, default=0.0, help="per trial, or a share of one")
    parser.add_argument("--keep", type=Path, help="work in this folder, and leave it")
    parser.add_argument("--plain", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if not 1 <= given.points <= MOST:
        parser.error(f"--points: got {given.points}, allowed: 1 to {MOST}")
    if given.plain:
        plain(given.plain)
        return
    from search.engine.preflight import gpu_count

    if not 0 <= given.gpus <= (there := gpu_count()):
        parser.error(f"--gpus: got {given.gpus}, allowed: 0 to {there}, what there is here")
    from trainables.bench.assets.fetch import fetch

    for asset in ("smollm2-135m", "bbc-news"):
        fetch(asset)
    with tempfile.TemporaryDirectory() as scratch:
        folder = (given.keep or Path(scratch)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        found = compare(given.points, given.tokens, given.gpus, folder)
    show(found, Console(width=110))
    sys.stdout.write(json.dumps({"engine": found}) + "\n")
    raise SystemExit(0 if found["equal"] else 1)


if __name__ == "__main__":
    main(sys.argv[1:])
