"""What a finished run left behind, as the page shows it."""

from __future__ import annotations

import json
import pathlib

from PIL import Image

from experiments.demo import running
from experiments.demo.page import Entry, Media
from gen_jax.files import BROKEN_IMAGE
from gen_jax.run import Description
from gen_jax.train.card import drawn


def read(out: pathlib.Path, name: str, description: Description, command: str, trouble: str) -> Entry:
    """One experiment's part of the page.

    Args:
      out: the folder of the page, in which `<name>/` is the workdir and `<name>.txt` what the run printed.
      name: of the experiment.
      description: what its docstring says.
      command: what was run.
      trouble: why it could not be run; "" where it could.

    Returns:
      It, with the numbers and pictures of the workdir unless there was trouble, of which the lack of them is some.
    """
    numbers: dict[str, float] = {}
    media: list[Media] = []
    if not trouble:
        try:
            numbers = json.loads((out / name / "results.json").read_text())
            media = [_media(path, path.relative_to(out).as_posix()) for path in drawn(out / name)]
        except FileNotFoundError:  # Somebody stopped it, which is no failure.
            trouble = running.last_words(out / f"{name}.txt") or "It left no numbers."
        except (*BROKEN_IMAGE, ValueError) as error:
            trouble = f"What it left in {name} cannot be read: {error}."
    return Entry(name, description, command, numbers, tuple(media), trouble)


def _media(path: pathlib.Path, place: str) -> Media:
    """A picture with its size and title, or a film with those of the picture beside it."""
    still = path.with_suffix(".png")
    if not still.is_file():
        return Media(place, path.stem.replace("_", " "))
    with Image.open(still) as image:
        image.load()
        title = image.info.get("Title") or path.stem.replace("_", " ")
        return Media(place, title, image.size)
