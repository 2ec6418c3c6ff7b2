"""The likelihood of data under a Parzen window about samples, where a model has none of its own."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from gen_jax.contracts import UserError
from gen_jax.eval import bootstrap, vectors


@dataclasses.dataclass(frozen=True)
class ParzenLikelihood:
    """The log-likelihood of a test set under a Parzen window.

    Attributes:
      log_likelihood: in nats an example, the mean over the test set.
      low: the lower end of the bootstrap interval of 95 % of that mean, over the test set alone: other samples would
        move it too.
      high: its upper end.
      sigma: the width, as chosen.
    """

    log_likelihood: float
    low: float
    high: float
    sigma: float


def log_density(samples: np.ndarray, points: np.ndarray, sigma: float) -> np.ndarray:
    """The log-density at points of the mixture of one Gaussian of width σ about each sample.

    log p(x) = log Σ_i exp(−‖x − s_i‖²/2σ²) − log n − (d/2) log 2πσ²

    See "On Estimation of a Probability Density Function and Mode", Parzen, 1962 (Annals of Mathematical
    Statistics 33), pages 1065 to 1076.

    Args:
      samples: [n, d] s, finite.
      points: [M, d] x, finite.
      sigma: σ > 0, in the samples' unit.

    Returns:
      [M] float64, nats.

    Raises:
      UserError: the samples, points or width are not as above.
    """
    return _log_densities(samples, "points", points, (sigma,))[0]


def parzen_log_likelihood(
    samples: np.ndarray, validation: np.ndarray, test: np.ndarray, sigmas: Sequence[float], *, seed: int = 0
) -> ParzenLikelihood:
    """The mean log-density of a test set, of the width that gives the validation set the greatest.

    It is how the first GANs were compared. It is a poor estimate in many dimensions, even of many samples, and can rank
    bad models above the data's own distribution; it is here to compare with those papers.

    See "Generative Adversarial Nets", Goodfellow et al., 2014 (arXiv:1406.2661), Section 5, and against it "A note on
    the evaluation of generative models", Theis et al., 2016 (arXiv:1511.01844).

    Args:
      samples: [n, d] of the model, finite.
      validation: [V, d] data to choose the width by, finite.
      test: [M, d] other data, finite, M ≥ 2.
      sigmas: the widths to choose from, > 0; of equals the smallest.
      seed: of the resamples that the interval comes from.

    Returns:
      The log-likelihood and how it came about.

    Raises:
      UserError: the examples or widths are not as above.
    """
    test = vectors.checked("test examples", test, least=2)
    widths = sorted(sigmas)
    means = _log_densities(samples, "validation examples", validation, widths).mean(axis=1)
    sigma = float(widths[int(means.argmax())])
    found = _log_densities(samples, "test examples", test, (sigma,))[0]
    interval = bootstrap.interval(np.mean, found, seed=seed)
    return ParzenLikelihood(interval.value, interval.low, interval.high, sigma)


def _log_densities(samples: np.ndarray, name: str, points: np.ndarray, sigmas: Sequence[float]) -> np.ndarray:
    """[S, M] the log-density at each point for each of S widths; each distance is measured once."""
    samples, points = vectors.checked_pair("samples", samples, name, points)
    if not len(sigmas) or not all(sigma > 0 and 0 < sigma * sigma < math.inf for sigma in sigmas):
        raise UserError(
            f"A Parzen window cannot have a width of {list(sigmas)}; give one or more above 0, of finite square."
        )
    logs = np.empty((len(sigmas), len(points)))
    for rows, distances in vectors.squared_distances(points, samples):
        least = distances.min(axis=1, keepdims=True)
        distances -= least  # The greatest term is then e^0, and no sum is 0 however far a point is.
        for log, sigma in zip(logs, sigmas, strict=True):
            terms = np.exp(-distances / (2 * sigma**2))
            log[rows] = np.log(terms.sum(axis=1)) - least[:, 0] / (2 * sigma**2)
    num_dims = samples.shape[1]
    normaliser = [math.log(len(samples)) + num_dims * (0.5 * math.log(2 * math.pi) + math.log(s)) for s in sigmas]
    return logs - np.array(normaliser)[:, None]
