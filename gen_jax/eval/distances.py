"""How far samples are from data, by the features of both: the distances behind FID, KID and the inception score."""

from __future__ import annotations

import dataclasses

import numpy as np

from gen_jax.contracts import UserError
from gen_jax.eval import bootstrap, vectors

CHUNK = 1024  # Features centred at a time.
GROUPS = 64  # Of examples, by which a kernel distance is halved.
NEGATIVE = 1e-10  # Of the largest eigenvalue; a covariance's own rounding leaves none more negative than that.


@dataclasses.dataclass(frozen=True)
class Moments:
    """The Gaussian of the same mean and covariance as a set of features of d dimensions.

    Attributes:
      mean: [d] float64.
      covariance: [d, d] float64, by 1/(N − 1).
    """

    mean: np.ndarray
    covariance: np.ndarray


@dataclasses.dataclass(frozen=True)
class SubsetMean:
    """A measure as the mean over subsets of the examples.

    Attributes:
      value: the mean.
      deviation: the standard deviation of one subset's value. It is no standard error of `value`.
    """

    value: float
    deviation: float


def gaussian_moments(features: np.ndarray) -> Moments:
    """The mean and the covariance of features: μ = Σ_n x_n / N,  C = Σ_n (x_n − μ)(x_n − μ)ᵀ / (N − 1).

    Those of "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium", Heusel et al., 2017
    (arXiv:1706.08500), Eq. 6.

    Args:
      features: [N, d] x, finite, N ≥ 2.

    Returns:
      The moments.

    Raises:
      UserError: the features are not as above.
    """
    features = vectors.checked("features", features, least=2)
    mean = features.mean(axis=0)
    covariance = np.zeros((len(mean), len(mean)))
    for start in range(0, len(features), CHUNK):
        centred = features[start : start + CHUNK] - mean
        covariance += centred.T @ centred
    return Moments(mean, covariance / (len(features) - 1))


def frechet_distance(mean1: np.ndarray, cov1: np.ndarray, mean2: np.ndarray, cov2: np.ndarray) -> float:
    """The squared 2-Wasserstein distance of two Gaussians.

    ‖μ₁ − μ₂‖² + tr C₁ + tr C₂ − 2 tr (C₁^½ C₂ C₁^½)^½

    The square root is that of a symmetric matrix, so nothing complex can come of it, and singular covariances are as
    good as others. Its trace is the sum of the singular values of C₁^½ C₂^½: the same number, which is the same for
    both orders of the arguments and never takes the root of a rounding error.

    See "The Fréchet distance between multivariate normal distributions", Dowson and Landau, 1982 (Journal of
    Multivariate Analysis 12), pages 450 to 455, and for its use "GANs Trained by a Two Time-Scale Update Rule Converge
    to a Local Nash Equilibrium", Heusel et al., 2017 (arXiv:1706.08500), Eq. 6.

    Args:
      mean1: [d] μ₁.
      cov1: [d, d] C₁, symmetric with no negative eigenvalue.
      mean2: [d] μ₂.
      cov2: [d, d] C₂, as C₁.

    Returns:
      The distance ≥ 0, in squared units of the features.

    Raises:
      UserError: the moments do not fit together or are not finite, or a covariance is none.
    """
    means = [np.asarray(mean, np.float64) for mean in (mean1, mean2)]
    covariances = [np.asarray(cov, np.float64) for cov in (cov1, cov2)]
    num_dims = means[0].size
    shapes = [array.shape for array in (*means, *covariances)]
    if not num_dims or shapes != [(num_dims,)] * 2 + [(num_dims, num_dims)] * 2:
        raise UserError(f"The means and covariances have the shapes {shapes}; give two of [d] and two of [d, d].")
    if not all(np.isfinite(array).all() for array in (*means, *covariances)):
        raise UserError("The means and covariances are not all finite; look for a diverged run.")
    root1, root2 = (_symmetric_root(covariance) for covariance in covariances)
    cross = np.linalg.svd(root1 @ root2, compute_uv=False).sum()
    distance = np.sum((means[0] - means[1]) ** 2) + sum(np.trace(cov) for cov in covariances) - 2 * cross
    return max(0.0, float(distance))  # Of equal Gaussians the rounding may be on the other side of 0.


def _symmetric_root(covariance: np.ndarray) -> np.ndarray:
    """The symmetric square root C^½ of a covariance [d, d]; eigenvalues within rounding of 0 are 0."""
    largest_entry = np.abs(covariance).max()
    if np.abs(covariance - covariance.T).max() > NEGATIVE * largest_entry:
        raise UserError("A covariance is not symmetric; give the covariance of features, as `gaussian_moments` does.")
    values, basis = np.linalg.eigh(covariance)
    if values[0] < -NEGATIVE * max(values[-1], 0.0):
        raise UserError(
            f"A covariance has the eigenvalue {values[0]:.3g} beside the largest, {values[-1]:.3g}; give the covariance"
            " of features, computed in float64."
        )
    noise = len(values) * np.finfo(np.float64).eps * values[-1]
    roots = np.sqrt(np.where(values > noise, values, 0.0))
    return (basis * roots) @ basis.T


def frechet_distance_of_features(real: np.ndarray, fake: np.ndarray) -> float:
    """The Fréchet distance of the Gaussians fitted to the features of data and of samples.

    With features of the Inception network it is what the papers call FID; with others it is not to be compared with
    theirs. Of fewer examples it is larger, by an amount that depends on their number: below 10,000 of either compare it
    with none of another number, and say how many there are beside it.

    See "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium", Heusel et al., 2017
    (arXiv:1706.08500), Eq. 6.

    Args:
      real: [N, d] the features of data, finite, N ≥ 2.
      fake: [M, d] those of samples, finite, M ≥ 2.

    Returns:
      The distance ≥ 0.

    Raises:
      UserError: the features are not as above.
    """
    real, fake = vectors.checked_pair("real features", real, "generated features", fake, least=2)
    one, other = gaussian_moments(real), gaussian_moments(fake)
    return frechet_distance(one.mean, one.covariance, other.mean, other.covariance)


def kernel_distance(real: np.ndarray, fake: np.ndarray) -> float:
    """The unbiased estimate of the squared maximum mean discrepancy by a cubic kernel, from all pairs.

    Σ_{i≠j} k(x_i, x_j) / N(N − 1) + Σ_{i≠j} k(y_i, y_j) / M(M − 1) − 2 Σ_{i,j} k(x_i, y_j) / NM,
    k(x, y) = (x·y/d + 1)³.

    Unlike the Fréchet distance its expectation does not depend on N and M; so for samples of the data's
    distribution it averages 0 and is often below. With features of the Inception network it is the papers' KID, which
    some give times 1000.

    See "Demystifying MMD GANs", Bińkowski et al., 2018 (arXiv:1801.01401), Section 4.

    Args:
      real: [N, d] x, the features of data, finite, N ≥ 2.
      fake: [M, d] y, those of samples, finite, M ≥ 2.

    Returns:
      The estimate, of either sign.

    Raises:
      UserError: the features are not as above.
    """
    real, fake = vectors.checked_pair("real features", real, "generated features", fake, least=2)
    across = sum(_kernel(real[rows], fake).sum() for rows in vectors.chunks(len(real), len(fake)))
    return float(_mean_within(real) + _mean_within(fake) - 2 * across / (len(real) * len(fake)))


def _mean_within(x: np.ndarray) -> float:
    """The mean kernel of x_i and x_j over i ≠ j."""
    total = 0.0
    for rows in vectors.chunks(len(x), len(x)):
        block = _kernel(x[rows], x[rows])
        # The kernel is symmetric: what comes after a block stands for what comes before it.
        total += block.sum() - np.trace(block) + 2 * _kernel(x[rows], x[rows.stop :]).sum()
    return total / (len(x) * (len(x) - 1))


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(x·y/d + 1)³ of all pairs, [n, m] for x [n, d] and y [m, d]."""
    base = x @ y.T
    base /= x.shape[1]
    base += 1
    return base * base * base


def kernel_distance_interval(
    real: np.ndarray, fake: np.ndarray, *, seed: int, num_resamples: int = 200, level: float = 0.95
) -> bootstrap.Interval:
    """`kernel_distance` of all pairs with its interval, by `bootstrap.half_sample_interval`.

    The examples are dealt out at random into groups, and a half is half of the groups. Then sums of the kernel over
    pairs of groups, for which every pair of examples is looked at once, give every half's distance exactly.

    Args:
      real: [N, d], the features of data, finite, N ≥ 4.
      fake: [M, d], those of samples, finite, M ≥ 4.
      seed: of the groups and the halves.
      num_resamples: as in `bootstrap.half_sample_interval`; a half costs next to nothing.
      level: as there.

    Returns:
      The distance and the interval's ends.

    Raises:
      UserError: the features or numbers are not as above.
    """
    real, fake = vectors.checked_pair("real features", real, "generated features", fake, least=4)
    random = np.random.default_rng(seed)
    real, fake = (x[random.permutation(len(x))] for x in (real, fake))
    starts = [np.linspace(0, len(x), min(GROUPS, len(x)), endpoint=False, dtype=int) for x in (real, fake)]
    sizes = [np.diff(start, append=len(x)) for start, x in zip(starts, (real, fake), strict=True)]
    within = [
        _sums_of_groups(x, x, start, start) - np.diag(np.add.reduceat((np.mean(x * x, axis=1) + 1) ** 3, start))
        for x, start in zip((real, fake), starts, strict=True)
    ]
    across = _sums_of_groups(real, fake, *starts)

    def distance(rows: np.ndarray, columns: np.ndarray) -> float:
        nums = sizes[0][rows].sum(), sizes[1][columns].sum()
        means = [
            sums[np.ix_(chosen, chosen)].sum() / (num * (num - 1))
            for sums, chosen, num in zip(within, (rows, columns), nums, strict=True)
        ]
        return float(sum(means) - 2 * across[np.ix_(rows, columns)].sum() / (nums[0] * nums[1]))

    groups = (np.arange(len(start)) for start in starts)
    return bootstrap.half_sample_interval(distance, *groups, seed=seed, num_resamples=num_resamples, level=level)


def _sums_of_groups(x: np.ndarray, y: np.ndarray, starts: np.ndarray, other_starts: np.ndarray) -> np.ndarray:
    """[G, H] the sum of the kernel over all pairs of a group of x and one of y, groups being runs of rows."""
    rows = [np.add.reduceat(_kernel(x[part], y), other_starts, axis=1) for part in vectors.chunks(len(x), len(y))]
    return np.add.reduceat(np.concatenate(rows), starts, axis=0)


def kernel_distance_of_subsets(
    real: np.ndarray, fake: np.ndarray, *, seed: int, subset_size: int = 1000, num_subsets: int = 100
) -> SubsetMean:
    """`kernel_distance` as the mean over random subsets of both sets, which is how KID is mostly reported.

    The estimate is unbiased whatever the size of the subsets, but uses less than all pairs and so varies more.

    See "Demystifying MMD GANs", Bińkowski et al., 2018 (arXiv:1801.01401), Section 4.

    Args:
      real: [N, d] the features of data, finite.
      fake: [M, d] those of samples, finite.
      seed: of the subsets.
      subset_size: how many examples of each set make a subset, different ones; from 2 to min(N, M).
      num_subsets: how many subsets, ≥ 2, each drawn from all examples.

    Returns:
      The mean over subsets and how much they differ.

    Raises:
      UserError: the features or the numbers are not as above.
    """
    real, fake = vectors.checked_pair("real features", real, "generated features", fake, least=2)
    least = min(len(real), len(fake))
    if not 2 <= subset_size <= least or num_subsets < 2:
        raise UserError(
            f"There are no num_subsets={num_subsets} subsets of subset_size={subset_size} to compare; give 2 subsets or"
            f" more, of a size from 2 to {least}."
        )
    random = np.random.default_rng(seed)
    values = []
    for _ in range(num_subsets):
        one, other = (x[random.choice(len(x), subset_size, replace=False)] for x in (real, fake))
        values.append(kernel_distance(one, other))
    return SubsetMean(float(np.mean(values)), float(np.std(values, ddof=1)))


def inception_score(probs: np.ndarray, splits: int = 10) -> SubsetMean:
    """How sure a classifier is of each sample and how evenly it uses its classes, as the mean over parts of the set.

    exp( Σ_n KL(p(c|x_n) ‖ p̄) / n ),  p̄ = Σ_n p(c|x_n) / n,
    from 1, where every sample has the same class probabilities, to C, where each has one class for sure and all are
    equally frequent. With the Inception network it is the papers' inception score.

    See "Improved Techniques for Training GANs", Salimans et al., 2016 (arXiv:1606.03498), Section 4.

    Args:
      probs: [N, C] p(c|x_n), each row ≥ 0 with the sum 1, in an order that has nothing to do with the classes.
      splits: into how many runs of successive samples the set is cut, from 1 to N.

    Returns:
      The mean over parts, each in [1, C], and their standard deviation by 1/splits, as the papers have it.

    Raises:
      UserError: the rows are no probabilities, or there are fewer than `splits`.
    """
    from scipy.special import rel_entr

    probs = vectors.checked("class probabilities", probs)
    if probs.min() < 0 or np.abs(probs.sum(axis=1) - 1).max() > 1e-3:
        raise UserError(
            "The class probabilities have rows below 0 or with another sum than 1; give the softmax of the logits."
        )
    if not 1 <= splits <= len(probs):
        raise UserError(
            f"A set of {len(probs)} cannot be cut into splits={splits} parts; give a number from 1 to {len(probs)}."
        )
    scores = []
    for part in np.array_split(probs, splits):
        divergence = rel_entr(part, part.mean(axis=0, keepdims=True)).sum(axis=1)
        scores.append(np.exp(divergence.mean()))
    return SubsetMean(float(np.mean(scores)), float(np.std(scores)))
