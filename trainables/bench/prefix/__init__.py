"""Where a model first differs: what is the same before that block is not computed again."""
