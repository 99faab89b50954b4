"""What is explored: one file per space, a class with `stages(trial, facts)`; see space.py."""
