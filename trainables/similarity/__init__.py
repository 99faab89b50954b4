"""Merging alike blocks: the method, its passes, CKA."""
