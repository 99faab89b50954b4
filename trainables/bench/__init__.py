"""What methods share: the stages' protocol, model families, data, caches, metrics, saving."""
