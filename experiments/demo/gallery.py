"""Draws the picture of the front page from whole runs: `python -m experiments.demo.gallery`.

Each run is trained as its preset says, in a process and a folder of its own; the same command again goes on with what
was stopped, and trains nothing that is finished. All of them take some forty minutes on two CPU cores.
"""

from __future__ import annotations

import argparse
import pathlib
import time
from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from experiments.demo import running
from gen_jax.contracts import UserError
from gen_jax.files import absolute

PICTURE = pathlib.Path(__file__).parent / "gallery.png"
_WIDTH = 1400  # Of the picture, in pixels.
_GAP = 16
_CAPTION = 28


class Tile(NamedTuple):
    """A picture of a run.

    Attributes:
      experiment: its name.
      preset: of its config.
      picture: the name of the file in `pictures/`, without its suffix.
    """

    experiment: str
    preset: str
    picture: str

    @property
    def command(self) -> str:
        """How the run is made, without its workdir."""
        return f"experiments.{self.experiment}" + ("" if self.preset == "default" else f" --preset={self.preset}")


ROWS = (
    (
        Tile("autoencoder", "two_d", "codes"),
        Tile("vae", "two_d", "manifold"),
        Tile("gan_ring", "default", "samples"),
        Tile("dcgan", "default", "samples"),
    ),
    (
        Tile("ddpm", "default", "samples"),
        Tile("ddpm", "default", "chain"),
        Tile("nerf", "default", "views"),
    ),
)


def main(arguments: Sequence[str]) -> int:
    """Makes the runs one after another, and draws the picture.

    Args:
      arguments: those of the command line.

    Returns:
      The exit status, 0.

    Raises:
      UserError: where a run failed, with what it said last.
    """
    parser = argparse.ArgumentParser(prog="python -m experiments.demo.gallery", description=__doc__.split("\n")[0])
    parser.add_argument("--runs", default="runs/gallery", metavar="DIR", help="the runs; runs/gallery by default")
    parser.add_argument("--out", default=str(PICTURE), metavar="FILE", help=f"the picture; {PICTURE.name} by default")
    options = parser.parse_args(arguments)
    runs, out = absolute(options.runs), absolute(options.out)
    runs.mkdir(parents=True, exist_ok=True)
    for experiment, preset in dict.fromkeys(tile[:2] for row in ROWS for tile in row):
        print(f"{experiment} --preset={preset} ... ", end="", flush=True)
        started = time.monotonic()
        words = ["-m", f"experiments.{experiment}", f"--preset={preset}", f"--workdir={runs / experiment}"]
        if trouble := running.run(words, runs / f"{experiment}.txt"):
            raise UserError(trouble)
        print(f"{time.monotonic() - started:.0f} s")
    rows = []
    for row in ROWS:
        images = [Image.open(runs / tile.experiment / "pictures" / f"{tile.picture}.png") for tile in row]
        rows.append([(image.convert("RGB"), tile.command) for image, tile in zip(images, row, strict=True)])
    grid(rows, _WIDTH).save(out, optimize=True)
    print(f"Drawn: {out}")
    return 0


def grid(rows: Sequence[Sequence[tuple[Image.Image, str]]], width: int) -> Image.Image:
    """Pictures in rows of one width, those of a row scaled to one height, with a line of text under each.

    Args:
      rows: pictures and their captions; at least one in each row.
      width: of the whole, in pixels.

    Returns:
      An RGB image.
    """
    heights = [
        round((width - _GAP * (len(row) - 1)) / sum(image.width / image.height for image, _ in row)) for row in rows
    ]
    canvas = Image.new("RGB", (width, sum(heights) + len(rows) * _CAPTION + _GAP * (len(rows) - 1)), "white")
    pen, font, top = ImageDraw.Draw(canvas), ImageFont.load_default(16), 0
    for row, height in zip(rows, heights, strict=True):
        left = 0
        for image, caption in row:
            scaled = image.resize((round(image.width * height / image.height), height), Image.Resampling.LANCZOS)
            canvas.paste(scaled, (left, top))
            middle = left + scaled.width // 2, top + height + _CAPTION // 2
            pen.text(middle, caption, fill="black", font=font, anchor="mm")
            left += scaled.width + _GAP
        top += height + _CAPTION + _GAP
    return canvas


if __name__ == "__main__":
    running.exit_with(main)
