"""The picture of the front page."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
from PIL import Image

from experiments.demo import gallery
from gen_jax import run
from gen_jax.contracts import UserError


def test_rows_fill_the_width_and_keep_the_shapes():
    rows = [
        [(Image.new("RGB", (200, 100), "red"), "a"), (Image.new("RGB", (50, 50), "blue"), "b")],
        [(Image.new("RGB", (300, 300), "green"), "c")],
    ]
    pixels = np.asarray(gallery.grid(rows, 616))
    assert pixels.shape == (200 + 28 + 16 + 616 + 28, 616, 3)
    red, blue, green = ((pixels == color).all(-1) for color in ((255, 0, 0), (0, 0, 255), (0, 128, 0)))
    assert red.sum() == 400 * 200, "twice as wide as high, and as high as its neighbour"
    assert blue.sum() == 200 * 200
    assert green.sum() == 616 * 616
    captions = pixels[200:228]
    assert (captions.min() < 64) and (captions[:, :400].min() < 64) and (captions[:, 416:].min() < 64)


def test_every_tile_is_of_an_experiment_and_a_preset_that_are_there():
    for row in gallery.ROWS:
        for tile in row:
            config = run.find_experiment(tile.experiment).get_config(tile.preset)
            assert config.preset == tile.preset


def test_the_picture_of_the_front_page_is_there():
    with Image.open(gallery.PICTURE) as image:
        assert image.width == 1400
        assert len(image.getcolors(1 << 24)) > 32, "it is not empty"
    assert gallery.PICTURE.stat().st_size < 2**20


def test_a_run_that_fails_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(gallery, "ROWS", ((gallery.Tile("vae", "no_such_preset", "samples"),),))
    with pytest.raises(UserError, match="no_such_preset"):
        gallery.main([f"--runs={tmp_path / 'runs'}", f"--out={tmp_path / 'grid.png'}"])
    assert not (tmp_path / "grid.png").exists()


def leave_a_picture(words, log):
    """What is left of a run that has been finished."""
    log.write_text("")
    module, preset, place = words[1:]
    assert (words[0], module, preset) == ("-m", "experiments.gan_ring", "--preset=tiny")
    pictures = pathlib.Path(place.removeprefix("--workdir=")) / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 20), "red").save(pictures / "samples.png")
    return ""


@pytest.mark.parametrize("trained", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_it_is_drawn_of_runs_that_are_finished(trained, tmp_path, monkeypatch):
    if not trained:
        monkeypatch.setattr(gallery.running, "run", leave_a_picture)
    tile = gallery.Tile("gan_ring", "tiny", "samples")
    monkeypatch.setattr(gallery, "ROWS", ((tile,), (tile, tile)))
    words = [f"--runs={tmp_path / 'runs'}", f"--out={tmp_path / 'grid.png'}"]
    gallery.main(words)
    before = (tmp_path / "grid.png").read_bytes()
    gallery.main(words)  # Nothing is trained again.
    assert (tmp_path / "grid.png").read_bytes() == before
    with Image.open(tmp_path / "grid.png") as image:
        assert image.width == 1400
