"""Rows of any data set to items, and items to batches."""
