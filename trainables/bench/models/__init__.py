"""Finding, editing, loading and saving models."""
