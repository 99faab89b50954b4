"""The truth: what happened to every trial, where it is stored, how it is read."""
