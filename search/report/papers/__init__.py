"""Tables as papers print them: what pruning leaves of a model, and methods side by side."""
