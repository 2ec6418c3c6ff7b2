"""Writing a file whole or not at all."""

from __future__ import annotations

import os
import pathlib


def replace_text(path: pathlib.Path, text: str) -> None:
    """Writes a text file beside its place, forces it to the disk, and renames it.

    Args:
      path: the file; an old one is replaced.
      text: its content.

    Raises:
      OSError: where it cannot be written; an old file is then untouched.
    """
    beside = path.with_name(path.name + ".tmp")
    with beside.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
