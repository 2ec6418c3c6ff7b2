"""What representations and samples are worth, in numpy: numbers that know no family."""
