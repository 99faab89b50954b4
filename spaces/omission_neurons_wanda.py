"""The chain omission, then neurons, then Wanda on what remains."""

from spaces.neurons import NeuronsSpace
from spaces.omission import OmissionSpace
from spaces.space import Point, Trial
from spaces.wanda import Percent, Step, WandaSpace
from trainables.stage import Facts, Stage


class OmissionNeuronsWandaSpace(OmissionSpace, NeuronsSpace, WandaSpace):
    """Skip up to `max_skip` blocks, prune neurons of the others, then zero `low` to `high` percent
    of each row."""

    high: Percent = 50
    step: Step = 10

    def starts(self, facts: Facts) -> list[Point]:
        """The omission rankings with the fewest neurons gone, and the neurons' own starts without
        omission, all at the lowest sparsity."""
        mildest, *others = NeuronsSpace.starts(self, facts)
        ranked = [point | mildest for point in OmissionSpace.starts(self, facts)]
        alone = [{self._name: []} | point for point in (mildest, *others)]
        return [point | {"wanda.percent": self.low} for point in (*ranked, *alone)]

    def stages(self, trial: Trial, facts: Facts) -> list[Stage]:
        omitted = OmissionSpace.stages(self, trial, facts)
        narrowed = NeuronsSpace.stages(self, trial, facts)
        return [*omitted, *narrowed, *WandaSpace.stages(self, trial, facts)]
