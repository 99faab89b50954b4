"""Small whole numbers in as few bits as they need, one after the other."""

import torch
from jaxtyping import UInt8
from torch import Tensor


def pack(values: UInt8[Tensor, " count"], bits: int) -> UInt8[Tensor, " bytes"]:
    """Numbers below 2^bits, low bits first; the last byte is filled up with zeros.

    Args:
        bits: 1 to 8.
    """
    if bits == 8:
        return values.contiguous()
    places = torch.arange(bits, dtype=torch.uint8)
    flat = ((values.cpu()[:, None] >> places) & 1).flatten()
    flat = torch.nn.functional.pad(flat, (0, -len(flat) % 8)).view(-1, 8)
    found = torch.zeros(len(flat), dtype=torch.uint8)
    for place in range(8):
        found |= flat[:, place] << place
    return found


def unpack(packed: UInt8[Tensor, " bytes"], bits: int, count: int) -> UInt8[Tensor, " count"]:
    """The inverse of `pack`."""
    if bits == 8:
        return packed[:count]
    places = torch.arange(8, dtype=torch.uint8)
    flat = ((packed[:, None] >> places) & 1).flatten()[: count * bits].view(count, bits)
    found = torch.zeros(count, dtype=torch.uint8)
    for place in range(bits):
        found |= flat[:, place] << place
    return found


def packed_bytes(count: int, bits: int) -> int:
    """How long `pack` makes so many numbers."""
    return -(-count * bits // 8)
