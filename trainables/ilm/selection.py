"""A chosen layer as a file: the JSON that the ILM code writes and reads."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trainables.core.cache import write_durably
from trainables.core.errors import PlanError
from trainables.ilm.effects import best_layer


@dataclass(frozen=True)
class Selection:
    """Which layer was chosen, and by which effects.

    Attributes:
        slm_type, llm_type: the small model, and the one whose layer it is.
        effects: one per layer, as shares of the samples.
        best_llm_layer: from 0 on.
    """

    task: str
    dataset: str
    slm_type: str
    llm_type: str
    n_samples: int
    n_pcs: int
    top_pc: int
    effects: tuple[float, ...]
    best_llm_layer: int
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**asdict(self), "effects": list(self.effects)}

    def write(self, path: Path) -> None:
        """Write the file."""
        write_durably(path, json.dumps(self.to_dict(), indent=2))

    @classmethod
    def read(cls, path: Path | str) -> "Selection":
        """The file that `write`, or the ILM code, wrote; keys it does not know are left alone.

        Raises PlanError where there is no such file, or it is no selection.
        """
        try:
            return cls.from_dict(json.loads(Path(path).expanduser().read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            what = f"no layer selection in {path}: {error}"
            raise PlanError(what, allowed="a JSON file with effects and best_llm_layer") from error

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Selection":
        """The inverse of `to_dict`. Raises ValueError for what is none."""
        missing = [name for name in cls.__dataclass_fields__ if name not in data]
        if missing:
            raise ValueError(f"it has no {missing[0]}")
        effects = tuple(float(one) for one in data["effects"])
        best = int(data["best_llm_layer"])
        if not 0 <= best < len(effects):
            raise ValueError(f"best_llm_layer = {best}, of {len(effects)} layers")
        known = {name: data[name] for name in cls.__dataclass_fields__}
        return cls(**{**known, "effects": effects, "best_llm_layer": best})

    @property
    def consistent(self) -> bool:
        """Whether the layer is the first with the largest effect."""
        return self.best_llm_layer == best_layer(self.effects)
