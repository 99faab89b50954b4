"""Packaged models and data sets: fetched, unpacked, converted."""
