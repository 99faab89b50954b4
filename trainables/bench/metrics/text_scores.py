"""How near generated texts come to their references. Nothing here is downloaded.

Each gives what every text scores. BLEU is sacrebleu's corpus BLEU (0 to 100); the others are means
over texts, from 0 to 1. ROUGE-L
and METEOR split texts into runs of letters and digits of any script: rouge-score's own tokenizer
drops everything that is not ASCII. `meteor_punctuation` splits them as the usual evaluators do,
by nltk's Treebank rules sentence by sentence, and punctuation counts. Both METEORs match words,
then stems, then WordNet synonyms; where nltk's WordNet data is not installed they leave the
synonyms out and come out slightly lower, so compare METEOR only between runs on machines that
agree on that. The libraries are imported when they are needed: they take seconds that every
worker would wait for.
"""

import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from trainables.core.scores import BLEU_COLUMNS, ItemScores, mean_of

_WORD = re.compile(r"[^\W_]+")
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
    """Lower-case runs of letters and digits."""
    return _WORD.findall(text.lower())


def bleu(texts: Sequence[str], references: Sequence[str]) -> ItemScores:
    """What corpus BLEU, from 0 to 100, sums up of each text."""
    from sacrebleu.metrics import BLEU

    one = BLEU(effective_order=True)  # which of a text alone counts as of many
    found = [one.sentence_score(t, [r]) for t, r in zip(texts, references, strict=True)]
    rows = [(each.sys_len, each.ref_len, *each.counts, *each.totals) for each in found]
    table = np.array(rows, dtype=np.int32)
    return ItemScores("bleu", dict(zip(BLEU_COLUMNS, table.T, strict=True)))


def rouge_l(texts: Sequence[str], references: Sequence[str]) -> ItemScores:
    """F1 of the longest common subsequence of words."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], tokenizer=_Words())
    pairs = zip(texts, references, strict=True)
    return mean_of([float(scorer.score(r, t)["rougeL"].fmeasure) for t, r in pairs])


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
    return [token for sentence in _SENTENCES.split(text) for token in split(sentence)]


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
