"""What is explored: one file per space, one function `space(trial, facts) -> list[Stage]`.

Keyword-only parameters of the function are what a study's `[space]` table may override. Beside it
a module may define

- `survey(bench) -> dict`: what the baseline should measure for it; arrives as `facts.survey`.
- `starts(facts, **overrides) -> list[dict]`: good points to try before the sampler proposes any.
"""
