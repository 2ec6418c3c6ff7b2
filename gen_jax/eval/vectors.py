"""Sets of vectors that a measure can use, and the distances between two sets, some at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gen_jax.contracts import UserError

PAIRS = 1 << 22  # Distances, or values of a kernel, held at a time.


def checked(name: str, vectors: np.ndarray, least: int = 1) -> np.ndarray:
    """The vectors in float64, if a measure can use them.

    Args:
      name: what they are, for the error's sentence: "The {name} ...".
      vectors: [N, d], finite.
      least: N at least.

    Returns:
      [N, d] float64.

    Raises:
      UserError: they are not vectors, there are fewer than `least`, or they are not finite.
    """
    array = np.asarray(vectors, np.float64)
    if array.ndim != 2 or 0 in array.shape or len(array) < least:
        wanted = "one vector" if least == 1 else f"{least} vectors"
        raise UserError(f"The {name} have the shape {array.shape}; give at least {wanted}, as [N, d].")
    if not np.isfinite(array).all():
        raise UserError(f"The {name} are not all finite; give finite numbers, and look for a diverged run.")
    return array


def checked_pair(
    first_name: str, first: np.ndarray, second_name: str, second: np.ndarray, least: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Two sets of vectors in float64, if they can be compared.

    Args:
      first_name: as the name in `checked`.
      first: [N, d], finite.
      second_name: as the name in `checked`.
      second: [M, d], finite.
      least: N and M at least.

    Returns:
      [N, d] and [M, d] float64.

    Raises:
      UserError: as in `checked`, or the two have different numbers of dimensions.
    """
    one, other = checked(first_name, first, least), checked(second_name, second, least)
    if one.shape[1] != other.shape[1]:
        raise UserError(
            f"The {first_name} have {one.shape[1]} dimensions and the {second_name} {other.shape[1]}; give vectors of"
            " one space."
        )
    return one, other


def chunks(num: int, num_others: int) -> Iterator[slice]:
    """Rows of `num` vectors, as many at a time as make at most `PAIRS` pairs with `num_others`, but one at least."""
    size = max(1, PAIRS // num_others)
    for start in range(0, num, size):
        yield slice(start, min(start + size, num))


def squared_distances(queries: np.ndarray, points: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """‖q − p‖² of all pairs, some queries at a time.

    Of differences and not by ‖q‖² + ‖p‖² − 2q·p, whose rounding tells equal vectors apart: so equal vectors are at
    distance 0, and a pair has the same distance to the bit in whichever set and order it stands.

    Args:
      queries: [N, d] float64.
      points: [M, d] float64.

    Yields:
      The rows of `queries`, and [n, M] float64 for these.
    """
    from scipy.spatial.distance import cdist  # Takes long to import: only who measures distances waits for it.

    for rows in chunks(len(queries), len(points)):
        yield rows, cdist(queries[rows], points, "sqeuclidean")
