"""What a worker of a routing study does: finds sets, answers questions under sets, trains routers.

A worker loads the model once, when it is first needed. What a piece of work returns is plain data
that depends on nothing but the study and what was asked for, so that any worker, at any time,
returns the same.
"""

import math
import random
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow.parquet as pq
import torch
import transformers
from transformers import PreTrainedModel

from trainables.bench.data.fits import check_fits
from trainables.bench.data.prompts import Question
from trainables.bench.data.roles import Data, load_data
from trainables.bench.data.split import Taken
from trainables.bench.data.tokenize import choice_rows
from trainables.bench.footprint import empty
from trainables.bench.metrics.cost import count_parameters
from trainables.bench.models.cards import cards, spread
from trainables.bench.models.check import check_model
from trainables.bench.models.load import load_config, load_model, load_processor, locate
from trainables.bench.models.structure import blocks, fixed_blocks
from trainables.bench.models.surgery import remove_blocks
from trainables.bench.training.loop import settle_products
from trainables.core.cache import Cache, digest
from trainables.core.errors import ModelError, PlanError
from trainables.core.fork import fork
from trainables.core.lineage import code, fingerprint
from trainables.core.spec import ModelSpec, Role
from trainables.core.types import Progress
from trainables.omission import losses
from trainables.omission.evaluator import PrefixEvaluator, can_pack
from trainables.omission.loss_log import Memo
from trainables.omission.losses import Loss
from trainables.omission.searches import Omit, greedy, open_positions
from trainables.routing.answers import Answers
from trainables.routing.routed_model import RoutedModel, measure
from trainables.routing.router import Router, train
from trainables.routing.spec import RouterSpec, RouteSpec
from trainables.stage import noting

Record: TypeAlias = dict[str, Any]


class RouteWork:
    """One worker's model, tokenizer and data."""

    def __init__(self, spec: RouteSpec) -> None:
        self.spec, self.device = spec, torch.device(spec.device)
        torch.set_num_threads(spec.resources.cpus)
        settle_products(self.device)
        self.cache = Cache(Path(spec.cache))
        self._data: dict[str, Data] = {}
        self._taken: dict[str, Taken] = {}
        self._evaluators: dict[tuple[str, str, int], PrefixEvaluator] = {}

    def do(self, method: str, arguments: Mapping[str, Any]) -> Generator[Progress, None, Record]:
        """A piece of work: what one of the methods below returns."""
        found: Any = getattr(self, method)(**arguments)
        record: Record = (yield from found) if isinstance(found, Generator) else found
        return record

    @cached_property
    def folder(self) -> Path:
        """Where the model lies."""
        return locate(self.spec.model)

    @cached_property
    def tokenizer(self) -> Any:
        """The model's."""
        return load_processor(self.folder, self.spec.model, "multiple-choice")

    @cached_property
    def model(self) -> PreTrainedModel:
        """The dense model, on the device. ModelError where blocks cannot be taken out of it."""
        model: PreTrainedModel = load_model(self.folder, self.spec.model, "multiple-choice", ())
        spread(model, cards(self.device, max(1, int(self.spec.resources.gpus))))
        first = self.data(next(iter(self.spec.tasks)))
        check_model(model, first.batches("held_out")[0], "multiple-choice")
        return model

    @cached_property
    def skeleton(self) -> PreTrainedModel:
        """The same without weights: enough to know whether data and budget fit."""
        config = load_config(self.folder, self.spec.model)
        try:
            return empty(config, self.spec.model, "multiple-choice")
        except ValueError as error:
            what = f"model {self.spec.model.id}: no decoder"
            do = "routing needs a model that goes on with a text"
            raise ModelError(what, got=config.model_type, do=do) from error

    @cached_property
    def packs(self) -> bool:
        """Whether choices of a question share a row."""
        return self.spec.sets.packed and can_pack(self.model)

    @cached_property
    def lineage(self) -> str:
        """Identifies the model."""
        return digest(
            fingerprint(self.folder, self.cache),
            self.spec.model.dtype,
            self.spec.device,
            code(),
            transformers.__version__,
        )

    def identity(self) -> Record:
        """What all results depend on besides the settings, by its content: the model and the code
        it runs in, the encoders, each task's questions in each role. Loads no weights of the model.

        Raises UserError where the study cannot be done.
        """
        roles: tuple[Role, ...] = ("calibration", "train", "held_out")
        free = len(open_positions(len(blocks(self.skeleton)), (), fixed_blocks(self.skeleton)))
        if self.spec.searched and (most := max(self.spec.sets.budget)) > free:
            raise PlanError("sets.budget", got=most, allowed=f"up to the {free} blocks that can go")
        asked = {
            task: {role: self._questions(task, role) for role in roles if self._asks(task, role)}
            for task in self.spec.tasks
        }
        encoders = {name: self._encoder(name) for name in self.spec.encoders()}
        found = {"model": self.lineage, "encoders": encoders, "tasks": asked}
        return found | {"harness": self._harness_tasks()}

    def _harness_tasks(self) -> dict[str, str]:
        """What the harness's tasks ask, where the study names some."""
        if (wanted := self.spec.evaluation.harness) is None:
            return {}
        from trainables.bench.metrics.harness import task_contents

        return task_contents(wanted)

    def _encoder(self, name: str) -> str:
        """Its content, after a try whether it can be a router."""
        self._router(name)
        return fingerprint(locate(ModelSpec(id=name)), self.cache)

    def _router(self, name: str) -> Router:
        """A fresh one."""
        return Router.fresh(self.spec.router.model_copy(update={"encoder": name}), sets=2)

    def _asks(self, task: str, role: Role) -> bool:
        learns = self.spec.tasks[task].routed and (role == "train" or self.spec.searched)
        return role == "held_out" or learns

    def _questions(self, task: str, role: Role) -> str:
        return digest([asdict(item) for item in self.items(task, role)])

    def data(self, task: str) -> Data:
        """A task's items, shared out over the roles. No two tasks of one data set share a row:
        those before it in the study draw first."""
        if task not in self._data:
            source = self.spec.tasks[task].dataset
            for each in list(self.spec.tasks)[: list(self.spec.tasks).index(task) + 1]:
                if each not in self._data and self.spec.tasks[each].dataset == source:
                    self._data[each] = self._load(each)
        return self._data[task]

    def _load(self, task: str) -> Data:
        rows = self.spec.tasks[task]
        taken = self._taken.setdefault(rows.dataset, Taken())
        data = load_data(rows, self.tokenizer, rows.seed_or(self.spec.seed), taken=taken)
        check_fits(data, self.skeleton)
        data.settle()
        return data

    def items(self, task: str, role: Role) -> list[Question]:
        """A task's questions in a role."""
        found: list[Question] = self.data(task).items(role)
        return found

    def greedy(self, task: str, loss: str, seed: int) -> Record:
        """A greedy search by a task loss, on one part of the calibration items."""
        score, most = self._evaluator(task, loss, seed), max(self.spec.sets.budget)
        found = greedy(len(blocks(self.model)), most, score, fixed=fixed_blocks(self.model))
        return {"order": found.order, "losses": found.losses}

    def shape(self) -> Record:
        """What a driver must know to search by itself."""
        found, encoders = blocks(self.skeleton), self.spec.encoders()
        return {
            "blocks": len(found),
            "fixed": sorted(fixed_blocks(self.skeleton)),
            "parameters": count_parameters(self.skeleton),
            "sizes": [count_parameters(block) for block in found],
            "router": {one: count_parameters(self._router(one).model) for one in encoders},
        }

    def _evaluator(self, task: str, name: str, seed: int) -> PrefixEvaluator:
        key = (task, name, seed)
        if key not in self._evaluators:
            items = self.items(task, "calibration")[seed :: self.spec.sets.seeds]
            loss = self._loss(task, name, items)
            memo = Memo(self.cache.folder / "omission", f"{self.lineage}-{loss.fingerprint()}")
            self._evaluators[key] = PrefixEvaluator(self.model, loss, memo=memo)
        return self._evaluators[key]

    def _loss(self, task: str, name: str, items: Sequence[Question]) -> Loss:
        return losses.answers(
            name,
            items,
            self.tokenizer,
            packed=self.packs,
            max_length=self.spec.tasks[task].max_length,
            batch_size=self.spec.dataset.batch_size,
        )

    def likelihoods(
        self, task: str, role: Role, start: int, stop: int, sets: Sequence[Omit]
    ) -> Record:
        """What every choice of some of the items scores under every set: `items`; see `Answers`."""
        items, table = self.items(task, role)[start:stop], self.spec.tasks[task]
        loss = self._loss(task, "tld", items)
        means = PrefixEvaluator(self.model, loss).means([tuple(omit) for omit in sets])
        parts = torch.split(means, [len(item.choices) for item in items], dim=1)
        records = []
        for number, (item, scores) in enumerate(zip(items, parts, strict=True), start):
            tokens = [len(row) for _, row in choice_rows(self.tokenizer, item, table.max_length)]
            sizes = [max(1, one) if table.normalised else 1 for one in item.characters]
            judged = scores * torch.tensor(tokens) / torch.tensor(sizes)
            records.append(
                {
                    "item": f"{task}/{role}/{number}",
                    "task": task,
                    "prompt": item.asked,
                    "answer": item.answer,
                    "likelihood": scores[:, item.answer].tolist(),
                    "judged": judged.tolist(),
                }
            )
        return {"items": records}

    def harness(self, task: str, omit: Omit) -> Record:
        """The `answers` of the model without some blocks to a task of lm-evaluation-harness."""
        from trainables.bench.metrics.harness import harness_answers, task_sizes

        data, model = self.spec.harness_data(), fork(self.model)
        assert data is not None and data.harness is not None
        if omit:
            remove_blocks(model, tuple(omit))
        count = task_sizes(data.harness)[task]
        most = min(self.spec.evaluation.questions or count, count)
        order = random.Random(f"{self.spec.seed} {task}").sample(range(count), count)
        asked = {task: sorted(order[:most])}
        return {"answers": harness_answers(model, self.tokenizer, data, asked)[task]}

    def train(
        self, settings: Record, dataset: str, sets: Sequence[int], folder: str
    ) -> Generator[Progress, None, Record]:
        """Train a router to choose among some of the sets of stage 2's data set; returns its end as
        a journal takes it."""
        spec, place = RouterSpec.model_validate(settings), Path(folder)
        answers = Answers.of(pq.read_table(dataset).to_pylist()).under(sets)
        progress: list[Progress] = []
        try:
            running = train(spec, answers, place, self.cache, self.spec.device)
            report = yield from noting(progress, running)
        finally:
            self.cache.release()
        found = {name: value for name, value in asdict(report).items() if math.isfinite(value)}
        step = {"stage": "Router", "settings": settings, "effects": ["Router"], "counts": {}}
        return {"metrics": found, "progress": progress, "stages": [step], "folder": folder}

    def promises(self, router: str, prompts: Sequence[str]) -> Record:
        """What each set promises for each prompt, and which one is taken."""
        found = Router.load(Path(router))
        return {"promised": found.scores(prompts).tolist(), "chosen": found.choose(prompts)}

    def timing(self, router: str, sets: Sequence[Omit], prompts: Sequence[str]) -> Record:
        """Seconds and bytes of the dense and the routed model, router included."""
        routed = RoutedModel(
            self.model, self.tokenizer, Router.load(Path(router)), [tuple(omit) for omit in sets]
        )
        routed.router.model.to(self.device)
        return measure(routed, prompts, self.spec.evaluation.new_tokens)
