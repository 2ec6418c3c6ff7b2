"""What a run leaves behind for people: progress, metrics, TensorBoard events and pictures. Process 0 only."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pathlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import tqdm
from PIL import Image, PngImagePlugin

from gen_jax.contracts import Film, Picture, Still, UserError
from gen_jax.files import BROKEN_IMAGE, replace_bytes, replace_text
from gen_jax.train import film
from gen_jax.train.drawing import draw, spread, strip

_FPS = 8.0  # Of the film of a training.
_HOLD = 2.0  # Seconds for which its last frame is shown.


@contextlib.contextmanager
def _without_pytorch() -> Iterator[None]:
    """Keeps PyTorch from tensorboardX, which imports it where it is installed: seconds, for nothing that we need."""
    absent = "torch" not in sys.modules
    if absent:
        sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if absent:
            del sys.modules["torch"]


class Writer:
    """Writes the metrics and pictures of one workdir; on other processes than the first it does nothing.

    `metrics.jsonl` has one row a record, {"step": ..., "split": "train" | "test", name: number, ...}, and holds only
    what the run computes, no times: a run that was interrupted leaves the same file as one that was not.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        step: int,
        enabled: bool = True,
        say: Callable[[str], None] = lambda line: None,
    ):
        """Opens the workdir's records at a step, dropping rows and frames after it.

        Args:
          workdir: an existing folder.
          step: the step that the run continues from.
          enabled: whether this process writes at all.
          say: prints one line for a person.
        """
        self._workdir = workdir
        self._enabled = enabled
        self._say = say
        if not enabled:
            return
        with _without_pytorch():
            from tensorboardX import summary
            from tensorboardX.event_file_writer import EventsWriter
            from tensorboardX.proto import event_pb2

        self._summary, self._protocol = summary, event_pb2
        path = workdir / "metrics.jsonl"
        rows = [row for row in read_metrics(path) if row["step"] <= step]
        replace_text(path, "".join(_row_text(row) for row in rows))
        self._metrics = path.open("a")
        for later, frame in self._frames().items():
            if later > step:
                frame.unlink()
        # Not SummaryWriter: its thread dies of a full disk, and its queue then blocks the run for good.
        self._events = EventsWriter(str(workdir / "events"), f".{os.getpid()}")
        if step:  # Hides what an earlier start wrote after the step.
            started = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._event(step + 1, session_log=started)

    def _event(self, step: int, **content: Any) -> None:
        self._events.write_event(self._protocol.Event(wall_time=time.time(), step=step, **content))

    def scalars(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Appends one row to `metrics.jsonl` and the same numbers to TensorBoard."""
        if not self._enabled:
            return
        self._metrics.write(_row_text({"step": step, "split": split} | dict(values)))
        self._metrics.flush()
        for name, value in values.items():
            self._event(step, summary=self._summary.scalar(f"{split}/{name}", value))
        self._events.flush()

    def speed(self, step: int, steps_per_second: float) -> None:
        """Appends the speed to TensorBoard alone: it is not the same twice."""
        if self._enabled:
            self._event(step, summary=self._summary.scalar("speed/steps_per_second", steps_per_second))

    def pictures(self, step: int, pictures: Mapping[str, Picture]) -> list[pathlib.Path]:
        """Draws pictures to `pictures/<name>.png`, replacing older ones, and adds them to TensorBoard.

        Of a `Film` there is `pictures/<name>.mp4` too; where it cannot be encoded, a sentence says so.

        Returns:
          The paths written.
        """
        if not self._enabled:
            return []
        paths = []
        for name, picture in pictures.items():
            if isinstance(picture, Film):
                frames = [draw(frame) for frame in picture.frames]
                image = strip([frames[i] for i in spread(len(frames))])
                paths += self._picture(step, name, image, picture.title)
                paths += self._video(name, film.same_size(frames), picture.fps)
            else:
                paths += self._picture(step, name, draw(picture), picture.title)
        return paths

    def frame(self, step: int, picture: Still) -> None:
        """Draws what a run looks like at a step to `frames/<step>.png`, and adds it to TensorBoard."""
        if not self._enabled:
            return
        folder = self._workdir / "frames"
        folder.mkdir(exist_ok=True)
        image = draw(picture)
        save_png(image, folder / f"{step:08d}.png")
        self._event(step, summary=self._summary.image("frame", np.asarray(image), dataformats="HWC"))

    def film(self, total: int) -> list[pathlib.Path]:
        """Makes `pictures/training.png` and `pictures/training.mp4` of all frames that there are.

        A frame that cannot be read is left out, and a sentence says so.

        Args:
          total: how many steps the whole training has.

        Returns:
          The paths written; none where there are no such frames.
        """
        found = self._frames() if self._enabled else {}
        frames = {step: path for step, path in found.items() if self._is_whole(path)}
        if not frames:
            return []
        title = f"The training, from step {min(frames)} to step {max(frames)}"
        paths = self._picture(total, "training", film.training_strip(frames), title)
        return paths + self._video("training", film.training_video(frames, total), _FPS, _HOLD)

    def _frames(self) -> dict[int, pathlib.Path]:
        """Where the frames lie, by step, ascending."""
        paths = (self._workdir / "frames").glob("*.png")
        return dict(sorted((int(path.stem), path) for path in paths if path.stem.isdecimal()))

    def _is_whole(self, path: pathlib.Path) -> bool:
        """Whether a picture can be read; says so where not."""
        try:
            with Image.open(path) as image:
                image.load()
        except BROKEN_IMAGE:
            self._say(f"The frame {path} cannot be read; the film of the training goes without it.")
            return False
        return True

    def _picture(self, step: int, name: str, image: Image.Image, title: str) -> list[pathlib.Path]:
        folder = self._workdir / "pictures"
        folder.mkdir(exist_ok=True)
        self._event(step, summary=self._summary.image(name, np.asarray(image), dataformats="HWC"))
        return [save_png(image, folder / f"{name}.png", title)]

    def _video(self, name: str, frames: Iterable[Image.Image], fps: float, hold: float = 0.0) -> list[pathlib.Path]:
        try:
            return [film.write_video(frames, self._workdir / "pictures" / f"{name}.mp4", fps, hold=hold)]
        except UserError as error:  # The run and its pictures are worth more than a video of them.
            self._say(str(error))
            return []

    def close(self) -> None:
        """Flushes and closes the files."""
        if self._enabled:
            for file in (self._metrics, self._events):
                with contextlib.suppress(OSError):  # Every row was flushed when it was written, or said why not.
                    file.close()


def progress(total: int, start: int, enabled: bool) -> tqdm.tqdm:
    """A progress bar over training steps: done, speed and time left; redrawn rarely where the output is a file."""
    interval = 0.5 if sys.stderr.isatty() else 10.0
    return tqdm.tqdm(total=total, initial=start, unit="step", disable=not enabled, mininterval=interval, smoothing=0.1)


def read_metrics(path: pathlib.Path) -> list[dict[str, Any]]:
    """The rows of a `metrics.jsonl`, without the last one where a kill cut it short; [] where there is no file."""
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(errors="replace").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            break
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            break
        rows.append(row)
    return rows


def save_png(image: Image.Image, path: pathlib.Path, title: str = "") -> pathlib.Path:
    """Saves a picture whole or not at all.

    Args:
      image: the picture.
      path: the file; an old one is replaced.
      title: what a person sees in it, kept in the file for those who cannot see.

    Returns:
      The path.
    """
    facts = PngImagePlugin.PngInfo()
    if title:
        facts.add_text("Title", title)
    content = io.BytesIO()
    image.save(content, format="png", pnginfo=facts)
    return replace_bytes(path, content.getvalue())


def _row_text(row: Mapping[str, Any]) -> str:
    return json.dumps(dict(row)) + "\n"
