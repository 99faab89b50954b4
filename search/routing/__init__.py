"""Prompt-routed depth pruning (PuDDing): its four stages and their commands."""
