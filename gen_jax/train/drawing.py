"""Pictures of all kinds as images: numbers in, pixels out."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from gen_jax.contracts import Curves, Field, Film, Grid, Panels, Picture, Scatter

_MARGIN = 2  # Pixels between the images of a grid.
_HEADER = 26  # Pixels above a grid, for the title.
_GAP = 12  # Pixels between pictures that stand beside each other.


def draw(picture: Picture) -> Image.Image:
    """Draws a picture.

    Args:
      picture: any; of a `Film` some frames are drawn beside each other.

    Returns:
      An RGB image with the title in it.
    """
    match picture:
        case Panels():
            return in_rows([draw(panel) for panel in picture.panels], len(picture.panels))
        case Film():
            return strip([draw(picture.frames[i]) for i in spread(len(picture.frames))])
        case Grid():
            return _draw_grid(picture)
        case Scatter():
            return _draw_scatter(picture)
        case Curves():
            return _draw_curves(picture)
        case Field():
            return _draw_field(picture)


def spread(count: int, most: int = 6) -> list[int]:
    """Which of some frames to show where there is no room for all: equally spaced, with the first and the last.

    Args:
      count: how many there are.
      most: how many may be shown, at least 2.

    Returns:
      At most so many of 0 to count - 1, ascending.
    """
    shown = min(count, most)
    return [round(i * (count - 1) / max(1, shown - 1)) for i in range(shown)]


def strip(images: Sequence[Image.Image], width: int = 2400) -> Image.Image:
    """Images side by side: in one row where they fit or are three at most, else in two; scaled down where too wide.

    Args:
      images: at least one.
      width: the largest that the result may have, in pixels.

    Returns:
      An RGB image.
    """
    row = in_rows(images, len(images))
    whole = row if row.width <= width or len(images) <= 3 else in_rows(images, -(-len(images) // 2))
    if whole.width <= width:
        return whole
    return whole.resize((width, round(whole.height * width / whole.width)), Image.Resampling.LANCZOS)


def in_rows(images: Sequence[Image.Image], columns: int) -> Image.Image:
    """Images in rows, each as large as it is, in cells as large as the largest; a single row has narrower cells.

    Args:
      images: at least one.
      columns: how many stand in a row.

    Returns:
      An RGB image.
    """
    height = max(image.height for image in images)
    widest = max(image.width for image in images)
    widths = [image.width if len(images) <= columns else widest for image in images[:columns]]
    rows = -(-len(images) // columns)
    size = (sum(widths) + _GAP * (len(widths) - 1), rows * height + _GAP * (rows - 1))
    canvas = Image.new("RGB", size, "white")
    for number, image in enumerate(images):
        row, column = divmod(number, columns)
        canvas.paste(image, (sum(widths[:column]) + _GAP * column, row * (height + _GAP)))
    return canvas


def _draw_grid(grid: Grid) -> Image.Image:
    images = np.asarray(grid.images)
    rows, columns, height, width, channels = images.shape
    zoom = max(1, round(56 / max(height, width)))  # Small images are shown at about 56 pixels, in whole multiples.
    levels = np.round(np.clip(images, 0.0, 1.0) * 255).astype(np.uint8)
    levels = np.broadcast_to(levels, (rows, columns, height, width, 3)) if channels == 1 else levels
    levels = levels.repeat(zoom, axis=2).repeat(zoom, axis=3)

    font = _font(13)
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


def _font(size: int) -> ImageFont.FreeTypeFont:
    """That of matplotlib's pictures: Pillow's own draws Greek letters as boxes."""
    import matplotlib

    return ImageFont.truetype(pathlib.Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size)


@contextlib.contextmanager
def _figure(title: str, axes_names: tuple[str, str], fixed: bool = False) -> Iterator[tuple[Any, list[Image.Image]]]:
    """A matplotlib figure to draw in, without any display; the picture is in the list once it is drawn.

    Where `fixed`, the axes have one place, whatever is drawn; else they get what the labels around them leave.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 6), dpi=110)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0.1, 0.09, 0.74, 0.83)) if fixed else figure.subplots()
    axes.set_title(title, y=1.0)  # Where it would come to stand, for much less time.
    axes.set_xlabel(axes_names[0])
    axes.set_ylabel(axes_names[1])
    drawn: list[Image.Image] = []
    yield axes, drawn
    if not fixed:
        figure.tight_layout()
    canvas.draw()
    drawn.append(Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3]))


def _draw_scatter(scatter: Scatter) -> Image.Image:
    with _figure(scatter.title, scatter.axes) as (axes, drawn):
        classes = np.unique(scatter.labels)
        colours = np.searchsorted(classes, scatter.labels) % 10  # Of more than ten classes some share a colour.
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


def _draw_field(field: Field) -> Image.Image:
    values = np.asarray(field.values, np.float64)
    low, high = _range(values) if field.value_range is None else field.value_range
    x_min, x_max, y_min, y_max = field.extent
    # Half a cell more on every side, so that each cell lies about the place that its value belongs to.
    half_y, half_x = (np.array([y_max - y_min, x_max - x_min]) / (2 * (np.array(values.shape) - 1))).tolist()
    cells = (x_min - half_x, x_max + half_x, y_min - half_y, y_max + half_y)
    with _figure(field.title, field.axes, fixed=True) as (axes, drawn):
        colours = axes.imshow(
            np.ma.masked_invalid(values), origin="lower", extent=cells, cmap="RdBu_r", vmin=low, vmax=high, alpha=0.8
        )
        scale = axes.inset_axes((1.03, 0.0, 0.04, 1.0))
        axes.figure.colorbar(colours, cax=scale, label=field.value_name)
        if field.density is not None and np.ptp(field.density) > 0:
            levels = np.max(field.density) * np.array([0.05, 0.3, 0.7])
            rows, columns = field.density.shape
            x, y = np.linspace(x_min, x_max, columns), np.linspace(y_min, y_max, rows)
            axes.contour(x, y, field.density, levels=levels, colors="black", linewidths=0.8)
        points = np.asarray(field.points)
        shown = np.all((points >= [x_min, y_min]) & (points <= [x_max, y_max]), axis=1)
        axes.scatter(*points[shown].T, s=7, c="black", edgecolors="white", linewidths=0.3, zorder=3)
        outside = np.count_nonzero(~shown)
        if outside:
            text = f"{outside} of {len(points)} points are not in the picture"
            axes.text(0.01, 0.01, text, transform=axes.transAxes, zorder=4)
        axes.set_xlim(x_min, x_max)
        axes.set_ylim(y_min, y_max)
    return drawn[0]


def _range(values: np.ndarray) -> tuple[float, float]:
    """The ends of the finite ones among some values, apart from each other."""
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    return (low, high) if low < high else (low - 0.5, high + 0.5)
