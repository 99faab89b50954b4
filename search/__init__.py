"""The engine: Ray Tune executes, Optuna proposes and remembers, MLflow shows. Never touches a tensor."""
