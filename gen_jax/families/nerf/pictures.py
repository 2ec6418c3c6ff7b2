"""The pictures of a radiance field: held-out views beside the truth, depths, a flight along a path."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from gen_jax.contracts import Film, Grid
from gen_jax.families.nerf.views import View


def compare(truths: Sequence[np.ndarray], views: Sequence[View], names: Sequence[str]) -> Grid:
    """Held-out photographs, what is rendered in their place, how far they differ, and depths.

    Args:
      truths: [H, W, 3] in [0, 1] each.
      views: rendered from the same poses.
      names: a short text a view.

    Returns:
      A row a view: the truth, the rendered view, three times the absolute error and the depth.
    """
    nearest, farthest = depth_range(views)

    def row(truth: np.ndarray, view: View) -> np.ndarray:
        error = np.clip(3.0 * np.abs(view.color - truth), 0.0, 1.0)
        return np.stack([truth, view.color, error, depth_image(view, nearest, farthest)])

    rows = [row(truth, view) for truth, view in zip(truths, views, strict=True)]
    return Grid("Held-out view, rendered, three times the error, depth (near is light)", np.stack(rows), tuple(names))


def flight(title: str, views: Sequence[View], fps: float = 12.0) -> Film:
    """What is seen along a path, as a film: colours, and depths beside them.

    Args:
      title: what a person sees in it.
      views: one a frame.
      fps: frames a second.

    Returns:
      The film.
    """
    nearest, farthest = depth_range(views)
    frames = tuple(
        Grid(f"Frame {i + 1} of {len(views)}", np.stack([view.color, depth_image(view, nearest, farthest)])[None])
        for i, view in enumerate(views)
    )
    return Film(title, frames, fps)


def depth_range(views: Sequence[View]) -> tuple[float, float]:
    """The depths between which nearly all lies that is seen; (0, 1) where nothing is."""
    depths = np.concatenate([np.asarray(view.depth)[np.asarray(view.opacity) > 0.5] for view in views])
    if not len(depths):
        return 0.0, 1.0
    low, high = np.percentile(depths, [1.0, 99.0])
    return float(low), float(max(high, low + 1e-6))


def depth_image(view: View, nearest: float, farthest: float) -> np.ndarray:
    """Depths as grey: white is near, dark is far, black is nothing.

    Args:
      view: [H, W, ...].
      nearest: the depth that is white.
      farthest: the depth that is dark.

    Returns:
      [H, W, 3] in [0, 1].
    """
    share = np.clip((farthest - np.asarray(view.depth)) / (farthest - nearest), 0.0, 1.0)
    grey = np.where(np.asarray(view.opacity) > 0.5, 0.15 + 0.85 * share, 0.0)
    return np.repeat(grey[..., None], 3, axis=-1).astype(np.float32)


def to_host(view: Any) -> View:
    """A view as numpy arrays."""
    return jax.tree.map(np.asarray, view)
