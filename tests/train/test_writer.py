"""Pictures have every image at its place; the metrics file forgets what a run that goes on will write again."""

from __future__ import annotations

import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from PIL import Image

from gen_jax.contracts import Curves, Grid, Panels, Scatter
from gen_jax.files import replace_text
from gen_jax.train.drawing import draw
from gen_jax.train.writer import Writer, read_metrics


@pytest.mark.parametrize("channels", [1, 3])
def test_a_grid_shows_every_pixel_of_every_image_in_order(channels):
    images = np.random.default_rng(0).uniform(size=(2, 3, 28, 28, channels))
    picture = np.asarray(draw(Grid("A title", images)))
    levels = np.broadcast_to(np.round(images * 255).astype(np.uint8), (2, 3, 28, 28, 3))
    zoom, margin, header = 2, 2, 26
    for row in range(2):
        for column in range(3):
            top, left = header + margin + row * (56 + margin), margin + column * (56 + margin)
            shown = picture[top : top + 56 : zoom, left : left + 56 : zoom]
            np.testing.assert_array_equal(shown, levels[row, column])
    assert (picture[:header] < 128).any(), "the title is missing"


def test_values_outside_of_the_range_are_clipped_and_not_wrapped():
    picture = np.asarray(draw(Grid("", np.stack([np.full((1, 8, 8, 1), 1.5), np.full((1, 8, 8, 1), -0.5)]))))
    assert set(np.unique(picture[40:50, 10:20])) == {255}
    assert 0 in picture


def test_titles_and_rows_have_the_letters_of_equations():
    """A font without a letter draws a box for it, the same for all that it lacks."""
    images = np.zeros((1, 1, 56, 56, 1))
    for letters in ("εθ", "λμ", "∇∂"):
        by_title = [draw(Grid(letter, images)).tobytes() for letter in letters]
        by_row = [draw(Grid("", images, (letter,))).tobytes() for letter in letters]
        assert by_title[0] != by_title[1] and by_row[0] != by_row[1], letters


def test_a_scatter_is_drawn():
    points = np.random.default_rng(0).normal(size=(50, 2))
    picture = np.asarray(draw(Scatter("A title", points, np.arange(50) % 10)))
    assert picture.shape[2] == 3 and len(np.unique(picture.reshape(-1, 3), axis=0)) > 50


def test_more_than_ten_classes_share_the_colours_of_ten():
    modes = np.repeat(np.arange(25), 20)
    points = np.stack([modes % 5, modes // 5], axis=1) + 0.2 * np.random.default_rng(0).normal(size=(500, 2))
    image = np.asarray(draw(Scatter("A grid", points, modes)))
    assert np.array_equal(image, np.asarray(draw(Scatter("A grid", points, 3 * modes - 7)))), "only their order counts"
    ten = np.round(255 * np.array(matplotlib.colormaps["tab10"].colors)).astype(int)
    shown = [np.count_nonzero((image == colour).all(axis=-1)) for colour in ten]
    # Of the 25 modes each of the first five colours has three, each of the others two.
    assert min(shown) > 0 and max(shown) < 2 * min(shown)


def test_a_run_that_goes_on_drops_the_rows_after_its_step_and_a_line_cut_short(tmp_path):
    writer = Writer(tmp_path, 0)
    for step in (10, 20, 30):
        writer.scalars(step, "train", {"loss": 1.0 / step})
    writer.close()
    whole = (tmp_path / "metrics.jsonl").read_text()
    (tmp_path / "metrics.jsonl").write_text(whole + '{"step": 40, "spl')
    Writer(tmp_path, 20).close()
    assert (tmp_path / "metrics.jsonl").read_text() == "".join(whole.splitlines(keepends=True)[:2])
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [10, 20]


def test_a_run_that_goes_on_drops_the_frames_after_its_step(tmp_path):
    writer = Writer(tmp_path, 0)
    for step in (0, 10, 20, 30):
        writer.frame(step, Grid(str(step), np.full((1, 1, 8, 8, 1), step / 30)))
    writer.close()
    assert sorted(p.name for p in (tmp_path / "frames").iterdir()) == [f"{s:08d}.png" for s in (0, 10, 20, 30)]
    (tmp_path / "frames/notes.txt").write_text("mine")
    (tmp_path / "frames/00000005.png.tmp").write_text("cut short")
    writer = Writer(tmp_path, 20)
    assert sorted(p.name for p in (tmp_path / "frames").glob("*.png")) == [f"{s:08d}.png" for s in (0, 10, 20)]
    paths = writer.film(30)
    writer.close()
    assert [p.name for p in paths] == ["training.png", "training.mp4"]
    levels = {round(level * 255) for level in (0, 10 / 30, 20 / 30)}
    assert levels <= set(np.unique(np.asarray(Image.open(paths[0]))).tolist())


def test_where_there_are_no_frames_there_is_no_film(tmp_path):
    writer = Writer(tmp_path, 0)
    assert writer.film(10) == [] and not (tmp_path / "pictures").exists()
    writer.close()


def test_other_processes_write_nothing(tmp_path):
    writer = Writer(tmp_path, 0, enabled=False)
    writer.frame(1, Grid("t", np.zeros((1, 1, 8, 8, 1))))
    assert writer.film(1) == []
    writer.scalars(1, "train", {"loss": 1.0})
    assert writer.pictures(1, {"x": Grid("t", np.zeros((1, 1, 8, 8, 1)))}) == []
    writer.close()
    assert not list(tmp_path.iterdir())


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    replace_text(path, "new")
    assert path.read_text() == "new" and [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_picture_keeps_its_title_in_the_file(tmp_path):
    writer = Writer(tmp_path, 0)
    [path] = writer.pictures(3, {"lines": Curves("Where σ² < 1 → 0", {"y": (np.arange(3.0), np.arange(3.0))})})
    writer.close()
    with Image.open(path) as image:
        assert image.info["Title"] == "Where σ² < 1 → 0"


def test_curves_are_drawn_and_panels_stand_beside_each_other():
    x = np.arange(1, 20)
    curves = Curves("A title", {"falling": (x, 1.0 / x), "rising": (x, 1.0 * x)}, ("n", "value"), log_y=True)
    grid = Grid("Another", np.random.default_rng(0).uniform(size=(2, 2, 8, 8, 1)))
    one, other, both = (np.asarray(draw(p)) for p in (curves, grid, Panels((curves, grid))))
    assert len(np.unique(one.reshape(-1, 3), axis=0)) > 20
    linear = np.asarray(draw(Curves("A title", curves.lines, ("n", "value"))))
    assert not np.array_equal(one, linear)
    assert np.array_equal(both[: one.shape[0], : one.shape[1]], one)
    assert np.array_equal(both[: other.shape[0], -other.shape[1] :], other)
    assert Panels((curves, grid)).title == "A title; Another"


def test_no_run_waits_for_pytorch(tmp_path):
    """By itself tensorboardX imports it where it is installed, as it is for the tests."""
    code = "import sys, pathlib; from gen_jax.train.writer import Writer; Writer(pathlib.Path(sys.argv[1]), 0)"
    seen = subprocess.run(
        [sys.executable, "-c", f"{code}; print('torch' in sys.modules, 'tensorboardX' in sys.modules)", str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert seen.stdout.split() == ["False", "True"]
