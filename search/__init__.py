"""The engine: Ray Tune executes, Optuna proposes and remembers, MLflow shows. No tensors here."""
