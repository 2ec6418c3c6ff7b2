"""Linen blocks that know no family."""
