"""The work: what a trial does to a model. One file per method; `bench/` holds what they share."""
