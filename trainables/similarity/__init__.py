"""Merging alike blocks: the method, its passes, CKA."""

from trainables.similarity.iterative import Iterate
from trainables.similarity.method import Similarity, SimilarityPerSample

__all__ = ["Iterate", "Similarity", "SimilarityPerSample"]
