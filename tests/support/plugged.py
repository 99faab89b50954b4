"""A small classifier, a language model to give it a layer, and texts with classes, as folders."""

from pathlib import Path

from transformers import PreTrainedModel

from tests.support import families
from tests.support.toys import WORDS, jsonl, word_tokenizer
from trainables.bench.bench import Bench
from trainables.core.spec import BenchSpec
from trainables.trial import open_bench

VOCABULARY = len(WORDS.split()) + 4
CLASSES = {
    "good": ("good", "yes", "the"),
    "bad": ("bad", "no", "not"),
    "new": ("new", "news", "question"),
}


def donor(folder: Path, name: str = "llama", **changed: object) -> Path:
    """A language model of a family with the tests' tokenizer, saved."""
    model = families.build(name)
    model.save_pretrained(folder, **changed)
    word_tokenizer().save_pretrained(folder)
    return folder


def encoder(folder: Path, name: str = "bert", blocks: int = 2) -> Path:
    """A small encoder, or another model that `families` builds, saved."""
    model = families.build(name)
    shallow(model, blocks).save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return folder


def shallow(model: PreTrainedModel, blocks: int) -> PreTrainedModel:
    """The model with its first blocks only, without a head that would bring classes."""
    from trainables.bench.models.structure import blocks as blocks_of
    from trainables.bench.models.surgery import remove_blocks

    if not model.config.is_encoder_decoder:
        remove_blocks(model, range(blocks, len(blocks_of(model))))
        return model.base_model
    return model


def texts(path: Path, classes: int = 2, rows: int = 160) -> str:
    """Rows whose class is in one of their words, sorted by class."""
    names = list(CLASSES)[:classes]
    made = []
    for number in range(rows):
        name = names[number * classes // rows]
        word = CLASSES[name][number % 3]
        made.append({"text": f"x{number % 9} {word} film x{number // 9 % 10} on", "label": name})
    unique = {row["text"]: row for row in made}
    return jsonl(path, unique.values())


def opened(place: Path, *, naive: bool = False, seed: int = 3, **given: object) -> Bench:
    """A bench on `place`/encoder and rows of their own."""
    counts = {"calibration": 40, "train": 40, "search": 20, "held_out": 20}
    data = {"dataset": texts(place / "rows.jsonl"), "task": "classification", "items": counts}
    spec = {
        "model": {"id": str(encoder(place / "encoder"))},
        "data": {**data, "max_length": 16, "batch_size": 8},
        "objectives": ("accuracy", "parameters"),
        "cache": str(place / "cache"),
        "seed": seed,
        "naive": naive,
    }
    return open_bench(BenchSpec.model_validate(spec | given))
