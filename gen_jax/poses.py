"""What many cameras have in common, from their poses: for those who read scenes and those who fly through them.

Poses are [3, 4], camera to world, with OpenGL's axes (x right, y up, z back). numpy only.
"""

from __future__ import annotations

import numpy as np


def focus_of(poses: np.ndarray) -> np.ndarray:
    """The point nearest to all optical axes, in the sense of least squares.

    Args:
      poses: [N, 3, 4], camera to world, OpenGL's axes.

    Returns:
      [3] float64.
    """
    along, places = poses[:, :, 2].astype(np.float64), poses[:, :, 3].astype(np.float64)
    across = np.eye(3) - along[:, :, None] * along[:, None]
    return np.linalg.lstsq(across.sum(axis=0), np.einsum("nij,nj->i", across, places), rcond=None)[0]


def mean_axes(poses: np.ndarray) -> np.ndarray:
    """The axes of the mean camera: it looks along the mean direction, and up is as near to the mean up as can be.

    See "Local Light Field Fusion", Mildenhall et al., 2019 (arXiv:1905.00889), and its code.

    Args:
      poses: [N, 3, 4], camera to world, OpenGL's axes.

    Returns:
      [3, 3], columns: right, up, back.
    """
    back = unit(poses[:, :, 2].sum(axis=0))
    right = unit(np.cross(poses[:, :, 1].sum(axis=0), back))
    return np.stack([right, np.cross(back, right), back], axis=1)


def unit(vector: np.ndarray) -> np.ndarray:
    """A vector [3] made of length 1."""
    return vector / np.linalg.norm(vector)
