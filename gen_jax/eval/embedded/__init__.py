"""Weights that come with the package, and the program that builds them."""
