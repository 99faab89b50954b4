"""Skipping blocks: the method, its searches, and what judges a set."""

from trainables.omission.method import Omission

__all__ = ["Omission"]
