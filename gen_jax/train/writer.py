"""What a run leaves behind for people: progress, metrics, TensorBoard events and pictures. Process 0 only."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tqdm
from PIL import Image, ImageDraw, ImageFont

from gen_jax.contracts import Curves, Grid, Panels, Picture, Scatter
from gen_jax.files import replace_text

_MARGIN = 2  # Pixels between the images of a grid.
_HEADER = 26  # Pixels above a grid, for the title.


class Writer:
    """Writes the metrics and pictures of one workdir; on other processes than the first it does nothing.

    `metrics.jsonl` has one row a record, {"step": ..., "split": "train" | "test", name: number, ...}, and holds only
    what the run computes, no times: a run that was interrupted leaves the same file as one that was not.
    """

    def __init__(self, workdir: pathlib.Path, step: int, enabled: bool = True):
        """Opens the workdir's records at a step, dropping rows after it.

        Args:
          workdir: an existing folder.
          step: the step that the run continues from.
          enabled: whether this process writes at all.
        """
        self._workdir = workdir
        self._enabled = enabled
        if not enabled:
            return
        # Imported here, as it imports PyTorch where that is installed.
        from tensorboardX import summary
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2

        self._summary, self._protocol = summary, event_pb2
        path = workdir / "metrics.jsonl"
        rows = [row for row in read_metrics(path) if row["step"] <= step]
        replace_text(path, "".join(_row_text(row) for row in rows))
        self._metrics = path.open("a")
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

        Returns:
          The paths written.
        """
        if not self._enabled:
            return []
        folder = self._workdir / "pictures"
        folder.mkdir(exist_ok=True)
        paths = []
        for name, picture in pictures.items():
            image = draw(picture)
            paths.append(save_png(image, folder / f"{name}.png"))
            self._event(step, summary=self._summary.image(name, np.asarray(image), dataformats="HWC"))
        return paths

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


def save_png(image: Image.Image, path: pathlib.Path) -> pathlib.Path:
    """Saves a picture whole or not at all, and returns its path."""
    beside = path.with_name(path.name + ".tmp")
    image.save(beside, format="png")
    beside.replace(path)
    return path


def draw(picture: Picture) -> Image.Image:
    """Draws a picture.

    Args:
      picture: a `Grid`, a `Scatter`, `Curves` or `Panels` of them.

    Returns:
      An RGB image with the title in it.
    """
    if isinstance(picture, Panels):
        return _beside([draw(panel) for panel in picture.panels])
    if isinstance(picture, Grid):
        return _draw_grid(picture)
    return _draw_scatter(picture) if isinstance(picture, Scatter) else _draw_curves(picture)


def _beside(images: list[Image.Image]) -> Image.Image:
    gap = 12
    width = sum(image.width for image in images) + gap * (len(images) - 1)
    canvas = Image.new("RGB", (width, max(image.height for image in images)), "white")
    left = 0
    for image in images:
        canvas.paste(image, (left, 0))
        left += image.width + gap
    return canvas


def _draw_grid(grid: Grid) -> Image.Image:
    images = np.asarray(grid.images)
    rows, columns, height, width, channels = images.shape
    zoom = max(1, round(56 / max(height, width)))  # Small images are shown at about 56 pixels, in whole multiples.
    levels = np.round(np.clip(images, 0.0, 1.0) * 255).astype(np.uint8)
    levels = np.broadcast_to(levels, (rows, columns, height, width, 3)) if channels == 1 else levels
    levels = levels.repeat(zoom, axis=2).repeat(zoom, axis=3)

    font = ImageFont.load_default(14)
    label_width = max((int(font.getlength(label)) + 10 for label in grid.row_labels), default=0)
    cell_height, cell_width = height * zoom + _MARGIN, width * zoom + _MARGIN
    full_width = max(label_width + columns * cell_width + _MARGIN, int(font.getlength(grid.title)) + 16)
    canvas = Image.new("RGB", (full_width, _HEADER + rows * cell_height + _MARGIN), "white")
    pen = ImageDraw.Draw(canvas)
    pen.text((6, 5), grid.title, fill="black", font=font)
    for r in range(rows):
        top = _HEADER + r * cell_height + _MARGIN
        if grid.row_labels:
            pen.text((5, top + cell_height // 2), grid.row_labels[r], fill="black", font=font, anchor="lm")
        for c in range(columns):
            canvas.paste(Image.fromarray(levels[r, c]), (label_width + c * cell_width + _MARGIN, top))
    return canvas


@contextlib.contextmanager
def _figure(title: str, axes_names: tuple[str, str]) -> Iterator[tuple[Any, list[Image.Image]]]:
    """A matplotlib figure to draw in, without any display; the picture is in the list once it is drawn."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 6), dpi=110)
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set_title(title)
    axes.set_xlabel(axes_names[0])
    axes.set_ylabel(axes_names[1])
    drawn: list[Image.Image] = []
    yield axes, drawn
    figure.tight_layout()
    canvas.draw()
    drawn.append(Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3]))


def _draw_scatter(scatter: Scatter) -> Image.Image:
    with _figure(scatter.title, scatter.axes) as (axes, drawn):
        classes = np.unique(scatter.labels)
        colours = np.searchsorted(classes, scatter.labels)
        x, y = scatter.points.T
        points = axes.scatter(x, y, c=colours, cmap="tab10", s=6, vmin=0, vmax=9)
        if 1 < len(classes) <= 10:
            handles, _ = points.legend_elements(num=list(range(len(classes))))
            axes.legend(handles, [str(c) for c in classes], title="class", loc="center left", bbox_to_anchor=(1.0, 0.5))
        axes.set_aspect("equal", adjustable="datalim")
    return drawn[0]


def _draw_curves(curves: Curves) -> Image.Image:
    with _figure(curves.title, curves.axes) as (axes, drawn):
        for name, (x, y) in curves.lines.items():
            axes.plot(x, y, label=name)
        axes.set_yscale("log" if curves.log_y else "linear")
        axes.legend()
    return drawn[0]


def _row_text(row: Mapping[str, Any]) -> str:
    return json.dumps(dict(row)) + "\n"
