"""Scores of texts in any script, beside the reference implementations that keep those scripts."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import regex
import sacrebleu
from nltk.translate.meteor_score import single_meteor_score
from rouge_score.rouge_scorer import RougeScorer

from trainables.bench.metrics import text_scores
from trainables.core.scores import ItemScores

Score = Callable[[Sequence[str], Sequence[str]], ItemScores]
TEXTS = {  # script: (written, wanted)
    "English": (
        ["The cat sat on the mat, and purred.", "It's 3.5 degrees today!", "yes"],
        ["A cat was sitting on the mat and purred.", "It is 3.5 degrees.", "no"],
    ),
    "Korean": (
        ["토마토는 물을 많이 줘야 합니다.", "온도는 25도가 좋습니다", "네"],
        ["토마토에는 물을 자주 줘야 합니다.", "온도는 25도 정도가 좋습니다.", "아니요"],
    ),
    "Russian": (
        ["Кошка спит на тёплой печке.", "Сегодня холодно, идёт снег."],
        ["Кошка лежит на тёплой печке.", "Сегодня очень холодно и идёт снег!"],
    ),
    "Chinese": (
        ["番茄需要很多水。", "温度应该在25度左右,不要太高。"],
        ["番茄每天需要浇水。", "最好的温度是25度左右。"],
    ),
    "Hindi": (["बिल्ली चटाई पर बैठी है"], ["बिल्ली चटाई पर सो रही है"]),
    "Thai": (["แมวนั่งบนเสื่อ"], ["แมวนอนบนเสื่อ"]),
    "Japanese": (["猫はマットの上に座った"], ["猫がマットの上に寝た"]),
}
_SCRIPTS = ("Han", "Hiragana", "Katakana", "Thai", "Lao", "Khmer", "Myanmar", "Tibetan")
_ALONE = "".join(rf"\p{{{script}}}" for script in _SCRIPTS) + "ー"


class Reference:
    """The rule for words, once more: by Unicode's own classes and in another way."""

    def tokenize(self, text: str) -> list[str]:
        run = rf"[\p{{L}}\p{{N}}--[{_ALONE}]][\p{{L}}\p{{N}}\p{{M}}--[{_ALONE}]]*"
        return regex.findall(rf"(?V1)[{_ALONE}&&\p{{L}}]\p{{M}}*|{run}", text.lower())


@pytest.mark.parametrize("script", TEXTS)
def test_words_are_kept_in_every_script(script: str) -> None:
    for text in (*TEXTS[script][0], *TEXTS[script][1]):
        assert text_scores.words(text) == Reference().tokenize(text)
        assert "".join(text_scores.words(text)) == regex.sub(
            r"[^\p{L}\p{N}\p{M}]", "", text.lower()
        )


def test_words_on_texts_parted_by_hand() -> None:
    assert text_scores.words("Don't e\u0301te 25도_가 番茄x2") == (
        ["don", "t", "éte", "25도", "가", "番", "茄", "x2"]
    )
    assert text_scores.words("क्\u200dष") == ["क्ष"]  # a joiner is part of the word
    assert text_scores.words("") == text_scores.words("?!") == []


@pytest.mark.parametrize("script", TEXTS)
@pytest.mark.parametrize("kind", ["rouge1", "rouge2", "rougeL", "rougeLsum"])
def test_rouge_is_rouge_scores_with_a_tokenizer_that_keeps_the_script(
    script: str, kind: str
) -> None:
    written, wanted = ([text, "\n".join(texts)] for texts in TEXTS[script] for text in texts[:1])
    scorer = RougeScorer([kind], tokenizer=Reference())
    each = [scorer.score(r, t)[kind].fmeasure for t, r in zip(written, wanted, strict=True)]
    score: Score = getattr(text_scores, kind.lower().replace("rouge", "rouge_"))
    found = score(written, wanted)
    assert found.columns["value"].tolist() == each
    assert found.total() == pytest.approx(sum(each) / len(each))
    assert kind == "rouge2" or found.total() > 0


@pytest.mark.parametrize("script", TEXTS)
def test_meteor_is_nltks(script: str) -> None:
    written, wanted = TEXTS[script]
    split, no_words = Reference().tokenize, text_scores._synonyms()
    each = [
        single_meteor_score(split(r), split(t), wordnet=no_words)
        for t, r in zip(written, wanted, strict=True)
    ]
    assert text_scores.meteor(written, wanted).columns["value"].tolist() == each
    assert max(each) > 0


@pytest.mark.parametrize("script", ["English", "Korean", "Russian", "Chinese"])
def test_bleu_is_sacrebleus(script: str) -> None:
    """By its rule for Chinese where a text is, by its usual one elsewhere."""
    written, wanted = TEXTS[script]
    rule = "zh" if script == "Chinese" else "13a"
    whole = sacrebleu.corpus_bleu(written, [wanted], tokenize=rule).score
    found = text_scores.bleu(written, wanted)
    assert found.total() == pytest.approx(whole) and whole > 5
    some = np.array([0, 0, 1])
    drawn = sacrebleu.corpus_bleu(
        [written[i] for i in some], [[wanted[i] for i in some]], tokenize=rule
    )
    assert found.take(some).total() == pytest.approx(drawn.score)


def test_meteor_counts_punctuation_only_where_it_is_asked_to() -> None:
    said, wanted = ["well, it sat."], ["well it sat"]
    plain, marks = text_scores.meteor, text_scores.meteor_punctuation
    assert plain(said, wanted).total() == plain(wanted, wanted).total()
    assert marks(said, wanted).total() < plain(said, wanted).total()
    assert marks(wanted, wanted).total() == plain(wanted, wanted).total()


def test_tokens_are_those_of_the_usual_evaluators() -> None:
    found = text_scores.tokens("Well, it's late. So it is! (Dr. No)")
    first = ["Well", ",", "it", "'s", "late", ".", "So", "it", "is", "!", "(", "Dr", ".", "No", ")"]
    assert found == first
    assert text_scores.tokens("番茄,水。") == ["番", "茄", ",", "水", "。"]
