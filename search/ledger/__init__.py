"""MLflow, kept up to date with the journal."""
