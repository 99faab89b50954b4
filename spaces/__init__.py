"""What is explored: one file per space, one function `space(trial, facts) -> list[Stage]`."""
