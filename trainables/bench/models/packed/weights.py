"""What a weight is made of: a code for every number and a book to look it up in, or the parts of a
tensor of torchao's.

A layer whose weight a method has clustered carries its `Codes` beside the weight that is computed
with. They hold as long as the weight is what they say.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

_NAME = "codes"  # the layer's attribute


@dataclass(frozen=True, eq=False)
class Codes:
    """A weight as codes: `book[group, indices[group, i]]`, row after row.

    Attributes:
        indices: of all numbers of a group of rows, in their order.
        book: the numbers there are, per group.
        zero: whether the first of each book is a zero that stays one.
    """

    indices: UInt8[Tensor, "groups count"]
    book: Float[Tensor, "groups size"]
    zero: bool = False

    def __deepcopy__(self, memo: dict[int, Any]) -> "Codes":
        return self  # forks share it, as they share tensors

    @property
    def bits(self) -> int:
        """Per code."""
        return max((self.book.shape[1] - 1).bit_length(), 1)

    def numbers(self) -> Float[Tensor, "groups count"]:
        """What the codes stand for."""
        return self.book.gather(1, self.indices.long())


def note_codes(layer: nn.Module, codes: Codes) -> None:
    """Remember what a layer's weight is made of."""
    setattr(layer, _NAME, codes)


def noted_codes(layer: nn.Module) -> Codes | None:
    """The codes that a layer was given, whatever became of its weight since."""
    found = vars(layer).get(_NAME)
    return found if isinstance(found, Codes) else None


def codes_of(layer: nn.Module, weight: Tensor) -> Codes | None:
    """The codes of a layer whose weight, as (outputs, inputs), is still what they say."""
    codes = noted_codes(layer)
    if codes is None or codes.indices.numel() != weight.numel():
        return None
    same = codes.book.dtype == weight.dtype and codes.book.device == weight.device
    said = codes.numbers().view(weight.shape) if same else None
    return codes if said is not None and torch.equal(said, weight) else None


def is_made(tensor: Tensor) -> bool:
    """Whether a tensor is made of others, as torchao's are."""
    return is_traceable_wrapper_subclass(tensor)


def parts(tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The tensors that one is made of, by name; itself under no name where it is plain."""
    if not is_made(tensor):
        yield "", tensor
        return
    for name in tensor.__tensor_flatten__()[0]:  # type: ignore[attr-defined]
        yield name, getattr(tensor, name)


def dense(tensor: Tensor) -> Tensor:
    """The numbers that are computed with."""
    return tensor.dequantize() if is_made(tensor) else tensor  # type: ignore[no-any-return]
