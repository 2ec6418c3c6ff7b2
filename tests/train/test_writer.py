"""Pictures have every image at its place; the metrics file forgets what a run that goes on will write again."""

from __future__ import annotations

import numpy as np
import pytest

from gen_jax.contracts import Curves, Grid, Panels, Scatter
from gen_jax.files import replace_text
from gen_jax.train.writer import Writer, draw, read_metrics


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


def test_a_scatter_is_drawn():
    points = np.random.default_rng(0).normal(size=(50, 2))
    picture = np.asarray(draw(Scatter("A title", points, np.arange(50) % 10)))
    assert picture.shape[2] == 3 and len(np.unique(picture.reshape(-1, 3), axis=0)) > 50


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


def test_other_processes_write_nothing(tmp_path):
    writer = Writer(tmp_path, 0, enabled=False)
    writer.scalars(1, "train", {"loss": 1.0})
    assert writer.pictures(1, {"x": Grid("t", np.zeros((1, 1, 8, 8, 1)))}) == []
    writer.close()
    assert not list(tmp_path.iterdir())


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    replace_text(path, "new")
    assert path.read_text() == "new" and [p.name for p in tmp_path.iterdir()] == ["file"]


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
