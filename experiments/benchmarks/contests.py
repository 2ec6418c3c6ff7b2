"""All contests of ours against PyTorch, and how one is held."""

from __future__ import annotations

import difflib
import pathlib
import tempfile
from typing import NamedTuple

from experiments.benchmarks import autoencoder, cost, diffusion, gan, nerf, timing, vae
from experiments.benchmarks.timing import Contest
from gen_jax.contracts import UserError


class Outcome(NamedTuple):
    """What came out of a contest.

    Attributes:
      contest: it.
      peer: how the quickest peer is run.
      ratio: our time as a multiple of that peer's.
      cold: what our side takes in a process of its own where nothing is compiled yet.
      warm: the same where everything is.
      theirs: what that peer takes in a process of its own.
    """

    contest: Contest
    peer: str
    ratio: timing.Ratio
    cold: cost.Cost
    warm: cost.Cost
    theirs: cost.Cost


def all_of_them() -> list[Contest]:
    """The contests in the order of the table."""
    return [
        *vae.contests(),
        *autoencoder.contests(),
        *gan.contests(),
        *diffusion.contests(),
        *nerf.contests(),
    ]


def chosen(text: str) -> list[int]:
    """The contests whose names have a text.

    Args:
      text: any; "" for all of them.

    Returns:
      Their places in `all_of_them`.

    Raises:
      UserError: where no name has it, with the name that is nearest by its likest word.
    """
    names = [contest.what for contest in all_of_them()]
    found = [number for number, name in enumerate(names) if text in name]
    if found:
        return found

    def likeness(name: str) -> float:
        words = [name, *name.split()]
        return max(difflib.SequenceMatcher(None, text.lower(), word.lower()).ratio() for word in words)

    raise UserError(f"No contest has '{text}' in its name; the nearest is '{max(names, key=likeness)}'.")


def hold(number: int, seconds: float) -> Outcome:
    """Holds one contest.

    Args:
      number: its place in `all_of_them`.
      seconds: how long the contestants take turns.

    Returns:
      What came out, against the peer whose ratio is the worst for us.

    Raises:
      RuntimeError: where the two sides do not compute the same.
    """
    contest = all_of_them()[number]
    contest.check()
    ratios = timing.interleave(contest.ours(), contest.peers(), seconds)
    peer, ratio = max(ratios.items(), key=lambda pair: pair[1].median)
    with tempfile.TemporaryDirectory() as folder:
        cold, warm = (cost.measure(number, "ours", pathlib.Path(folder)) for _ in range(2))
        theirs = cost.measure(number, peer, pathlib.Path(folder))
    return Outcome(contest, peer, ratio, cold, warm, theirs)
