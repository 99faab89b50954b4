"""Toy tokenizers and data files; nothing is downloaded."""

import json
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from trainables.bench.data.roles import Data
from trainables.core.lineage import Lineage

WORDS = (
    "a b c d e the cat dog sat ran on mat good bad film was not who is it red blue green one two "
    "three answer question label yes no : ? . context x0 x1 x2 x3 x4 x5 x6 x7 x8 x9 new news"
)


def bytes_tokenizer(bos: bool = False) -> PreTrainedTokenizerFast:
    """Every byte is a token, and text comes back as it was."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2}
    vocabulary |= {letter: 3 + number for number, letter in enumerate(alphabet)}
    raw = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    return _wrapped(raw, "<s> $A" if bos else "$A")


def word_tokenizer(*kinds: str) -> PreTrainedTokenizerFast:
    """A token per word, an end after a text, and where asked for a kind (`token_type_ids`)."""
    names = ["<pad>", "<s>", "</s>", "<unk>", *WORDS.split()]
    raw = Tokenizer(models.WordLevel({word: i for i, word in enumerate(names)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return _wrapped(raw, "<s> $A </s>", "<s> $A </s> $B:1 </s>:1", kinds)


def metaspace_tokenizer() -> PreTrainedTokenizerFast:
    """As SentencePiece: a text begins with a space of its own, wherever it is cut."""
    words = ["<unk>", "<s>", "</s>", "▁", "▁is", "▁it", "▁yes", "▁no", ":", *"▁isteyno:"]
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys(words))}
    scores = [(word, -1.0 if len(word) > 1 else -5.0) for word in vocabulary]
    raw = Tokenizer(models.Unigram(scores, unk_id=0))
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    raw.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


def _wrapped(
    raw: Tokenizer, single: str, pair: str | None = None, kinds: tuple[str, ...] = ()
) -> PreTrainedTokenizerFast:
    marks = [(mark, raw.token_to_id(mark)) for mark in ("<s>", "</s>")]
    raw.post_processor = processors.TemplateProcessing(
        single=single, pair=pair or "$A $B:1", special_tokens=marks
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        model_input_names=["input_ids", *kinds, "attention_mask"],
    )


def jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> str:
    """Rows as a file, and its name."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def bench(model: Any, data: Data, processor: Any = None, **metrics: str) -> SimpleNamespace:
    """As much of a bench as a metric needs."""
    return SimpleNamespace(
        model=model,
        processor=processor,
        data=data,
        device=torch.device("cpu"),
        role="search",
        subject=SimpleNamespace(model=model, lineage=Lineage("toy")),
        spec=SimpleNamespace(metrics=metrics, cache="toy"),
    )


def chat_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer of bytes with marks around turns, and a template that sets them."""
    tokenizer = bytes_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<turn>", "</turn>"]})
    tokenizer.chat_template = (
        "{% for turn in messages %}<turn>{{ turn['role'] }}:{{ turn['content'] }}</turn>\n"
        "{% endfor %}{% if add_generation_prompt %}<turn>assistant:{% endif %}"
    )
    return tokenizer


HARNESS_TASK = """
task: tiny_piqa
dataset_path: json
dataset_kwargs:
  data_files:
    test: {file}
output_type: multiple_choice
test_split: test
doc_to_text: "Question: {{{{goal}}}}\\nAnswer:"
doc_to_target: label
doc_to_choice: "{{{{[sol1, sol2]}}}}"
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
  - metric: acc_norm
    aggregation: mean
    higher_is_better: true
"""


def harness_task(folder: Path, rows: list[dict[str, Any]]) -> str:
    """A task of lm-evaluation-harness with these rows; its file."""
    (folder / "docs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "tiny.yaml").write_text(HARNESS_TASK.format(file=folder / "docs.jsonl"))
    return str(folder / "tiny.yaml")
