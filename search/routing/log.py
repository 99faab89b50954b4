"""What a routing study has come to, in its journal: from there the ledger and all verbs have it.

Its trials are the ways of choosing that can be served. Beside them, under `<study>/<part>` in the
same storage, lie the steps on the way: searches of sets, routers, and marks to hold ways against.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from optuna.storages import RDBStorage

from search.journal.fence import Driver
from search.journal.journal import Journal
from search.journal.store import Store, launched, open_storage, write_text
from search.ledger.mirror import Mirror
from search.study.load import study_toml
from search.study.routing import GOALS
from search.study.schema import Study
from trainables.core.errors import UserError
from trainables.core.pictures import Picture, picture_data
from trainables.core.places import git_commit


def step(
    stage: str, settings: Mapping[str, Any], *, pictures: Sequence[Picture] = ()
) -> dict[str, Any]:
    """What was done, as a trial's record has it."""
    shown = [picture_data(one) for one in pictures]
    told = {"stage": stage, "settings": dict(settings), "counts": {}, "pictures": shown}
    return told | {"effects": [stage] if settings else []}


@dataclass
class Log:
    """The journals of a study that runs, and its ledger."""

    study: Study
    store: Store
    storage: RDBStorage
    driver: Driver
    mirror: Mirror
    _open: dict[str, Journal] = field(default_factory=dict)

    @property
    def main(self) -> Journal:
        """That of its trials."""
        return self.journal("", GOALS)

    def journal(self, part: str, goals: Mapping[str, str]) -> Journal:
        """That of a part."""
        if part not in self._open:
            name = f"{self.study.name}/{part}" if part else self.study.name
            self._open[part] = Journal(self.storage, name, goals, {}, self.driver)
        return self._open[part]

    def begin(self, identity: str) -> None:
        """Note what this launch is. What other settings, data or weights came to makes room.

        Raises UserError where a study of another kind has its name.
        """
        for before, place in launched(self.store, self.storage):
            if before.route is None:
                do = "another study, which `launch` made, has this name there: rename one"
                raise UserError(f"name: {place} is taken", got=self.study.name, do=do)
        if self.main.noted("identity") not in (None, identity):
            for journal in self._open.values():
                journal.close()
            self._open.clear()
            name = self.study.name
            for one in self.storage.get_all_studies():
                if one.study_name == name or one.study_name.startswith(f"{name}/"):
                    self.storage.delete_study(one._study_id)
        text = study_toml(self.study)
        write_text(self.store.toml, text)
        notes = {"identity": identity, "toml": text, "git_commit": git_commit()}
        for key, value in notes.items():
            self.main.note(key, value)

    def tell(self, journal: Journal, records: Sequence[Mapping[str, Any]]) -> None:
        """Let a journal have these results, in this order; those it has it keeps."""
        for number, record in enumerate(records):
            if number == len(journal.trials()):
                journal.rows.open({}, {}, {}, {})
            if not journal.trials()[number].state.is_finished():
                journal.settle(number, record)

    def keep(self, *files: str) -> None:
        """Let the ledger have files of the study's folder."""
        known = self.main.noted("files") or []
        if new := [one for one in files if one not in known]:
            self.main.note("files", [*known, *new])

    def close(self) -> None:
        """Let another driver have the study; the ledger gets what it lacks."""
        if self._open:
            self.mirror.close()
        for journal in self._open.values():
            journal.close()


@contextmanager
def opened_log(study: Study, driver: Driver) -> Iterator[Log]:
    """The study's journals, while it is locked."""
    store = Store.of(study)
    storage = open_storage(store, create=True)
    log = Log(study, store, storage, driver, Mirror(study, store))
    try:
        yield log
    finally:
        log.close()
