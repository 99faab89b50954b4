"""Skipping blocks: the method, its searches, and what judges a set."""

from trainables.omission.method import Omission
from trainables.omission.searched import SearchedOmission

__all__ = ["Omission", "SearchedOmission"]
