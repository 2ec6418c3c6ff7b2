"""Lists the experiments: what each is, its command, its expected number and its time, as its docstring states them.

`python -m experiments` lists all, `python -m experiments NAME ...` says all that the docstrings of some say.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from gen_jax.contracts import UserError
from gen_jax.run import describe, experiment_names

_MORE = "`python -m experiments.NAME --help` says what one can do with an experiment."


def entry(name: str, width: int = 0) -> str:
    """The lines of one experiment in the list, its name `width` wide."""
    said = describe(name)
    facts = (f"{'':{width}}    {key}: {fact}" for key, fact in said.facts.items())
    return "\n".join([f"{name:{width}}  {said.summary}", *facts, ""])


def main(arguments: Sequence[str]) -> None:
    """Prints the list, or what is said of those that are named.

    Args:
      arguments: names of experiments; none for the list.

    Raises:
      UserError: for a flag, or a name that no experiment has, naming the nearest.
    """
    for argument in arguments:
        if argument.startswith("-") and argument not in ("-h", "--help"):
            raise UserError(f"There is no flag {argument} here; flags go to `python -m experiments.NAME {argument}`.")
    names = [argument for argument in arguments if not argument.startswith("-")]
    texts = [describe(name).text + "\n" for name in names]
    if not names:
        names = experiment_names()
        texts = [entry(name, max(map(len, names))) for name in names]
    print("\n".join([*texts, _MORE]))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
        sys.stdout.flush()
    except UserError as error:
        sys.exit(f"error: {error}")
    except BrokenPipeError:  # Whoever read the list has gone, as in `... | head`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
