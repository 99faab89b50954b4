"""The chain omission, then Wanda on what remains."""

from spaces.omission import OmissionSpace
from spaces.space import Point, Trial
from spaces.wanda import Percent, Step, WandaSpace
from trainables.stage import Facts, Stage


class OmissionWandaSpace(OmissionSpace, WandaSpace):
    """Skip up to `max_skip` blocks, then zero `low` to `high` percent of each row."""

    high: Percent = 50
    step: Step = 10

    def starts(self, facts: Facts) -> list[Point]:
        """The omission rankings at the lowest sparsity."""
        return [point | {"wanda.percent": self.low} for point in super().starts(facts)]

    def stages(self, trial: Trial, facts: Facts) -> list[Stage]:
        omitted = OmissionSpace.stages(self, trial, facts)
        return [*omitted, *WandaSpace.stages(self, trial, facts)]
