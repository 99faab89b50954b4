"""The work: what a trial does to a model. One file per compression method, `bench/` for the rest."""
