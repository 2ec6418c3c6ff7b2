"""Images one after another as a video, and the film of a training."""

from __future__ import annotations

import contextlib
import itertools
import pathlib
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import IO

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from gen_jax.contracts import UserError
from gen_jax.train.drawing import spread, strip

_BAR = 6  # Pixels under a frame, for how much of the training is done.
_CAPTION = 24  # Pixels above a frame, for the step.


def write_video(
    frames: Iterable[Image.Image | np.ndarray], path: pathlib.Path, fps: float, *, hold: float = 0.0
) -> pathlib.Path:
    """Writes an H.264 video that browsers and slides play, whole or not at all.

    Args:
      frames: images, or arrays [H, W, 3] or [H, W, 1] uint8, all of one size. Where a side is odd, its last row or
        column is shown twice: H.264 halves the resolution of colours.
      path: the file, which ends in .mp4; an old one is replaced.
      fps: frames a second.
      hold: for how many seconds more the last frame is shown.

    Returns:
      The path.

    Raises:
      UserError: where there is no encoder, or it fails.
      ValueError: where there are no frames, one has another size, or numbers that are not bytes.
    """
    raw = _raw_frames(frames, max(0, round(hold * fps)))
    try:
        first = next(raw)
    except StopIteration:
        raise ValueError("A video needs at least one frame.") from None
    height, width, _ = first.shape
    beside = path.with_name(path.name + ".tmp")
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-video_size", f"{width}x{height}", "-framerate", f"{fps:g}"]
    # One thread: how the encoder shares its work out changes the bytes.
    video = ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "18", "-threads", "1", "-movflags", "+faststart"]
    try:
        import imageio_ffmpeg  # Only who writes a video needs it.

        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-y", *source, "-i", "-", *video]
        said = _pipe([*command, "-f", "mp4", str(beside)], first, raw)
        if said is None:
            beside.replace(path)
    except (ImportError, RuntimeError, OSError) as error:
        said = str(error)
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
    if said is not None:
        reason = (said.strip() or "it ended without a word").splitlines()[-1].rstrip(".")
        raise UserError(
            f"The video {path} cannot be written by the package imageio-ffmpeg ({reason}); install it anew, make room "
            "on the disk, or do without."
        )
    return path


def _pipe(command: list[str], first: np.ndarray, rest: Iterator[np.ndarray]) -> str | None:
    """Feeds frames to a program; what it had to say where it failed, else None."""
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors)
        assert process.stdin is not None
        try:
            with contextlib.suppress(BrokenPipeError):  # It has ended, and its status says how.
                _feed(process.stdin, first, rest)
            failed = process.wait() != 0
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        errors.seek(0)
        return errors.read().decode(errors="replace") if failed else None


def _feed(pipe: IO[bytes], first: np.ndarray, rest: Iterator[np.ndarray]) -> None:
    with pipe:
        pipe.write(first.tobytes())
        for number, frame in enumerate(rest, start=1):
            if frame.shape != first.shape:
                raise ValueError(f"Frame {number} of a video is {frame.shape}, not {first.shape} like the first.")
            pipe.write(frame.tobytes())


def _raw_frames(frames: Iterable[Image.Image | np.ndarray], repeats: int) -> Iterator[np.ndarray]:
    """The frames as [H, W, 3] bytes with even sides, the last one `repeats` times more."""
    levels: np.ndarray | None = None
    for frame in frames:
        levels = np.asarray(frame.convert("RGB") if isinstance(frame, Image.Image) else frame)
        if levels.dtype != np.uint8 or levels.ndim != 3 or levels.shape[2] not in (1, 3):
            raise ValueError(f"A frame is {levels.dtype} {levels.shape}; expected uint8 [H, W, 3] or [H, W, 1].")
        height, width = levels.shape[:2]
        levels = np.pad(levels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        levels = np.broadcast_to(levels, (*levels.shape[:2], 3))
        yield levels
    if levels is not None:
        yield from itertools.repeat(levels, repeats)


def same_size(images: Sequence[Image.Image]) -> list[Image.Image]:
    """Images on white of one size, which is that of the largest, each in the corner at the top left."""
    size = (max(image.width for image in images), max(image.height for image in images))
    return [_on_white(image, size) for image in images]


def training_video(frames: Mapping[int, pathlib.Path], total: int) -> Iterator[Image.Image]:
    """The frames of a training's film: its pictures, each with a bar under it that grows.

    Args:
      frames: where the picture of each step lies, by step, ascending.
      total: how many steps the whole training has.

    Yields:
      Images of one size.
    """
    sizes = []
    for path in frames.values():
        with Image.open(path) as image:
            sizes.append(image.size)
    width, height = (max(lengths) for lengths in zip(*sizes, strict=True))
    for step, path in frames.items():
        canvas = _on_white(_read(path), (width, height + _BAR))
        pen = ImageDraw.Draw(canvas)
        pen.rectangle((0, height, width - 1, height + _BAR - 1), fill="#dddddd")
        done = round(width * step / total)
        if done:
            pen.rectangle((0, height, done - 1, height + _BAR - 1), fill="#1f4e79")
        yield canvas


def training_strip(frames: Mapping[int, pathlib.Path]) -> Image.Image:
    """Some pictures of a training beside each other, with the step above each.

    Args:
      frames: where the picture of each step lies, by step, ascending.

    Returns:
      An RGB image.
    """
    steps = list(frames)
    shown = []
    for step in (steps[i] for i in spread(len(steps))):
        image = _read(frames[step])
        canvas = Image.new("RGB", (image.width, image.height + _CAPTION), "white")
        canvas.paste(image, (0, _CAPTION))
        ImageDraw.Draw(canvas).text((6, 4), f"step {step}", fill="black", font=ImageFont.load_default(15))
        shown.append(canvas)
    return strip(shown)


def _read(path: pathlib.Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def _on_white(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    canvas = Image.new("RGB", size, "white")
    canvas.paste(image, (0, 0))
    return canvas
