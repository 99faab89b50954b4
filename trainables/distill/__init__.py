"""Distillation: a student learns what a larger teacher says of the same rows."""

from trainables.distill.method import Distill, Distilled
from trainables.distill.pair import Pair, check_pair

__all__ = ["Distill", "Distilled", "Pair", "check_pair"]
