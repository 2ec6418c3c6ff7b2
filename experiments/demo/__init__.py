"""Every experiment's `tiny` run on one page: `python -m experiments.demo`, or `make demo`."""
