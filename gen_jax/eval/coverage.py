"""Whether samples lie where the data lie, and whether they lie everywhere there, by nearest neighbours."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from gen_jax.contracts import UserError
from gen_jax.eval import bootstrap, vectors


@dataclasses.dataclass(frozen=True)
class PrecisionRecall:
    """Improved precision and recall.

    Attributes:
      precision: the fraction of samples that lie in the neighbourhood of some real example.
      recall: the fraction of real examples that lie in the neighbourhood of some sample.
    """

    precision: float
    recall: float


@dataclasses.dataclass(frozen=True)
class DensityCoverage:
    """Density and coverage.

    Attributes:
      density: in how many neighbourhoods of real examples a sample lies, by k, on average; 1 in expectation for samples
        of the data's distribution, and not bounded by 1: in many dimensions it is above for samples near the middle.
      coverage: the fraction of real examples with a sample in their neighbourhood.
      expected_coverage: the expectation of `coverage` for samples of the data's distribution.
    """

    density: float
    coverage: float
    expected_coverage: float


def precision_recall(real: np.ndarray, fake: np.ndarray, num_neighbours: int = 3) -> PrecisionRecall:
    """Which part of the samples the data surround, and which part of the data the samples surround.

    precision = #{j: y_j ∈ ∪_i B(x_i, r(x_i))} / M,  recall = #{i: x_i ∈ ∪_j B(y_j, r(y_j))} / N,
    where B is the closed ball and r(x) the distance from x to the k-th nearest of the others of its own set.

    See "Improved Precision and Recall Metric for Assessing Generative Models", Kynkäänniemi et al., 2019
    (arXiv:1904.06991), Section 2.

    Args:
      real: [N, d] x, the features of data, finite.
      fake: [M, d] y, those of samples, finite.
      num_neighbours: k, from 1 to min(N, M) − 1.

    Returns:
      Both, in [0, 1].

    Raises:
      UserError: the features are not as above, or have fewer neighbours.
    """
    real, fake = vectors.checked_pair("real features", real, "generated features", fake)
    _check_neighbours(num_neighbours, min(len(real), len(fake)))
    _, fake_inside = _inside(real, _squared_radii(real, num_neighbours), fake)
    _, real_inside = _inside(fake, _squared_radii(fake, num_neighbours), real)
    return PrecisionRecall(float(fake_inside.mean()), float(real_inside.mean()))


def density_coverage(real: np.ndarray, fake: np.ndarray, num_neighbours: int = 5) -> DensityCoverage:
    """How densely samples fill the neighbourhoods of the data, and how many of these they reach.

    density = Σ_j #{i: y_j ∈ B(x_i, r(x_i))} / kM,  coverage = #{i: some y_j ∈ B(x_i, r(x_i))} / N,
    where B and r are those of `precision_recall`. A few outlying samples, whose own neighbourhoods would be vast, count
    for little here, as only the data have neighbourhoods.

    See "Reliable Fidelity and Diversity Metrics for Generative Models", Naeem et al., 2020 (arXiv:2002.09797), Section
    3.

    Args:
      real: [N, d] x, the features of data, finite.
      fake: [M, d] y, those of samples, finite.
      num_neighbours: k, from 1 to N − 1.

    Returns:
      density ≥ 0 and coverage in [0, 1].

    Raises:
      UserError: the features are not as above, or have fewer neighbours.
    """
    real, fake = vectors.checked_pair("real features", real, "generated features", fake)
    _check_neighbours(num_neighbours, len(real))
    counts, _ = _inside(real, _squared_radii(real, num_neighbours), fake)
    density = counts.sum() / (num_neighbours * len(fake))
    expected = expected_coverage(len(real), len(fake), num_neighbours)
    return DensityCoverage(float(density), float(np.mean(counts > 0)), expected)


def expected_coverage(num_real: int, num_fake: int, num_neighbours: int) -> float:
    """The expectation of coverage where data and samples have one distribution, whichever it is.

    1 − Π_{i=1..k} (N − i) / (N + M − i):
    an example goes uncovered where its k nearest of the N − 1 other real ones and the M samples are all real.

    See "Reliable Fidelity and Diversity Metrics for Generative Models", Naeem et al., 2020 (arXiv:2002.09797), Section
    3.

    Args:
      num_real: N.
      num_fake: M ≥ 0.
      num_neighbours: k, from 1 to N − 1.

    Returns:
      The expectation, in [0, 1).

    Raises:
      UserError: there are fewer neighbours.
    """
    _check_neighbours(num_neighbours, num_real)
    return 1 - math.prod((num_real - i) / (num_real + num_fake - i) for i in range(1, num_neighbours + 1))


def neighbour_intervals(
    real: np.ndarray,
    fake: np.ndarray,
    *,
    seed: int,
    num_neighbours: tuple[int, int] = (3, 5),
    num_resamples: int = 50,
    level: float = 0.95,
) -> dict[str, bootstrap.Interval]:
    """Precision, recall, density and coverage with their intervals, by `bootstrap.half_sample_interval`.

    All depend on how many examples there are: compare them with numbers of as many only. The distances are measured
    once, and held: give some thousands of examples, not tens of thousands.

    Args:
      real: [N, d], the features of data, finite.
      fake: [M, d], those of samples, finite.
      seed: of the halves.
      num_neighbours: k of `precision_recall` and of `density_coverage`, below min(N, M)/2.
      num_resamples: as in `bootstrap.half_sample_interval`.
      level: as there.

    Returns:
      `precision`, `recall`, `density` and `coverage`. An interval's ends may lie outside [0, 1].

    Raises:
      UserError: the features or numbers are not as above.
    """
    real, fake = vectors.checked_pair("real features", real, "generated features", fake)
    for k in num_neighbours:
        _check_neighbours(k, min(len(real), len(fake)) // 2)
    pairs = ((real, real), (fake, fake), (real, fake))
    within_real, within_fake, across = (
        np.concatenate([block for _, block in vectors.squared_distances(*pair)]) for pair in pairs
    )
    k, k_dense = num_neighbours

    def measures(rows: np.ndarray, columns: np.ndarray) -> dict[str, float]:
        radii = np.partition(within_real[np.ix_(rows, rows)], sorted({k, k_dense}), axis=1)
        fake_radii = np.partition(within_fake[np.ix_(columns, columns)], k, axis=1)[:, k]
        distances = across[np.ix_(rows, columns)]
        dense = distances <= radii[:, k_dense, None]
        return {
            "precision": float((distances <= radii[:, k, None]).any(axis=0).mean()),
            "recall": float((distances <= fake_radii).any(axis=1).mean()),
            "density": float(dense.sum() / (k_dense * len(columns))),
            "coverage": float(dense.any(axis=1).mean()),
        }

    return bootstrap.half_sample_intervals(
        measures, np.arange(len(real)), np.arange(len(fake)), seed=seed, num_resamples=num_resamples, level=level
    )


def _check_neighbours(num_neighbours: int, num: int) -> None:
    """Refuses more neighbours than there are others in a set of `num`."""
    if not 1 <= num_neighbours < num:
        raise UserError(
            f"One of {num} examples has no num_neighbours={num_neighbours} others; choose a number from 1 and below the"
            " number of examples."
        )


def _squared_radii(points: np.ndarray, num_neighbours: int) -> np.ndarray:
    """[N] the squared distance from each point to the k-th nearest of the others."""
    radii = np.empty(len(points))
    for rows, distances in vectors.squared_distances(points, points):
        # The nearest of all is the point itself, or one equal to it, at distance 0.
        radii[rows] = np.partition(distances, num_neighbours, axis=1)[:, num_neighbours]
    return radii


def _inside(centres: np.ndarray, squared_radii: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[N] how many points lie in the ball about each centre, and [M] whether each point lies in any of the balls."""
    counts, inside = np.empty(len(centres), np.int64), np.zeros(len(points), bool)
    for rows, distances in vectors.squared_distances(centres, points):
        within = distances <= squared_radii[rows, None]
        counts[rows] = within.sum(axis=1)
        inside |= within.any(axis=0)
    return counts, inside
