"""Looking at modules while a model runs: one way to hang hooks in, and to take them out again."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from trainables.core.errors import PlanError

See: TypeAlias = Callable[[int, Tensor, Tensor], None]  # the module's number, its input, its output


@contextmanager
def watching(modules: Sequence[nn.Module], see: See, what: str = "modules") -> Iterator[None]:
    """While open, `see` is called for each call of a module, without gradients.

    Args:
        what: how the error calls the modules.

    Raises:
        PlanError: a module did not run before the end.
    """
    silent = set(range(len(modules)))

    def hang(number: int, module: nn.Module) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
            silent.discard(number)
            given = args[0] if args else next(iter(kwargs.values()))
            see(number, given, out[0] if isinstance(out, tuple) else out)

        return module.register_forward_hook(hook, with_kwargs=True)

    handles = [hang(number, module) for number, module in enumerate(modules)]
    try:
        with torch.no_grad():
            yield
    finally:
        for handle in handles:
            handle.remove()
    if silent:
        raise PlanError(
            f"{what} {sorted(silent)} never ran on the calibration data",
            do="give data that reaches every block: targets, for an encoder-decoder",
        )
