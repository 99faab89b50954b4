"""The model card of an exported trial: what it is, how good it is, how it loads."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.journal.results import Result, Step
from search.journal.view import View
from search.report.format import cell, delta, measured_on, story
from search.report.provenance import read_as
from search.report.rows import cells
from trainables.bench.assets.catalogue import ASSETS
from trainables.core.places import called

if TYPE_CHECKING:
    from trainables.bench.metrics.artefact import Cost
    from trainables.bench.models.save import Saved

UNTOUCHED = "untouched"  # the form that the others are compared with
FLAG = "--as-searched"
LICENCE = re.compile(r"^license:\s*(.+?)\s*$", re.MULTILINE)

ORDER = (
    "With several workers trials may come in another order: `trial.toml` has this one's "
    "parameters, and `[[first]]` in a study takes them.\n"
)
CARD = """---
{head}
---

# {title}

{base} made smaller: {story}.

| metric | untouched | this model | change | {where} |
| --- | ---: | ---: | ---: | ---: |
{rows}

{measured}
{warning}
## Load it

```python
{load}
```

{forms}
## What it saves

{costs}
## What was done

{steps}

`compression.json` has all of it for programs: settings, effects, counts, lineage, data.

## Make it again

```
{again}
```

{order}The model's lineage is `{lineage}`; equal lineages are equal models. To compress another
model the same way: `rayduce apply compression.json --model ANOTHER --to DIR`.

## Licence

{licence}
"""


@dataclass(frozen=True)
class Twins:
    """The model as it was searched, and its twin by a slower form of the same method.

    Attributes:
        names: how the two are called.
        searched: the first one's metrics by role: search, held_out.
        sequential: the twin's.
        taken: whether the twin is what was saved.
    """

    names: tuple[str, str]
    searched: Mapping[str, Mapping[str, float]]
    sequential: Mapping[str, Mapping[str, float]]
    taken: bool

    def data(self) -> dict[str, Any]:
        """For compression.json."""
        exported = "sequential" if self.taken else "one_pass"
        return {"one_pass": self.searched, "sequential": self.sequential, "exported": exported}

    def told(self, view: View) -> list[str]:
        """In words, a line per metric that tells them apart."""
        plain, twin = self.names
        first = (
            f"searched with {plain}, exported with {twin} (block by block, as published; {FLAG} "
            "keeps the first)"
            if self.taken
            else f"searched with {plain} and exported so: {twin} (block by block, as published) "
            "was tried and is worse on search items"
        )
        ones, others = (
            {role: cells(view.study, metrics, {}) for role, metrics in one.items()}
            for one in (self.searched, self.sequential)
        )
        lines = [
            f"{name}: one-pass {ones['held_out'][name]} held out ({ones['search'][name]} on search "
            f"items), sequential {others['held_out'][name]} ({others['search'][name]})"
            for name in ones["held_out"]
            if any(one[name] != self.sequential[role][name] for role, one in self.searched.items())
        ]
        return [first, *lines]


@dataclass(frozen=True)
class Export:
    """What an export measured and wrote."""

    result: Result
    held_out: Mapping[str, float]
    untouched: Mapping[str, float]  # the untouched model, on held-out data
    lineage: str  # of the model that was saved
    fingerprint: str
    saved: "Saved"
    proof: str
    again: str  # the commands that make it again
    costs: Mapping[str, "Cost"]  # by the sub-folder of a form, and of the untouched model
    hardware: str
    searched: bool = True  # whether it comes from a search, not from stages for another model
    drifted: tuple[str, str] | None = None  # other lineages of the replay and of the trial
    twins: Twins | None = None  # where the slower form was tried

    @property
    def own(self) -> bool:
        """Whether the result is this very model's, from its search."""
        return self.searched and not (self.twins and self.twins.taken)

    @property
    def drift(self) -> str:
        """What to say where the replay did not give the very model of the search."""
        if self.drifted is None:
            return ""
        here, there = self.drifted
        return (
            f"this is not bit for bit the model of the search (lineage {here}, there {there}): it "
            "was calibrated anew, or the base model or the data changed; what holds are the values "
            "on held-out data"
        )


def card(view: View, made: Export) -> str:
    """The text of README.md."""
    study, result = view.study, made.result
    known, licence = _licence(study.model.id)
    others = [name for step in result.stages for name in step.models if name != study.model.id]
    beside = list(dict.fromkeys(others))
    place = "this folder's path"
    return CARD.format(
        head=_head([study.model.id, *beside], known),
        title=f"{study.name}, {result.name}",
        base=called(study.model.id),
        story=story(result),
        rows=_table(view, made),
        where="in the search" if made.own else "on search items",
        measured=_measured(view, made),
        warning=_warning(view, made),
        load=made.saved.load.format(folder=repr(place)),
        forms=_forms(made, place),
        costs=_costs(made),
        steps=_steps(result),
        again=made.again,
        order=ORDER if made.searched else "",
        lineage=made.lineage,
        licence=licence + _parts(beside) + _inside(made),
    )


def _inside(made: Export) -> str:
    """The licences of what of other models the folder holds."""
    lines = [
        f"- {called(what)}: " + (licence if licence != "unknown" else _UNSAID)
        for what, licence in made.saved.licences.items()
    ]
    return "\n\nAnd of what else is inside:\n\n" + "\n".join(lines) if lines else ""


_UNSAID = "unknown, its source does not say; look there before you pass it on"


def _parts(models: Sequence[str]) -> str:
    """The licences of other models that had a part in it, such as a student's own."""
    return "".join(f" {_licence(one, 'a model that had a part in it')[1]}" for one in models)


def _head(models: Sequence[str], licence: str | None) -> str:
    lines = ["library_name: transformers", "tags: [compressed, rayduce]"]
    named = [one for one in models if ":" not in one and not one.startswith("/")]
    if named:
        listed = ", ".join(named)
        lines.insert(0, f"base_model: [{listed}]" if named[1:] else f"base_model: {listed}")
    if licence:
        lines.append(f"license: {licence}")
    return "\n".join(lines)


def _table(view: View, made: Export) -> str:
    before = cells(view.study, made.untouched, {})
    after = cells(view.study, made.held_out, made.untouched)
    searched = cells(view.study, made.result.metrics, {})
    return "\n".join(
        f"| {name} | {before[name]} | {one.text} | {one.change} | {searched.get(name, '')} |"
        for name, one in after.items()
    )


def _measured(view: View, made: Export) -> str:
    """On what, for the table as a whole and for every metric."""
    data, saw = view.study.data, "what the search saw" if made.own else "on search items"
    form = read_as(made.result.record)
    seen = "neither the search nor any stage has" if made.searched else "no stage has"
    lines = [
        "The first three columns are measured on held-out data, once, after all decisions: "
        f"{data.items.held_out} items of `{called(data.dataset)}` that {seen} seen. "
        f"The last one is {saw}." + (f" Read as {form}." if form else ""),
        "",
    ]
    lines += [f"- {name}: {measured_on(view.study, name, 'held_out')}." for name in made.held_out]
    return "\n".join(lines)


def _warning(view: View, made: Export) -> str:
    told = [] if made.result.feasible else ["It misses a constraint of its study."]
    told += [f"Note: {made.drift}."] if made.drift else []
    text = "".join(f"\n**{line}**\n" for line in told)
    if made.twins:
        first, *rest = made.twins.told(view)
        text += "\n".join([f"\n{first[0].upper()}{first[1:]}.\n", *(f"- {line}." for line in rest)])
        text += "\n"
    return text


def _forms(made: Export, place: str) -> str:
    parts = [made.saved.note] if made.saved.note else []
    if made.saved.exact:
        parts.append(f"```python\n{made.saved.exact.format(folder=repr(place))}\n```")
    parts.append(f"A fresh process has loaded it and compared: {made.proof}.")
    return "\n\n".join(parts) + "\n"


COSTS = """| form | parameters | bytes on disk | memory | latency |
| --- | ---: | ---: | ---: | ---: |
{rows}

{told}

Measured on the saved files, each loaded in a fresh process, the untouched model before and after
the others, on {hardware}. Memory is that of weights, buffers and what a forward pass over one batch
adds at its highest. Latency is the median of such passes, said to be less only where nine tenths of
them are faster than nine tenths of the untouched model's.
"""


def _costs(made: Export) -> str:
    before = made.costs[UNTOUCHED]
    rows = [f"| {_named(form)} | {_sizes(one, before)} |" for form, one in made.costs.items()]
    told = "\n".join(f"- {line}" for line in savings(made))
    return COSTS.format(rows="\n".join(rows), told=told, hardware=made.hardware)


def savings(made: Export) -> list[str]:
    """Which of parameters, bytes, memory and latency each form really saves, in a line each."""
    before = made.costs[UNTOUCHED]
    found = []
    for form, one in made.costs.items():
        if form == UNTOUCHED:
            continue
        less = one.saves(before)
        others = [name for name in ("parameters", "bytes", "memory", "latency") if name not in less]
        told = f"saves {_listed(less)}" if less else "saves nothing"
        if less and others:
            told += f", but not {_listed(others)}"
        found.append(f"{_named(form)} {told}")
    return found


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _named(form: str) -> str:
    return form if form == UNTOUCHED else f"`{form}/`" if form else "this folder"


def _sizes(one: "Cost", before: "Cost") -> str:
    metrics = ("parameters", "bytes", "peak_memory", "latency_ms")
    pairs = zip(_numbers(one), _numbers(before), strict=True)
    cells = [
        f"{cell(metric, value)} {delta(metric, value, base) if one is not before else ''}".strip()
        for metric, (value, base) in zip(metrics, pairs, strict=True)
    ]
    return " | ".join(cells)


def _numbers(one: "Cost") -> tuple[float, ...]:
    return (one.parameters, one.bytes, one.memory, one.latency_ms)


def _steps(result: Result) -> str:
    lines = [f"{index}. {_step(step)}" for index, step in enumerate(result.stages, 1)]
    return "\n".join(lines) or "Nothing: this is the untouched model."


def _step(step: Step) -> str:
    settings = ", ".join(f"{name} = {value!r}" for name, value in step.settings.items())
    counts = ", ".join(f"{name} {v:,}" for name, v in step.counts.items() if isinstance(v, int))
    told = f"; {counts}" if counts else ""
    unchanged = "" if step.changed else " (changed nothing)"
    pays = f". To profit from it: {step.runtime}" if step.runtime and step.changed else ""
    return f"**{step.stage}**: {settings or 'no settings'}{told}{unchanged}{pays}"


def _licence(model: str, what: str = "the base model") -> tuple[str | None, str]:
    """The licence's short name where it is known, and a sentence."""
    asset = ASSETS.get(model.removeprefix("asset:")) if model.startswith("asset:") else None
    if asset is not None:
        return None, f"That of {what}: {asset.licence}."
    readme = Path(model) / "README.md"
    found = LICENCE.search(readme.read_text(encoding="utf-8")) if readme.is_file() else None
    if found:
        return found.group(1), f"That of {what}: {found.group(1)}."
    return None, f"That of {what}, `{called(model)}`: look there before you pass it on."
