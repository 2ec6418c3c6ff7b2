"""An experiment as a process of its own, and the end of the one that starts them."""

from __future__ import annotations

import pathlib
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from gen_jax.contracts import UserError


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


def exit_with(main: Callable[[Sequence[str]], int]) -> NoReturn:
    """Ends this process with the status of a function of its arguments, or with one sentence of what went wrong."""
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: {error.filename or 'A file'} cannot be read or written: {error.strerror or error}.")
    except KeyboardInterrupt:
        sys.exit("\nInterrupted; the same command goes on from the last checkpoint.")
