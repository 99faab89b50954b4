"""What a space may know of the model before it proposes anything; gathered by the baseline."""

from typing import Any, Protocol

from trainables.stage import Bench, Facts, Stage


class SpaceLike(Protocol):
    """What a worker asks of a space."""

    def survey(self, bench: Bench) -> dict[str, Any]: ...

    def stages(self, trial: Any, facts: Facts) -> list[Stage]: ...


def gather(bench: Bench, space: SpaceLike) -> Facts:
    """Look at the bench's model; families without blocks have none to tell of."""
    from trainables.bench.metrics.cost import count_parameters
    from trainables.bench.models.structure import fixed_blocks, stacks

    model = bench.model
    found = stacks(model)
    return Facts(
        blocks=sum(len(stack.blocks) for stack in found),
        stacks=tuple(len(stack.blocks) for stack in found),
        fixed=tuple(sorted(fixed_blocks(model))),
        parameters=count_parameters(model),
        survey=space.survey(bench),
    )
