"""Intervals by halves of the examples: against the theory of a mean, and by how often they hold in simulations."""

import functools

import numpy as np
import pytest
import scipy.stats

from gen_jax.contracts import UserError
from gen_jax.eval import bootstrap, coverage, distances


def share_held(draw, interval, num: int, truth: float | None = None) -> tuple[float, float]:
    """How often intervals of `num` drawn sets hold the truth, and their s beside the values' own deviation.

    Args:
      draw: number of a set to its samples.
      interval: `(*samples, seed=) -> Interval` of level 0.95 and 50 halves.
      num: how many sets.
      truth: what should be held; None for the mean of the values, which is their expectation nearly.
    """
    found = [interval(*draw(np.random.default_rng(i)), seed=i) for i in range(num)]
    values = np.array([one.value for one in found])
    truth = values.mean() if truth is None else truth
    reach = np.array([one.high - one.low for one in found]) / 2
    deviation = np.sqrt(np.mean((reach / scipy.stats.t.ppf(0.975, 49)) ** 2))
    return float(np.mean(np.abs(values - truth) <= reach)), float(deviation / values.std(ddof=1))


def test_of_a_mean_it_is_students():
    """The ends are the mean ∓ t σ̂/√N to the noise of the halves, and the value is the examples' own."""
    sample = 3 + 2 * np.random.default_rng(0).standard_normal(500)
    found = bootstrap.half_sample_interval(np.mean, sample, seed=1, num_resamples=4000, level=0.9)
    reach = scipy.stats.norm.ppf(0.95) * sample.std(ddof=1) / np.sqrt(500)
    assert found.value == sample.mean()
    np.testing.assert_allclose([found.value - found.low, found.high - found.value], reach, rtol=0.05)


def test_few_halves_make_a_wider_interval():
    """For 2 halves of ±1 and ∓1 the ends are Student's of one degree of freedom, 12.706 standard deviations off."""
    values = iter([5.0, 1.0, -1.0])
    found = bootstrap.half_sample_interval(lambda x: next(values), np.arange(4), seed=0, num_resamples=2)
    assert found.value == 5
    assert found.high - 5 == pytest.approx(12.7062 * np.sqrt(2), rel=1e-5)
    assert 5 - found.low == pytest.approx(found.high - 5)


def test_covers_the_difference_of_means_as_often_as_it_says():
    """Of 400 pairs of sets 95 % of the intervals hold the true difference of means, within 4 standard errors."""

    def difference(x: np.ndarray, y: np.ndarray) -> float:
        return x.mean() - y.mean()

    held, ratio = share_held(
        lambda random: (random.standard_normal(60), 1 + 2 * random.standard_normal(100)),
        functools.partial(bootstrap.half_sample_interval, difference),
        400,
        truth=-1,
    )
    assert abs(held - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 400)
    assert ratio == pytest.approx(1, abs=0.15)


def frechet(x: np.ndarray, y: np.ndarray) -> float:
    return distances.frechet_distance_of_features(x, y)


def test_covers_the_frechet_distance_of_gaussians():
    """For N(0, I) and N(m, s²I) in 4 dimensions it holds the expectation at that N and nearly the distance, 2."""
    held, ratio = share_held(
        lambda random: (random.standard_normal((400, 4)), 0.5 + 1.5 * random.standard_normal((300, 4))),
        functools.partial(bootstrap.half_sample_interval, frechet),
        200,
    )
    assert held > 0.95 - 4 * np.sqrt(0.95 * 0.05 / 200)
    assert 0.85 < ratio < 1.2


@pytest.mark.parametrize("name", ["frechet", "kernel"])
def test_of_equal_distributions_it_is_wide_by_the_root_of_three(name: str):
    """Where the distance is quadratic in what differs, s is √3 of the deviation, so the interval holds and is no less.

    The kernel distance's expectation is 0; that of the Fréchet distance is its bias.
    """
    interval, truth = (
        (functools.partial(bootstrap.half_sample_interval, frechet), None)
        if name == "frechet"
        else (functools.partial(distances.kernel_distance_interval, num_resamples=50), 0.0)
    )
    held, ratio = share_held(lambda random: random.standard_normal((2, 200, 3)), interval, 200, truth)
    assert held > 0.95
    assert 1.2 < ratio < 2.1


def test_covers_the_kernel_distance_of_gaussians():
    """In one dimension (xy + 1)³ compares three moments: 3·0.5² + 3·0.25² + 1.625² for N(0, 1) and N(0.5, 1)."""
    held, ratio = share_held(
        lambda random: (random.standard_normal((300, 1)), 0.5 + random.standard_normal((260, 1))),
        functools.partial(distances.kernel_distance_interval, num_resamples=50),
        200,
        truth=3.578125,
    )
    assert held > 0.95 - 4 * np.sqrt(0.95 * 0.05 / 200)
    assert 0.75 < ratio < 1.3


@pytest.mark.parametrize("shift", [pytest.param(0.0, marks=pytest.mark.slow), 0.7])
def test_covers_what_neighbours_measure(shift: float):
    """It holds the expectation at that N of sets of 200, and its s is from 1 to √2 times the values' own deviation."""

    def two_sets(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        return random.standard_normal((200, 2)), shift + random.standard_normal((200, 2))

    found = [coverage.neighbour_intervals(*two_sets(np.random.default_rng(i)), seed=i) for i in range(60)]
    for measure in ("precision", "recall", "density", "coverage"):

        def interval(*sets: np.ndarray, seed: int, measure: str = measure) -> bootstrap.Interval:
            return found[seed][measure]

        held, ratio = share_held(two_sets, interval, 60)
        assert held > 0.95 - 4 * np.sqrt(0.95 * 0.05 / 60), measure
        assert 0.8 < ratio < 1.8, measure


@pytest.mark.parametrize(("num_real", "num_fake", "dims"), [(40, 30, 2), (25, 60, 5)])
def test_the_neighbours_values_are_those_of_all_examples(num_real: int, num_fake: int, dims: int):
    """The values beside the intervals are those of `precision_recall` and `density_coverage`."""
    random = np.random.default_rng(dims)
    real, fake = random.standard_normal((num_real, dims)), 0.5 + random.standard_normal((num_fake, dims))
    found = coverage.neighbour_intervals(real, fake, seed=0, num_neighbours=(2, 4))
    pair, dense = coverage.precision_recall(real, fake, 2), coverage.density_coverage(real, fake, 4)
    assert {name: one.value for name, one in found.items()} == pytest.approx(
        {"precision": pair.precision, "recall": pair.recall, "density": dense.density, "coverage": dense.coverage}
    )


@pytest.mark.parametrize(("num_real", "num_fake"), [(4, 5), (64, 63), (150, 333)])
def test_the_kernel_distance_of_groups_is_that_of_all_pairs(num_real: int, num_fake: int, monkeypatch):
    """Of groups of one example and of many the value is `kernel_distance`, and a half's is the half's."""
    random = np.random.default_rng(num_real)
    real, fake = random.standard_normal((num_real, 3)), 0.5 + random.standard_normal((num_fake, 3))
    seen = []
    real_halves = bootstrap.half_sample_interval

    def spy(statistic, *samples, **options):
        seen.append(statistic)
        return real_halves(statistic, *samples, **options)

    monkeypatch.setattr(bootstrap, "half_sample_interval", spy)
    found = distances.kernel_distance_interval(real, fake, seed=3)
    assert found.value == pytest.approx(distances.kernel_distance(real, fake), rel=1e-10, abs=1e-12)
    if max(num_real, num_fake) <= distances.GROUPS:  # Every group is one example, and their order is the seed's.
        order = np.random.default_rng(3)
        real, fake = real[order.permutation(num_real)], fake[order.permutation(num_fake)]
        rows, columns = np.array([3, 0]), np.array([1, 2, 4])
        expected = distances.kernel_distance(real[rows], fake[columns])
        assert seen[0](rows, columns) == pytest.approx(expected, rel=1e-10)


def test_halves_are_different_examples_of_each_set():
    """A half has half of the examples, none twice; an odd one is left out; rows stay together."""
    images, labels = np.arange(24).reshape(6, 2, 2), np.arange(9)
    shapes = []

    def statistic(drawn: np.ndarray, other: np.ndarray) -> float:
        shapes.append((len(drawn), len(other)))
        rows = drawn[:, 0, 0] // 4
        np.testing.assert_array_equal(drawn, images[rows])
        assert len(set(rows)) == len(rows) and len(set(other)) == len(other)
        return float(rows.sum())

    bootstrap.half_sample_interval(statistic, images, labels, seed=0)
    assert shapes == [(6, 9)] + 50 * [(3, 4)]


def test_same_seed_same_halves():
    """The seed alone decides the draws."""
    sample = np.random.default_rng(6).standard_normal((50, 3))
    first = bootstrap.half_sample_interval(np.median, sample, seed=7)
    np.random.seed(0)
    assert bootstrap.half_sample_interval(np.median, sample, seed=7) == first
    assert bootstrap.half_sample_interval(np.median, sample, seed=8) != first


@pytest.mark.parametrize(
    ("samples", "options", "sentence"),
    [
        ((), {}, r"shapes \[\]"),
        ((np.ones(30), np.ones((3, 2))), {}, r"\(3, 2\).* at least 4"),
        ((np.ones(30),), {"num_resamples": 1}, "num_resamples=1"),
        ((np.ones(30),), {"level": 1.0}, "level=1.0"),
        ((np.array([np.nan, 1.0, 1.0, 1.0]),), {"num_resamples": 5}, "not finite for"),
    ],
)
def test_unusable_samples_are_refused(samples: tuple[np.ndarray, ...], options: dict, sentence: str):
    """What has no interval is refused by a sentence that says why."""
    with pytest.raises(UserError, match=sentence):
        bootstrap.half_sample_interval(lambda *arrays: float(np.mean(arrays[0])), *samples, seed=0, **options)
