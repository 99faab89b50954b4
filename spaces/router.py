"""The router's settings: what it learns, how its encoder is fine-tuned, and which encoder it is."""

from typing import Any

from spaces.space import Point, Trial
from trainables.routing.spec import RouterSearch, RouterSpec

LOWEST, HIGHEST = 1e-6, 2e-4  # rates


def vary(trial: Trial, base: RouterSpec, wanted: RouterSearch) -> RouterSpec:
    """Vary what matters most around a study's own settings."""
    changed: dict[str, Any] = {
        "lr": trial.suggest_float(
            "router.lr", min(LOWEST, base.lr), max(HIGHEST, base.lr), log=True
        ),
        "epochs": trial.suggest_int("router.epochs", 1, base.epochs),
        "centre": trial.suggest_categorical("router.centre", [False, True]),
    }
    for name, choices in (("target", wanted.targets), ("encoder", wanted.encoders)):
        if choices:
            changed[name] = trial.suggest_categorical(f"router.{name}", list(choices))
    return base.model_copy(update=changed)


def start(base: RouterSpec, wanted: RouterSearch) -> Point:
    """The study's own settings, as the first point to try."""
    point: Point = {
        "router.lr": base.lr,
        "router.epochs": base.epochs,
        "router.centre": base.centre,
    }
    own = {"target": (base.target, wanted.targets), "encoder": (base.encoder, wanted.encoders)}
    return point | {f"router.{name}": one for name, (one, known) in own.items() if one in known}
