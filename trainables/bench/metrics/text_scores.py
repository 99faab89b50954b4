"""How near generated texts come to their references. Nothing here is downloaded.

Each gives what every text scores. BLEU is sacrebleu's corpus BLEU (0 to 100); the others are means
over texts, from 0 to 1. One rule parts the texts of every script into words, for rouge-score's own
tokenizer drops all that is not ASCII, and most take a Chinese sentence for one word: see `words`.
BLEU and `meteor_punctuation` part the letters of such scripts too, then BLEU goes on as sacrebleu
does, and `meteor_punctuation` as the usual evaluators do, by nltk's Treebank rules sentence by
sentence; punctuation counts. Both METEORs match words, then stems, then WordNet synonyms; where
nltk's WordNet data is not installed they leave the synonyms out and come out slightly lower, so
compare METEOR only between runs on machines that agree on that. The libraries are imported when
they are needed: they take seconds that every worker would wait for.
"""

import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from trainables.core.scores import BLEU_COLUMNS, ItemScores, mean_of

_SPACELESS = (
    "\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3100-\u312f\u31a0-\u31bf\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_ALONE = re.compile(f"[{_SPACELESS}]")
_APART = re.compile(f"[{_SPACELESS}\u2e80-\u2fff\u3000-\u303f\ufe30-\ufe4f\uff00-\uffef]")
_SENTENCES = re.compile(r"(?<=[.!?])\s+")


class _Words:
    """rouge-score's tokenizer protocol, for any script."""

    def tokenize(self, text: str) -> list[str]:
        return words(text)


class _NoSynonyms:
    """Stands in for WordNet where its data is not installed."""

    def synsets(self, word: str) -> list[Any]:
        return []


def words(text: str) -> list[str]:
    """Lower-case runs of letters, their marks and digits; in scripts that set no spaces between
    words (Chinese, Japanese, Thai, Lao, Khmer, Burmese, Tibetan) each letter with its marks."""
    found: list[str] = []
    open_word = False
    for letter in unicodedata.normalize("NFC", text.lower()):
        kind = unicodedata.category(letter)[0]
        if kind == "M" and found and open_word:
            found[-1] += letter
        elif kind in "LN":
            alone = _ALONE.match(letter) is not None
            if open_word and not alone and not _ALONE.match(found[-1]):
                found[-1] += letter
            else:
                found.append(letter)
            open_word = True
        elif unicodedata.category(letter) != "Cf":  # joiners are part of a word
            open_word = False
    return found


def spaced(text: str) -> str:
    """The same with spaces around each letter of those scripts, and around their punctuation."""
    found: list[str] = []
    for letter in text:
        if unicodedata.category(letter)[0] == "M" and found:
            found[-1] += letter
        else:
            found.append(letter)
    return "".join(f" {one} " if _APART.match(one) else one for one in found)


def bleu(texts: Sequence[str], references: Sequence[str]) -> ItemScores:
    """What corpus BLEU, from 0 to 100, sums up of each text."""
    from sacrebleu.metrics import BLEU

    one = BLEU(effective_order=True)  # which of a text alone counts as of many
    pairs = ((spaced(t), spaced(r)) for t, r in zip(texts, references, strict=True))
    found = [one.sentence_score(t, [r]) for t, r in pairs]
    rows = [(each.sys_len, each.ref_len, *each.counts, *each.totals) for each in found]
    table = np.array(rows, dtype=np.int32)
    return ItemScores("bleu", dict(zip(BLEU_COLUMNS, table.T, strict=True)))


def rouge_1(texts: Sequence[str], references: Sequence[str]) -> ItemScores:
    """F1 of the words that both have."""
    return _rouge("rouge1", texts, references)


def rouge_2(texts: Sequence[str], references: Sequence[str]) -> ItemScores:
    """F1 of the pairs of words that both have."""
    return _rouge("rouge2", texts, references)


def rouge_l(texts: Sequence[str], references: Sequence[str]) -> ItemScores:
    """F1 of the longest common subsequence of words."""
    return _rouge("rougeL", texts, references)


def rouge_lsum(texts: Sequence[str], references: Sequence[str]) -> ItemScores:
    """The same line by line: of each reference's line the words that any line has in its order."""
    return _rouge("rougeLsum", texts, references)


def _rouge(kind: str, texts: Sequence[str], references: Sequence[str]) -> ItemScores:
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer([kind], tokenizer=_Words())
    pairs = zip(texts, references, strict=True)
    return mean_of([float(scorer.score(r, t)[kind].fmeasure) for t, r in pairs])


def meteor(texts: Sequence[str], references: Sequence[str]) -> ItemScores:
    """METEOR of the words."""
    return _meteor(texts, references, words)


def meteor_punctuation(texts: Sequence[str], references: Sequence[str]) -> ItemScores:
    """METEOR with punctuation marks as tokens."""
    return _meteor(texts, references, tokens)


def tokens(text: str) -> list[str]:
    """Words and punctuation marks by the Treebank rules, which see one sentence at a time.

    nltk's own cutting into sentences needs data that is not installed with it.
    """
    from nltk.tokenize import NLTKWordTokenizer

    split = NLTKWordTokenizer().tokenize
    return [token for sentence in _SENTENCES.split(spaced(text)) for token in split(sentence)]


def _meteor(
    texts: Sequence[str], references: Sequence[str], split: Callable[[str], list[str]]
) -> ItemScores:
    from nltk.translate.meteor_score import single_meteor_score

    pairs, synonyms = zip(texts, references, strict=True), _synonyms()
    found = [single_meteor_score(split(r), split(t), wordnet=synonyms) for t, r in pairs]
    return mean_of([float(score) for score in found])


def exact_match(texts: Sequence[str], references: Sequence[str]) -> ItemScores:
    """Whether a text says what the reference says, word for word."""
    pairs = zip(texts, references, strict=True)
    return mean_of([words(text) == words(reference) for text, reference in pairs])


@cache
def _synonyms() -> Any:
    from nltk.corpus import wordnet

    try:
        wordnet.ensure_loaded()
    except LookupError:
        return _NoSynonyms()
    return wordnet
