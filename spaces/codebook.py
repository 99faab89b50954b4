"""Weight clustering: how many bits, where centroids begin, whether they are trained."""

from typing import Annotated

from pydantic import Field

from spaces.space import Choices, Space, Trial, choose
from trainables.codebook import Codebook, Start, TuneCodebook
from trainables.core.spec import TrainSpec
from trainables.stage import Facts, Stage

Bits = Annotated[int, Field(ge=2, le=8)]
Group = Annotated[int, Field(ge=0)]


class CodebookSpace(Space):
    """Parameters `codebook.bits`, `.start`, `.group`, `.embeddings`, `.tune`, each where there is a
    choice.

    Attributes:
        groups: output rows that share a codebook; 0 for all of a tensor.
        embeddings: whether the table of token embeddings is clustered too.
        tune: whether centroids are trained, as `recover` says.
    """

    bits: Choices[Bits] = (3, 4, 5, 6, 8)
    starts_at: Choices[Start] = ("linear", "k-means++")
    groups: Choices[Group] = (0,)
    embeddings: Choices[bool] = (False,)
    tune: Choices[bool] = (False, True)
    recover: TrainSpec = TrainSpec(epochs=1)

    def stages(self, trial: Trial, facts: Facts) -> list[Stage]:
        codes = Codebook(
            choose(trial, "codebook.bits", self.bits),
            choose(trial, "codebook.group", self.groups),
            choose(trial, "codebook.start", self.starts_at),
            embeddings=choose(trial, "codebook.embeddings", self.embeddings),
        )
        tuned = choose(trial, "codebook.tune", self.tune)
        return [codes, TuneCodebook(self.recover)] if tuned else [codes]
