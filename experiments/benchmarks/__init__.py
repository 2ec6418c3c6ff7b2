"""What the code costs: `python -m experiments.benchmarks` measures and prints one table."""
