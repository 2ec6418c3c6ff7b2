"""Videos are read back frame by frame; fields have every number at its place; films come with a strip of frames."""

from __future__ import annotations

import dataclasses
import re
import subprocess

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from gen_jax.contracts import Curves, Field, Film, Grid, Panels, UserError
from gen_jax.train.drawing import draw, spread, strip
from gen_jax.train.film import training_strip, training_video, write_video
from gen_jax.train.writer import Writer, save_png

EXTENT = (-3.0, 3.0, -3.0, 3.0)


def read(path):
    """Reads a video back: its frames [N, H, W, 3], and what the decoder says of it."""
    # Not by `imageio_ffmpeg.read_frames`, which leaves its pipes open.
    exe = imageio_ffmpeg.get_ffmpeg_exe()
    command = [exe, "-i", str(path), "-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    done = subprocess.run(command, capture_output=True, check=True)
    facts = next(line for line in done.stderr.decode().splitlines() if "Video: " in line)
    width, height = (int(n) for n in re.search(r" (\d+)x(\d+)[, ]", facts).groups())
    return np.frombuffer(done.stdout, np.uint8).reshape(-1, height, width, 3).astype(int), facts


def flat_frames(count, size=(48, 64), channels=3):
    """Frames of one colour each, brighter and brighter."""
    return [np.full((*size, channels), 20 + 200 * i // max(1, count - 1), np.uint8) for i in range(count)]


@pytest.mark.parametrize("size", [(48, 64), (33, 47), (48, 47)])
def test_a_video_has_every_frame_in_order_in_even_sides(tmp_path, size):
    written = flat_frames(9, size)
    path = write_video(iter(written), tmp_path / "v.mp4", 10)
    frames, facts = read(path)
    assert frames.shape == (9, size[0] + size[0] % 2, size[1] + size[1] % 2, 3)
    assert "Video: h264" in facts and " yuv420p" in facts and " 10 fps" in facts
    for shown, frame in zip(frames, written, strict=True):
        assert np.abs(shown - int(frame[0, 0, 0])).max() <= 4, "padding has the colour of the edge"
    assert [p.name for p in tmp_path.iterdir()] == ["v.mp4"]


def test_the_last_frame_is_held_and_images_and_grey_arrays_are_frames_too(tmp_path):
    arrays = flat_frames(4, channels=1)
    images = [Image.fromarray(array[..., 0]) for array in arrays]
    grey, _ = read(write_video(arrays, tmp_path / "a.mp4", 8, hold=0.5))
    of_images, _ = read(write_video(images, tmp_path / "i.mp4", 8, hold=0.5))
    assert len(grey) == 4 + 4
    np.testing.assert_array_equal(grey, of_images)
    assert np.abs(grey[3:] - 220).max() <= 4 and np.abs(grey[2] - 153).max() <= 4


def test_the_same_frames_make_the_same_bytes_and_replace_an_old_video(tmp_path):
    noise = list(np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), np.uint8))
    one = write_video(noise, tmp_path / "one.mp4", 8).read_bytes()
    (tmp_path / "two.mp4").write_text("old")
    assert write_video(noise, tmp_path / "two.mp4", 8).read_bytes() == one


@pytest.mark.parametrize(
    ("frames", "said"),
    [
        ([], "at least one frame"),
        ([np.zeros((8, 8, 3), np.uint8), np.zeros((8, 10, 3), np.uint8)], "Frame 1 of a video"),
        ([np.zeros((8, 8, 3))], "expected uint8"),
        ([np.zeros((8, 8), np.uint8)], "expected uint8"),
    ],
)
def test_what_is_no_video_is_refused_and_leaves_nothing_behind(tmp_path, frames, said):
    with pytest.raises(ValueError, match=said):
        write_video(frames, tmp_path / "v.mp4", 8)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("encoder", ["/bin/false", "/nowhere/ffmpeg"])
def test_an_encoder_that_fails_is_one_sentence(tmp_path, monkeypatch, encoder):
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", encoder)
    with pytest.raises(UserError, match="cannot be written by the package imageio-ffmpeg") as caught:
        write_video(flat_frames(400), tmp_path / "v.mp4", 8)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_what_a_failing_encoder_has_begun_is_taken_away_and_its_last_word_told(tmp_path, monkeypatch):
    encoder = tmp_path / "encoder"
    encoder.write_text('#!/bin/sh\nfor last; do :; done\necho half > "$last"\necho "Broken.\nNo room." >&2\nexit 1\n')
    encoder.chmod(0o700)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(encoder))
    (tmp_path / "v.mp4").write_text("an old video")
    with pytest.raises(UserError, match=r"\(No room\)"):
        write_video(flat_frames(2), tmp_path / "v.mp4", 8)
    assert {p.name for p in tmp_path.iterdir()} == {"encoder", "v.mp4"}
    assert (tmp_path / "v.mp4").read_text() == "an old video"


def test_a_folder_that_is_not_there_is_one_sentence_too(tmp_path):
    with pytest.raises(UserError, match="No such file or directory"):
        write_video(flat_frames(2), tmp_path / "absent" / "v.mp4", 8)


def test_a_film_is_a_video_and_a_strip_and_without_an_encoder_the_strip_is_still_there(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    frames = tuple(Grid(f"A long title, number {10**i}", rng.uniform(size=(1, 2, 8, 8, 1))) for i in range(9))
    film = Film("A walk", frames, 5.0)
    said = []
    writer = Writer(tmp_path, 0, say=said.append)
    paths = writer.pictures(7, {"walk": film})
    assert [p.name for p in paths] == ["walk.png", "walk.mp4"] and not said
    shown, facts = read(tmp_path / "pictures/walk.mp4")
    largest = draw(frames[-1])
    assert len(shown) == 9 and " 5 fps" in facts
    assert 0 <= shown.shape[2] - largest.width <= 1 and 0 <= shown.shape[1] - largest.height <= 1
    assert np.abs(shown[-1, : largest.height, : largest.width] - np.asarray(largest, int)).mean() < 3
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "pictures/walk.png")), np.asarray(draw(film)))
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/bin/false")
    (tmp_path / "pictures/walk.png").unlink()
    assert [p.name for p in writer.pictures(7, {"walk": film})] == ["walk.png"]
    assert len(said) == 1 and "walk.mp4 cannot be written" in said[0]
    writer.close()


def test_frames_to_show_are_equally_spaced_with_the_first_and_the_last():
    assert spread(1) == [0] and spread(2) == [0, 1] and spread(6) == list(range(6))
    assert spread(11) == [0, 2, 4, 6, 8, 10]
    for count in range(7, 40):
        gaps = np.diff(spread(count))
        assert len(gaps) == 5 and gaps.sum() == count - 1 and gaps.max() - gaps.min() <= 1


@pytest.mark.parametrize(
    ("count", "size", "expected"),
    [
        (6, (100, 50), (6 * 100 + 5 * 12, 50)),
        (6, (770, 660), (3 * 770 + 2 * 12, 2 * 660 + 12)),
        (5, (770, 660), (3 * 770 + 2 * 12, 2 * 660 + 12)),
        (3, (1188, 100), (2400, round(100 * 2400 / (3 * 1188 + 24)))),
        (1, (4800, 100), (2400, 50)),
    ],
)
def test_a_strip_is_one_row_or_two_and_never_too_wide(count, size, expected):
    images = [Image.new("RGB", size, (40 * i, 0, 0)) for i in range(count)]
    whole = strip(images)
    assert whole.size == expected
    assert whole.getpixel((5, 5)) == (0, 0, 0)
    if count == 6:  # The last image is at the end of the last row.
        assert whole.getpixel((whole.width - 5, whole.height - 5)) == (200, 0, 0)


def test_the_film_of_a_training_shows_how_far_it_is(tmp_path):
    paths = {}
    for step, width in ((0, 40), (25, 44), (100, 40)):
        paths[step] = save_png(Image.new("RGB", (width, 30), (step, 0, 0)), tmp_path / f"{step:08d}.png")
    frames = [np.asarray(frame) for frame in training_video(paths, 100)]
    assert [frame.shape for frame in frames] == [(36, 44, 3)] * 3
    for frame, step in zip(frames, paths, strict=True):
        assert frame[0, 0].tolist() == [step, 0, 0]
        dark = frame[-1].sum(axis=-1) < 400
        assert dark.sum() == round(44 * step / 100) and dark[: dark.sum()].all()
    whole = np.asarray(training_strip(paths))
    assert whole.shape == (30 + 24, 40 + 44 + 40 + 2 * 12, 3)
    assert whole[-1, -1].tolist() == [100, 0, 0] and (whole[:24, :40] < 100).any(), "the step is above the picture"


def test_a_frame_that_cannot_be_read_is_left_out_and_named(tmp_path):
    said = []
    writer = Writer(tmp_path, 0, say=said.append)
    for step in (0, 10, 20, 30):
        writer.frame(step, Grid(f"step {step}", np.full((1, 2, 8, 8, 1), step / 30)))
    frames = tmp_path / "frames"
    whole = (frames / "00000000.png").read_bytes()
    (frames / "00000000.png").write_bytes(whole[: len(whole) // 2])
    (frames / "00000020.png").write_bytes(b"")
    assert [path.name for path in writer.film(30)] == ["training.png", "training.mp4"]
    assert [re.search(r"\d{8}\.png", line)[0] for line in said] == ["00000000.png", "00000020.png"]
    shown, _ = read(tmp_path / "pictures/training.mp4")
    assert len(shown) == 2 + 16, "the last one is held for 2 s more"
    for path in frames.iterdir():
        path.write_bytes(b"")
    assert writer.film(30) == []
    writer.close()


def field(**changes):
    y, _ = np.meshgrid(np.linspace(-3, 3, 31), np.linspace(-3, 3, 31), indexing="ij")
    options = {"title": "D", "values": y, "extent": EXTENT, "points": np.zeros((0, 2)), "value_range": (-3.0, 3.0)}
    return Field(**(options | changes))


def axes_box(image):
    """The inside of the axes in pixels, (left, right, top, bottom), from where they stand in the figure."""
    height, width = image.shape[:2]
    return 0.1 * width, 0.84 * width, (1 - 0.92) * height, (1 - 0.09) * height


def pixel(image, x, y):
    """Where the point (x, y) of the plane is in a picture of `EXTENT`; its axes are square within their box."""
    left, right, top, bottom = axes_box(image)
    side = min(right - left, bottom - top)
    middle_x, middle_y = (left + right) / 2, (top + bottom) / 2
    return round(middle_y - y / 6 * side), round(middle_x + x / 6 * side)


def test_a_field_has_its_values_points_and_density_at_their_places():
    image = np.asarray(draw(field())).astype(int)
    red, blue = (image[..., 0] - image[..., 2]), (image[..., 2] - image[..., 0])
    assert red[pixel(image, 0, 2.5)] > 60 and blue[pixel(image, 0, -2.5)] > 60, "low values are blue and at the bottom"
    assert image[pixel(image, 1.0, 0.0)].min() > 235, "the middle of the range is neutral"
    flipped = np.asarray(draw(field(values=field().values.T))).astype(int)
    assert (flipped[..., 0] - flipped[..., 2])[pixel(image, 2.5, 0)] > 60, "the second axis is x"

    points = np.array([[1.5, 2.0], [-2.0, 0.5], [9.0, 0.0]])
    shown = np.asarray(draw(field(points=points))).astype(int)
    for x, y in points[:2]:
        assert shown[pixel(image, x, y)].max() < 80, "a point is black"
        assert image[pixel(image, x, y)].max() > 150
    differs = (shown != image).any(axis=-1)
    row, column = np.nonzero(differs)
    near = np.zeros_like(differs)
    for x, y in points[:2]:
        near |= (abs(np.indices(differs.shape) - np.reshape(pixel(image, x, y), (2, 1, 1))) <= 5).all(axis=0)
    elsewhere = differs & ~near
    assert elsewhere.any() and np.nonzero(elsewhere)[0].min() > 0.8 * len(image), "a note on the one outside, below"

    y, x = np.meshgrid(np.linspace(-3, 3, 61), np.linspace(-3, 3, 61), indexing="ij")
    density = np.exp(-((x - 1) ** 2 + (y + 1) ** 2) / 2)
    contours = (np.asarray(draw(field(density=density))).astype(int) != image).any(axis=-1)
    for level in (0.05, 0.3, 0.7):
        radius = np.sqrt(-2 * np.log(level))
        row, column = pixel(image, 1 + radius / np.sqrt(2), -1 + radius / np.sqrt(2))
        assert contours[row - 2 : row + 3, column - 2 : column + 3].any()
    assert not contours[pixel(image, 1, -1)]


def test_what_a_field_shows_stands_still_in_a_film():
    rng = np.random.default_rng(0)
    wild = dataclasses.replace(field(), title="A much longer title", values=1e4 * field().values, value_range=None)
    one, other = (np.asarray(draw(f)) for f in (field(points=rng.normal(size=(50, 2))), wild))
    assert one.shape == other.shape
    left, right, top, bottom = axes_box(one)
    side = min(right - left, bottom - top)
    frames = []
    for image in (one, other):  # The frame of the axes is black on every side.
        dark = (image[:, : round(right) + 3] < 60).all(axis=-1)
        rows, columns = (np.nonzero(dark.mean(axis=axis) > 0.6 * side / dark.shape[axis]) for axis in (1, 0))
        frames.append((rows[0].tolist(), columns[0].tolist()))
    assert frames[0] == frames[1] and frames[0][0] and frames[0][1]


@pytest.mark.parametrize(
    "changes",
    [
        {"values": np.zeros((5, 7)), "value_range": None},
        {"values": np.full((4, 4), np.nan), "value_range": None, "density": np.zeros((4, 4))},
        {"values": np.array([[0.0, np.inf], [1.0, -1.0]]), "value_range": None, "value_name": "logit"},
        {"points": np.full((3, 2), np.nan)},
    ],
)
def test_a_field_of_anything_is_drawn(changes):
    assert np.asarray(draw(field(**changes))).std() > 0


def test_a_field_stands_beside_other_panels():
    curves = Curves("loss", {"d": (np.arange(3), np.arange(3))})
    both = draw(Panels((field(), curves)))
    assert both.width == draw(field()).width + 12 + draw(curves).width
    assert Panels((field(), curves)).title == "D; loss"
