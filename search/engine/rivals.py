"""What a trial runs against where a study races: the untouched model, and the front as it is."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from search.journal.journal import Journal
from search.journal.results import front
from search.journal.view import result_of
from search.study.options import RacingOptions
from search.study.schema import Study
from trainables.bench.metrics.race import Limit, Race, Rival
from trainables.core.errors import MetricError
from trainables.core.scores import read_scores, scores_file


@dataclass
class Rivals:
    """Reads what the items of each model scored once."""

    study: Study
    journal: Journal
    results: Path
    _scores: dict[int, str] = field(default_factory=dict)

    def race(self) -> Race | None:
        """For the next trial; None where nothing races, or there is no baseline."""
        rows = self.journal.trials()
        if self.study.scheduler.name != "racing" or self.journal.baseline() is None:
            return None
        done = [one for one in map(result_of, rows) if one.state == "complete"]
        chosen = front(done, self.study.objectives)
        options = RacingOptions.model_validate(self.study.scheduler.options)
        return Race(
            objectives=dict(self.study.objectives),
            limits=tuple(
                Limit(one.metric, one.at_most, one.factor, one.offset, one.key)
                for one in self.study.limits
            ),
            baseline=self._rival(0, done[0].metrics),
            front=tuple(self._rival(one.number, one.metrics) for one in chosen),
            first=options.first,
            factor=options.factor,
        )

    def _rival(self, number: int, metrics: Mapping[str, float]) -> Rival:
        if number not in self._scores:
            self._scores[number] = self._read(number)
        return Rival(number, dict(metrics), self._scores[number])

    def _read(self, number: int) -> str:
        """Nothing where there is no file: that model then wins nothing by its items."""
        try:
            found = read_scores(scores_file(self.results, self.journal.uid(number)))
        except (MetricError, OSError):
            return ""
        return "" if found is None else found.text()
