"""The pictures of autoencoders: made of arrays, so that the experiment decides what is compared with what."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gen_jax.contracts import Curves, Grid, Panels, Scatter


def compared(title: str, rows: Mapping[str, np.ndarray], columns: int = 10) -> Grid:
    """The same images in several ways, one below the other.

    Args:
      title: of the picture.
      rows: by label, [N, H, W, C] each; N a multiple of `columns`.
      columns: how many images stand beside each other.

    Returns:
      A grid of N / columns blocks with a row for every label.
    """
    stacked = np.stack([np.asarray(images) for images in rows.values()])  # [ways, N, H, W, C]
    blocks = stacked.reshape(len(rows), -1, columns, *stacked.shape[2:]).swapaxes(0, 1)
    return Grid(title, blocks.reshape(-1, *blocks.shape[2:]), tuple(rows) * len(blocks))


def filters(
    title: str, kernel: np.ndarray, image_shape: tuple[int, int, int], rows: int = 10, columns: int = 20
) -> Grid:
    """The weights that lead to units of the first layer, as images: grey is 0, white and black the unit's extremes.

    Args:
      title: of the picture.
      kernel: [D, units] of the first layer.
      image_shape: (H, W, C).
      rows: of the grid.
      columns: of the grid; with fewer units than rows times columns the rest is left grey.

    Returns:
      A grid of the first units.
    """
    shown = np.asarray(kernel).T[: rows * columns]
    shown = np.pad(shown, ((0, rows * columns - len(shown)), (0, 0)))
    largest = np.abs(shown).max(axis=1, keepdims=True)
    images = 0.5 + 0.5 * shown / np.where(largest > 0, largest, 1.0)
    return Grid(title, images.reshape(rows, columns, *image_shape))


def codes_beside(title: str, other_title: str, codes: np.ndarray, others: np.ndarray, labels: np.ndarray) -> Panels:
    """Two ways to put a test set into the plane, beside each other.

    See "Reducing the Dimensionality of Data with Neural Networks", Hinton and Salakhutdinov, 2006 (Science 313),
    Fig. 3.

    Args:
      title: of the codes.
      other_title: of the others.
      codes: [N, 2].
      others: [N, 2].
      labels: [N], by which the points are coloured.

    Returns:
      The picture, the others first.
    """
    axes = ("first", "second")
    return Panels((Scatter(other_title, others, labels, axes), Scatter(title, codes, labels, axes)))


def spectrum(title: str, values: Mapping[str, np.ndarray]) -> Curves:
    """Spectra of singular values over one axis.

    Args:
      title: of the picture.
      values: by name, [n] in falling order.

    Returns:
      The picture, the values on a logarithmic scale.
    """
    lines = {name: (np.arange(1, len(v) + 1), v) for name, v in values.items()}
    return Curves(title, lines, ("number of the singular value", "singular value"), log_y=True)
