"""Ray executes: sessions, Tune, the searcher, workers."""
