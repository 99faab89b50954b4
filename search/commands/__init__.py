"""What each of `rayduce`'s verbs does.

Only what a verb needs is imported when it runs: `status`, `best` and `--help` answer at once.
"""
