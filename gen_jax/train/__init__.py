"""Training that knows no family: an Objective in, a run out."""
