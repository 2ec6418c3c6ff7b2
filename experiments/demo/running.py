"""An experiment as a process of its own."""

from __future__ import annotations

import pathlib
import subprocess
import sys
from collections.abc import Sequence


def run(words: Sequence[str], log: pathlib.Path) -> str:
    """Runs Python with some arguments, and waits for it.

    Args:
      words: the arguments.
      log: the file that what it prints goes to.

    Returns:
      What it said last where it failed, else "".
    """
    with log.open("w") as file:
        done = subprocess.run([sys.executable, *words], stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT)
    return (last_words(log) or f"It ended with status {done.returncode}.") if done.returncode else ""


def last_words(log: pathlib.Path) -> str:
    """The last line that a run printed, progress bars apart; "" where there is none."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    return next((line.removeprefix("error: ") for line in reversed(lines) if line), "")
