"""Skipping blocks: the method, its searches, and what judges a set."""
