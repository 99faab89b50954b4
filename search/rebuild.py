"""Makes a model by the stages of a trial: judged once on held-out data, saved, proven.

Runs in this process, without Ray. The folder appears when everything in it is there and a fresh
process has loaded it and said the same.
"""

import contextlib
import glob
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.engine.preflight import gpu_count
from search.journal.results import Result
from search.journal.view import View
from search.report.best import is_worse
from search.report.format import story
from search.report.model_card import UNTOUCHED, Export, Twins, card, savings
from search.report.provenance import compression, trial_toml
from search.report.rows import cells
from search.study.load import study_toml
from search.study.schema import Study
from trainables.core.errors import UserError

if TYPE_CHECKING:
    from trainables.bench.bench import Bench
    from trainables.bench.metrics.artefact import Cost
    from trainables.bench.models.save import Form, Saved
    from trainables.bench.models.verify import Proof
    from trainables.stage import Stage

TWINS = ("one-pass Wanda", "sequential Wanda")
Said = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """A model to be made.

    Attributes:
        view: the study whose model, data and metrics these are.
        result: the trial that the stages come from.
        cache: the folder of what trials share.
        again: the commands that make the same folder.
        searched: whether the trial's metrics are this very model's; not where its stages are
            applied to another one.
        form: what the folder itself holds where transformers cannot build the model as it is.
        instead: stages whose model is saved where it is no worse.
    """

    view: View
    result: Result
    stages: "Sequence[Stage]"
    cache: Path
    again: str
    searched: bool = True
    form: "Form" = "plain"
    instead: "Sequence[Stage]" = ()


def make(plan: Plan, target: Path, said: Said) -> str:
    """Make a plan's model into a folder that `free` gave; returns what to tell the user.

    Raises:
        UserError: stages that fail, a model that does not reload, a folder that cannot be written.
    """
    with _building(target) as folder:
        made = _made(plan, folder, said)
        _explain(plan, made, folder)
    return _report(plan.view, made, target)


def free(to: Path) -> Path:
    """Where a folder is to be made; asked before there is any work to lose."""
    target = to.expanduser().resolve()
    for place in (target, target.parent):
        _sweep(place, target.name)
    try:
        taken = target.exists() and (not target.is_dir() or any(target.iterdir()))
    except OSError as error:
        raise UserError(f"--to: cannot look into {target}: {error.strerror}") from error
    if taken:
        raise UserError("--to: the folder is not empty", got=str(to), do="name a new one")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--to: cannot make {target.parent}: {error.strerror}") from error
    return target


def _sweep(place: Path, name: str) -> None:
    """Delete what exports into a folder left when they were killed; those that run are let be."""
    with contextlib.suppress(OSError):
        for left in place.glob(f".{glob.escape(name)}.*.tmp"):
            process = left.name.removesuffix(".tmp").rpartition(".")[2]
            if process.isdigit() and not _runs(int(process)):
                shutil.rmtree(left, ignore_errors=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


@contextlib.contextmanager
def _building(target: Path) -> Iterator[Path]:
    """A folder that takes the target's place when all went well; into one that is there already,
    and may be a link or a disk of its own, its files move."""
    there = target.is_dir()
    folder = (target if there else target.parent) / f".{target.name}.{os.getpid()}.tmp"
    try:
        folder.mkdir()
    except OSError as error:
        raise UserError(f"--to: cannot write to {folder.parent}: {error.strerror}") from error
    try:
        yield folder
        if there:
            for path in list(folder.iterdir()):
                path.rename(target / path.name)
        else:
            folder.rename(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# -- the work ----------------------------------------------------------------------------------


def _made(plan: Plan, folder: Path, said: Said) -> Export:
    """Do the stages, judge, save and prove."""
    from trainables.bench.bench import hardware
    from trainables.bench.models.save import save

    said("loading the model and the data")
    opened, name = bench_for(plan), plan.view.study.name
    said("measuring the untouched model on held-out data")
    untouched = opened.fork(f"{name}/0").measure(opened.spec.objectives, "held_out").values
    said(f"replaying {story(plan.result)}, then measuring it on held-out data")
    bench = opened.fork(f"{name}/{plan.result.number}" if plan.searched else "")
    model = replayed = _judged(bench, plan.stages)
    twins, other = _twins(plan, opened, replayed, said)
    if other is not None:
        model = other
    said("saving, and loading it in a fresh process")
    made_by = model.bench
    saved = save(made_by.model, made_by.processor, bench.spec.data.task, folder, plan.form)
    proofs, costs = _proven(made_by, saved, folder)
    made = Export(
        result=_result(plan, model.record, own=model is replayed),
        held_out=model.held_out,
        untouched=untouched,
        lineage=model.record["lineage"],
        fingerprint=bench.data.fingerprint("held_out"),
        saved=saved,
        proof="; ".join(map(str, proofs)),
        costs=costs,
        hardware=hardware(bench)["device"],
        again=plan.again,
        searched=plan.searched,
        drifted=_drifted(plan, replayed),
        twins=twins,
    )
    bench.cache.release()
    return made


@dataclass(frozen=True)
class _Judged:
    """A model that was made: what its stages did, and its metrics on held-out data."""

    bench: "Bench"
    record: dict[str, Any]
    held_out: dict[str, float]

    @property
    def metrics(self) -> dict[str, dict[str, float]]:
        """By role."""
        return {"search": self.record["metrics"], "held_out": self.held_out}


def _judged(bench: "Bench", stages: "Sequence[Stage]") -> _Judged:
    record = do_stages(bench, stages)
    # once, here, nowhere else; nothing is decided by it
    return _Judged(bench, record, bench.measure(bench.spec.objectives, "held_out").values)


def _twins(
    plan: Plan, opened: "Bench", replayed: _Judged, said: Said
) -> tuple[Twins | None, _Judged | None]:
    """The other stages tried: both models' metrics, and the other model where it is to be saved."""
    if not plan.instead:
        return None, None
    said("the same with sequential Wanda, block by block, as published")
    try:
        other = _judged(opened.fork(), plan.instead)
    except UserError as error:  # several stacks, numbers that are not finite
        said(f"no sequential Wanda: {error}")
        return None, None
    taken = not is_worse(plan.view, other.metrics["search"], replayed.metrics["search"])
    return Twins(TWINS, replayed.metrics, other.metrics, taken), other if taken else None


def _drifted(plan: Plan, replayed: _Judged) -> tuple[str, str] | None:
    """The lineages of the replay and of the trial, where they are not the same."""
    here, there = str(replayed.record["lineage"]), plan.result.lineage
    return (here, str(there)) if plan.searched and here != there else None


def bench_for(plan: Plan) -> "Bench":
    """What the plan's trial worked on; on the CPU where there is no GPU."""
    return bench_of(plan.view.study, plan.cache)


def bench_of(study: Study, cache: Path, metrics: Sequence[str] | None = None) -> "Bench":
    """A study's bench in this process, on a GPU only where there is one.

    Args:
        metrics: what is measured on search data when stages are done; None: as in a trial.
    """
    from trainables.trial import open_bench

    spec = study.bench_spec(cache)
    if metrics is not None:
        spec = spec.model_copy(update={"objectives": tuple(metrics)})
    if spec.device == "cuda":  # as far as there are any here
        here = gpu_count()
        given = {"device": "cuda" if here else "cpu", "cards": min(spec.cards, max(here, 1))}
        spec = spec.model_copy(update=given)
    return open_bench(spec)


def do_stages(bench: "Bench", stages: "Sequence[Stage]") -> dict[str, Any]:
    """The record of the stages, which decide on `search`, as the trial did."""
    from trainables.stage import drain
    from trainables.trial import reason, run_stages

    try:
        return drain(run_stages(bench, stages))
    except UserError:
        raise
    except Exception as error:  # whatever a stage does to a model; one message tells the place
        raise UserError(f"the stages fail on {bench.spec.model.id}: {reason(error)}") from error


def _result(plan: Plan, record: dict[str, Any], *, own: bool) -> Result:
    """Args: own: whether the stages are the plan's own."""
    if plan.searched and own:
        kept = {**plan.result.record, "stages": record["stages"]}
        return replace(plan.result, record=kept)
    return replace(plan.result, metrics=record["metrics"], record=record)


def _proven(
    bench: "Bench", saved: "Saved", folder: Path
) -> tuple[list["Proof"], dict[str, "Cost"]]:
    """That every form loads in a fresh process, and what it costs there; the untouched model, saved
    and loaded alike, is `untouched`."""
    from trainables.bench.metrics.artefact import MEASURE, Cost, cost
    from trainables.bench.models.save import EXACT, save
    from trainables.bench.models.verify import prove

    base, proofs, costs = bench.fork(), [], dict[str, Cost]()
    batches = [one.data.batches("held_out")[0] for one in (base, bench)]
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".untouched-") as name:
        place = Path(name)
        load = save(base.model, None, bench.spec.data.task, place).load

        def untouched() -> Cost:
            return cost(prove(load, place, base.model, batches[0], MEASURE).measured, place)

        costs[UNTOUCHED] = untouched()
        for form, python in saved.forms.items():
            proofs.append(prove(python, folder, bench.model, batches[1], MEASURE))
            costs[form] = cost(proofs[-1].measured, folder / form, "" if form else EXACT)
        costs[UNTOUCHED] = costs[UNTOUCHED].again(untouched())  # a machine may get busy meanwhile
    return proofs, costs


# -- what the folder says ----------------------------------------------------------------------


def _explain(plan: Plan, made: Export, folder: Path) -> None:
    """The files that say what the folder is."""
    told = compression(plan.view, made.result)
    told["metrics"] |= {"held_out": made.held_out, "baseline_held_out": made.untouched}
    told["fingerprints"] |= {"held_out": made.fingerprint}
    told["load"] = {"python": made.saved.load, "plain_transformers": made.saved.plain}
    told["costs"] = {name or ".": asdict(one) for name, one in made.costs.items()}
    told["rebuild"] = plan.again.splitlines()[-1]
    if made.twins:
        told["wanda"] = made.twins.data()
    if made.saved.exact:
        told["load"]["exact"] = made.saved.exact
    files = {
        "compression.json": json.dumps(told, indent=2),
        "README.md": card(plan.view, made),
        "trial.toml": trial_toml(plan.view, plan.result if made.twins else made.result),
    }
    if plan.searched:
        files["study.toml"] = study_toml(plan.view.study)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    mode = (folder / "README.md").stat().st_mode
    for weights in folder.rglob("*.safetensors"):  # written for the owner's eyes alone
        weights.chmod(mode)


def _report(view: View, made: Export, target: Path) -> str:
    """What the user is told at the end."""
    lines = [f"{view.study.name}, {made.result.name}: {story(made.result)}"]
    lines += [f"note: {made.drift}"] if made.drift else []
    lines += made.twins.told(view) if made.twins else []
    searched = cells(view.study, made.result.metrics, {})
    untouched = cells(view.study, made.untouched, {})
    where = "in the search" if made.own else "on search items"
    for name, found in cells(view.study, made.held_out, {}).items():
        lines.append(
            f"  {name}: {found} held out ({searched.get(name, 'unknown')} {where};"
            f" untouched {untouched[name]} held out)"
        )
    lines.append(f"saved to {target}; a fresh process loads it: {made.proof}")
    lines += [f"  {line}" for line in savings(made)]
    lines += [f"  {line}" for line in made.saved.load.format(folder=repr(str(target))).splitlines()]
    return "\n".join([*lines, made.saved.note] if made.saved.note else lines)
