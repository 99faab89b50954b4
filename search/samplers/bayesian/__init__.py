"""The default sampler: models of what stages score, and the points worth asking them about."""
