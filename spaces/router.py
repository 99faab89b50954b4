"""The router's settings: how its encoder is fine-tuned, and which encoder it is."""

from typing import Any

from spaces.space import Point, Trial
from trainables.routing.spec import RouterSpec


def vary(trial: Trial, base: RouterSpec, *, encoders: tuple[str, ...] = ()) -> RouterSpec:
    """Vary what matters most around a study's own settings."""
    changed: dict[str, Any] = {
        "lr": trial.suggest_float("router.lr", 1e-6, 1e-4, log=True),
        "epochs": trial.suggest_int("router.epochs", 1, base.epochs),
        "centre": trial.suggest_categorical("router.centre", [False, True]),
    }
    if encoders:
        changed["encoder"] = trial.suggest_categorical("router.encoder", list(encoders))
    return base.model_copy(update=changed)


def start(base: RouterSpec, *, encoders: tuple[str, ...] = ()) -> Point:
    """The study's own settings, as the first point to try."""
    point: Point = {
        "router.lr": min(max(base.lr, 1e-6), 1e-4),
        "router.epochs": base.epochs,
        "router.centre": base.centre,
    }
    return point | ({"router.encoder": base.encoder} if base.encoder in encoders else {})
