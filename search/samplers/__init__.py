"""Who proposes the points."""
