"""Teachers and students made up on the spot: Russian texts, tokenizers that share no vocabulary."""

import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    PreTrainedTokenizerFast,
)

from tests.support.toys import bytes_tokenizer, jsonl
from trainables.core.spec import BenchSpec, DataSpec, ItemCounts, ModelSpec, TrainSpec

GOOD = ("отличный", "прекрасный", "добрый", "светлый", "любимый")
BAD = ("ужасный", "скучный", "злой", "тёмный", "глупый")
_PLAIN = "фильм книга город вечер актёр сюжет музыка погода это был очень и в на"
PLAIN = tuple(_PLAIN.split())
NAMES = ("минус", "плюс")


def words_tokenizer() -> PreTrainedTokenizerFast:
    """A token per Russian word, with the marks of a BERT, case folded."""
    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    names = {word: n for n, word in enumerate([*marks, *PLAIN, *GOOD, *BAD])}
    raw = Tokenizer(models.WordLevel(names, unk_token="[UNK]"))
    raw.normalizer = normalizers.Lowercase()
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    special = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, **{f"{kind}_token": mark for kind, mark in special.items()}
    )


def texts(count: int, seed: int = 0) -> list[dict[str, str]]:
    """Texts of many lengths, sorted by class, whose one telling word gives it."""
    draw, found = random.Random(seed), []
    for number in range(count):
        kind = number * 2 // count
        words = draw.choices(PLAIN, k=draw.randrange(2, 9))
        words.insert(draw.randrange(len(words)), draw.choice((BAD, GOOD)[kind]))
        found.append({"text": f"{' '.join(words).capitalize()} {number}", "label": NAMES[kind]})
    return found


def save_teacher(folder: Path, *, depth: int = 2) -> str:
    """An encoder without a head, of words."""
    tokenizer = words_tokenizer()
    return _save(folder, tokenizer, BertModel, _config(len(tokenizer), 32, depth))


def save_student(folder: Path) -> str:
    """A smaller one, of bytes."""
    return _save(folder, bytes_tokenizer(), BertModel, _config(259, 16, 1))


def save_classifier(folder: Path, names: tuple[str, ...]) -> str:
    """A small one of words, whose head tells these classes apart."""
    tokenizer = words_tokenizer()
    config = _config(len(tokenizer), 16, 1)
    config.id2label = dict(enumerate(names))
    config.label2id = {name: number for number, name in enumerate(names)}
    return _save(folder, tokenizer, BertForSequenceClassification, config)


def _config(words: int, width: int, depth: int) -> BertConfig:
    return BertConfig(
        vocab_size=words,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=depth,
        num_attention_heads=2,
        max_position_embeddings=192,
        pad_token_id=0,
    )


def _save(folder: Path, tokenizer: Any, kind: Any, config: BertConfig) -> str:
    torch.manual_seed(0)
    kind(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def spec_of(folder: Path, **changed: Any) -> BenchSpec:
    """A bench of the teacher, trained first, on 80 texts."""
    rows = jsonl(folder / "rows.jsonl", texts(80))
    data = DataSpec(
        dataset=rows,
        task="classification",
        max_length=160,
        batch_size=8,
        items=ItemCounts(calibration=8, train=32, search=16, held_out=8),
    )
    training = TrainSpec(epochs=16, lr=1e-2, batch_size=8)
    model = ModelSpec(id=save_teacher(folder / "teacher"), train=training)
    given = {"model": model, "data": data, "objectives": ("accuracy",), "cache": str(folder / "c")}
    return BenchSpec(**{**given, **changed})
