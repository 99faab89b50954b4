"""Raw texts beside a study's rows: drawn from another data set, none of them a row of its own."""

import random
from collections.abc import Collection

from trainables.bench.data.columns import Columns
from trainables.bench.data.sources import open_splits
from trainables.bench.data.tasks.adapter import folded
from trainables.bench.data.tasks.text import Classification
from trainables.core.errors import DataError, near
from trainables.core.spec import DataSpec, TextsSpec

_WORDS = {"text": (*Classification.words["text"], "document", "article", "question")}


def raw_texts(spec: TextsSpec, seed: int, known: Collection[bytes]) -> list[str]:
    """Up to `spec.rows` different texts.

    Args:
        known: folded texts that are not to be among them, such as those held out.

    Raises DataError where there are none.
    """
    columns = {"text": spec.column} if spec.column else {}
    given = DataSpec(
        dataset=spec.dataset, subset=spec.subset, task="classification", columns=columns
    )
    splits = open_splits(given)
    name = spec.split or next(iter(splits))
    if name not in splits:
        what = f'unlabelled: "{spec.dataset}" has no split "{name}"{near(name, splits)}'
        raise DataError(what, allowed=", ".join(splits))
    read = Columns(given, splits[name], _WORDS)
    read.must_be_text(("text",))
    texts = [str(text) for text in splits[name][:][read.name("text")] if text is not None]
    random.Random(f"{seed} unlabelled").shuffle(texts)
    seen, found = set(known), list[str]()
    for text in texts:
        if len(found) == spec.rows:
            break
        if text.strip() and (key := folded(text)) not in seen:
            seen.add(key)
            found.append(text)
    if not found:
        raise DataError(f'unlabelled: "{spec.dataset}" holds no text that is not a row already')
    return found
