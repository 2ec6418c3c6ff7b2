"""From numbers on a grid to the surface between those above a level and those below."""

from __future__ import annotations

import numpy as np
from skimage import measure

from gen_jax.contracts import Mesh


def grid_points(low: np.ndarray, high: np.ndarray, resolution: int) -> np.ndarray:
    """The points of a regular grid that fills a box, the same distance apart in all directions.

    Args:
      low: [3], the lowest corner.
      high: [3], the highest.
      resolution: points along the longest side, 2 or more.

    Returns:
      [X, Y, Z, 3]; the first is the lowest corner, and the last within half a step of the highest.
    """
    low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
    step = (high - low).max() / (resolution - 1)
    counts = np.maximum(np.rint((high - low) / step).astype(int) + 1, 2)
    return low + step * np.stack(np.meshgrid(*map(np.arange, counts), indexing="ij"), axis=-1)


def marching_cubes(values: np.ndarray, points: np.ndarray, level: float) -> Mesh:
    """The surface on which a function has a value, as triangles whose front is outside, where the function is smaller.

    See "Efficient Implementation of Marching Cubes' Cases with Topological Guarantees", Lewiner et al., 2003
    (Journal of Graphics Tools 8), pages 1 to 15.

    Args:
      values: [X, Y, Z], the function at the points.
      points: [X, Y, Z, 3], of `grid_points`.
      level: the value.

    Returns:
      The mesh, in the coordinates of the points; without a vertex where no value, or every value, is above the level.
    """
    none = np.zeros((0, 3), np.float32)
    if not values.min() < level < values.max():
        return Mesh(none, none.astype(np.int32), none)
    step = float(points[1, 0, 0, 0] - points[0, 0, 0, 0])
    values = np.array(values, np.float32)  # Of its own: scikit-image writes to it.
    vertices, faces, normals, _ = measure.marching_cubes(values, level, spacing=(step,) * 3)
    vertices = (vertices + points[0, 0, 0]).astype(np.float32)
    return Mesh(vertices, faces[:, ::-1].astype(np.int32), normals.astype(np.float32))
