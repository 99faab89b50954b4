"""Choosing a language model's layer by PC patching: the effects, other scores, the stage."""

from trainables.ilm.method import ILM
from trainables.ilm.selection import Selection

__all__ = ["ILM", "Selection"]
