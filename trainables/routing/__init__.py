"""A set of omitted blocks per prompt: the router and the routed model."""
