"""Similarity pruning in passes with retraining, then Wanda on what is left, retrained or not.

The tables of the source are points of this space: threshold and k, one pass or two, everything
retrained or only the neighbours of cuts, and how many percent Wanda takes afterwards.
"""

from typing import Any

from spaces.space import Choices, Space, Trial
from spaces.wanda import Percent
from trainables.core.spec import Count, TrainSpec
from trainables.recover import Freeze, Recover
from trainables.similarity.iterative import Iterate
from trainables.similarity.method import Rule, Similarity, SimilarityPerSample
from trainables.stage import Bench, Facts, Stage
from trainables.wanda import Wanda


class SimilaritySpace(Space):
    """Clusters of blocks more alike than a threshold (percent) keep some of their blocks.

    Attributes:
        per_sample: the published tables' biased similarity, whose thresholds are other numbers.
        wanda: percent of each row that become zero in the end; 0 for none.
        recover: how every retraining is done.
        max_drop: how much worse than the original a pass may be before it is undone: points of
            `metric`, or percent of the original's where less is better (perplexity, loss).
        metric: what passes are judged by; empty: perplexity, accuracy or ROUGE-L, by the task.
        watch: a metric to report after every epoch, for the study's scheduler.
    """

    thresholds: Choices[float] = (99.0, 98.0, 95.0)
    k: Choices[Count] = (1, 2)
    rule: Rule = "anchor"
    per_sample: bool = False
    passes: Choices[Count] = (1, 2)
    freeze: Choices[Freeze] = ("none", "part")
    wanda: Choices[Percent] = (0, 10, 20, 30, 40, 50)
    recover: TrainSpec = TrainSpec()
    max_drop: float = 4.0
    max_k: Count = 3
    metric: str = ""
    watch: str = ""

    def survey(self, bench: Bench) -> dict[str, Any]:
        """Nothing; what no trial could do is refused here. What is measured on the way, every
        trial's first pass needs."""
        method = SimilarityPerSample if self.per_sample else Similarity
        Iterate(recover=Recover(watch=self.watch), metric=self.metric, max_k=self.max_k).check(
            bench
        )
        bench.stats(method)
        return super().survey(bench)

    def stages(self, trial: Trial, facts: Facts) -> list[Stage]:
        method = SimilarityPerSample if self.per_sample else Similarity
        percent = trial.suggest_categorical("similarity.threshold", list(self.thresholds))
        start = trial.suggest_categorical("similarity.k", list(self.k))
        count = trial.suggest_categorical("similarity.passes", list(self.passes))
        frozen = trial.suggest_categorical("recover.freeze", list(self.freeze))
        training = Recover(self.recover, freeze=frozen, watch=self.watch)
        prune, most = method(float(percent), start, self.rule), max(start, self.max_k)
        chain = Iterate(prune, training, count, self.max_drop, most, self.metric)
        return [chain, *self._zeros(trial, training)]

    def _zeros(self, trial: Trial, training: Recover) -> list[Stage]:
        percent = trial.suggest_categorical("wanda.percent", list(self.wanda))
        if percent == 0:
            return []
        retrained = trial.suggest_categorical("wanda.retrain", [False, True])
        return [Wanda(percent / 100), *([training] if retrained else [])]
