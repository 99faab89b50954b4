"""What a trial works on, as plain validated data: the `[model]` and `[data]` tables of a study.

Read by the driver (to validate a study file) and by the workers (to load things), so nothing
here imports torch.
"""

import codecs
import re
from dataclasses import dataclass
from pathlib import PurePath
from string import Formatter
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    field_validator,
    model_validator,
)

Role = Literal["calibration", "train", "search", "held_out"]
Task = Literal[
    "language-modelling",
    "classification",
    "multiple-choice",
    "image-classification",
    "generation",
]
Prompts = Literal["rayduce", "pudding", "pudding-questions", "lm-eval"]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
AUTO = 0  # of rows: as many as fit
USUAL = 8  # rows together, where nobody counted how many fit


def _batch_size(given: object) -> int:
    if given == "auto":
        return AUTO
    if type(given) is int and given > 0:
        return given
    raise ValueError('a whole number, 1 or more, or "auto": as many as fit on the card')


BatchSize = Annotated[
    int, BeforeValidator(_batch_size), PlainSerializer(lambda size: size or "auto")
]


SLUG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
TAKEN = ("cache", "mlartifacts", "mlflow.db")  # names next to the studies' folders


def _slug(name: str) -> str:
    if not SLUG.fullmatch(name):
        raise ValueError("up to 64 letters, digits, dots, - and _, as it becomes a folder")
    if name in TAKEN:
        raise ValueError(f"any name but {', '.join(TAKEN)}, which lie next to it")
    return name


Slug = Annotated[str, AfterValidator(_slug)]  # of a study


def _whole_gpus(gpus: float) -> float:
    if gpus > 1 and gpus != int(gpus):
        raise ValueError("a share of one GPU, such as 0.5, or a whole number of GPUs")
    return gpus


Gpus = Annotated[float, Field(ge=0, allow_inf_nan=False), AfterValidator(_whole_gpus)]


# How a data set's file may be named, and what it then is; `.gz` may follow all but Parquet.
DATA_FILES = {
    ".csv": "csv",
    ".tsv": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".txt": "text",
    ".parquet": "parquet",
}


def data_file(name: str) -> str | None:
    """What a file of data is by its name: a key of `DATA_FILES`; None for any other file."""
    path = PurePath(name.lower())
    suffix = PurePath(path.stem).suffix if path.suffix == ".gz" else path.suffix
    known = suffix in DATA_FILES and not (path.suffix == ".gz" and suffix == ".parquet")
    return suffix if known else None


def template_fields(text: str) -> tuple[str, ...]:
    """The columns that a prompt names in braces, in order; `{{` and `}}` are braces themselves.

    Raises ValueError where the braces do not match, or hold more than a name.
    """
    try:
        parts = list(Formatter().parse(text))
    except ValueError as error:
        raise ValueError(f"{error}: a brace that is meant is written twice") from error
    named = [part for part in parts if part[1] is not None]
    for _, name, form, conversion in named:
        if not name or form or conversion:
            raise ValueError("one column's name in each pair of braces; a brace itself twice")
    return tuple(str(name) for _, name, _, _ in named)


class Spec(BaseModel):
    """A frozen table; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TrainSpec(Spec):
    """How the model is trained before the study begins, where it cannot do the task yet.

    What comes out is the study's untouched model. The fields are those of the Recover stage.

    Attributes:
        label_smoothing: the share of every target that is spread over all classes.
        weight_decay: of matrices; norms and biases do not decay.
        accumulate: batches whose gradients one step takes together.
        max_steps: after so many steps it ends, in the middle of an epoch too.
        checkpointing: blocks are computed again for their gradients, instead of kept.
        lora_rank: of adapters that learn in place of the weights, and are merged at the end; 0: the
            weights themselves learn, as float32.
        lora_alpha: the adapters' scale is this divided by their rank.
        optimiser: adamw-8bit keeps its two moments in a byte each (torchao).
        clip: the norm to which all gradients together are cut; none by default.
        best: a metric: the epoch that is best in it on `search` stays, of equal ones the first.
        seed: of the examples' order and of dropout, whatever the model; by default the study's
            seed and the model decide.
    """

    epochs: Count = 3
    lr: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 5e-5
    optimiser: Literal["adamw", "adamw-8bit", "adam", "sgd"] = "adamw"
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0
    batch_size: Count = 32
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    precision: Literal["full", "bfloat16"] = "full"
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    clip: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    best: str = ""
    seed: Seed | None = None
    accumulate: Count = 1
    max_steps: Count | None = None
    checkpointing: bool = False
    lora_rank: Annotated[int, Field(ge=0)] = 0
    lora_alpha: Count = 16


class ModelSpec(Spec):
    """Which model: a hub id, a local folder, `asset:NAME`, or `new:TYPE` with random weights."""

    id: str
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    revision: str | None = None
    trust_remote_code: bool = False  # run the Python that a model type brings along
    config: dict[str, Any] = {}  # of `new:TYPE`: the fields of its architecture
    tokenizer: str | None = None  # of `new:TYPE`: the model whose tokenizer it takes
    train: TrainSpec | None = None

    @model_validator(mode="after")
    def _own_parts(self) -> Self:
        if not self.id.startswith("new:") and (self.config or self.tokenizer):
            raise ValueError('config and tokenizer belong to a new model, such as id = "new:t5"')
        return self


class ItemCounts(Spec):
    """How many items each role gets. A text item is a window of `max_length` tokens."""

    calibration: Count = 32
    train: Count = 1024
    search: Count = 128
    held_out: Count = 256


class DataSpec(Spec):
    """Which rows, for which task; the roles never share a row."""

    dataset: str  # hub id, local file or folder, or asset:NAME
    task: Task
    subset: str | None = None  # the hub's configuration name, or a part of an asset
    splits: dict[Role, str] = {}  # a role's own split; roles without one share out `train`
    seed: Seed | None = None  # which rows fall into which role; default: the study's own seed
    rows: Count | None = None  # read only so many rows of each split, drawn from all of it
    group: str | None = None  # rows alike in this column share a role; None: found; "none": no such
    columns: dict[str, str] = {}  # the task's word for a column -> the data set's name for it
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] | None = None  # of CSV files
    encoding: str | None = None  # of text files; None: UTF-8, or else what it looks like
    prompts: Prompts = "rayduce"  # how the rows of known question sets are asked
    windows: Literal["documents", "joined"] = "documents"  # joined: as published perplexities
    prompt: str | None = None  # for generation: what is asked, its columns in braces
    chat: bool | None = None  # asked as a turn of a chat; None: where the tokenizer has a template
    system: str | None = None  # the turn before it
    stop: tuple[str, ...] = ()  # texts at which what is written ends, besides the model's own end
    max_new_tokens: Count | None = None  # that are written; None: as many as the longest target
    harness: str | None = None  # tasks of lm-evaluation-harness, or their files: for acc, acc_norm
    items: ItemCounts = ItemCounts()
    max_length: Count = 256
    batch_size: BatchSize = (
        USUAL  # "auto": as many as fit on the card; on a CPU as many as by default
    )

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, name: str | None) -> str | None:
        try:
            return name and codecs.lookup(name).name
        except LookupError:
            raise ValueError('an encoding that Python knows, such as "cp1252"') from None

    @model_validator(mode="after")
    def _forms_fit(self) -> Self:
        if self.windows != "documents" and self.task != "language-modelling":
            raise ValueError(f'windows = "{self.windows}" is for task = "language-modelling"')
        if self.prompts != "rayduce" and self.task != "multiple-choice":
            raise ValueError(f'prompts = "{self.prompts}" is for task = "multiple-choice"')
        if self.task != "generation":
            names = ("prompt", "chat", "system", "stop", "max_new_tokens")
            if said := [name for name in names if getattr(self, name) not in (None, ())]:
                raise ValueError(f'{", ".join(said)}: for task = "generation"')
        if self.system is not None and self.chat is False:
            raise ValueError("system is a turn of a chat: leave out chat = false, or system")
        return self

    @field_validator("prompt")
    @classmethod
    def _asks(cls, text: str | None) -> str | None:
        if text is not None and not template_fields(text):
            raise ValueError('a text with columns in braces, such as "{question}\\nAnswer:"')
        return text

    @field_validator("stop")
    @classmethod
    def _not_empty(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        if "" in texts:
            raise ValueError("texts that are not empty: everything holds an empty one")
        return texts

    def seed_or(self, studys: int) -> int:
        """The split's seed: searches with several seeds may share their held-out rows."""
        return studys if self.seed is None else self.seed


class TextsSpec(Spec):
    """Raw texts beside the rows: of no class, and none that stands in a role."""

    dataset: str  # hub id, local file or folder, or asset:NAME
    subset: str | None = None
    split: str | None = None  # None: the first one
    column: str | None = None  # None: found
    rows: Count = 2048  # at most so many, drawn from all of the split


class BenchSpec(Spec):
    """Everything a worker needs to set up a bench."""

    model: ModelSpec
    data: DataSpec
    metrics: dict[str, str] = {}  # a user's own: name -> "package.module:function"
    objectives: tuple[str, ...]  # the metrics a trial reports
    seed: int = 0
    cache: str  # an absolute folder, shared by all workers where possible
    cache_gb: float = 20.0
    device: Literal["cpu", "cuda"] = "cpu"
    cards: Count = 1  # GPUs that share the model's blocks
    threads: Count = 1  # torch's intra-op threads, from the trial's CPU share
    naive: bool = False  # every shortcut off: the twin that tests and benchmarks compare with


@dataclass(frozen=True)
class Assignment:
    """One trial as the driver hands it to a worker."""

    number: int
    uid: str  # its name in files
    params: dict[str, Any]
