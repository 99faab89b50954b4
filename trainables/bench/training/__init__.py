"""Training: the loop, what is frozen, examples."""
