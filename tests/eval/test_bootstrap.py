"""The bootstrap's intervals against the normal theory of the mean, and the promises about its draws."""

import numpy as np
import pytest
import scipy.stats

from gen_jax.contracts import UserError
from gen_jax.eval import bootstrap


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_covers_the_mean_as_often_as_it_says(level: float):
    """Of 400 sets of 100 Gaussian numbers the interval holds the true mean as often as its level has it.

    The tolerance is 4 standard errors and the percentile interval's own lack at this N, which is below 0.02.
    """
    random = np.random.default_rng(0)
    held = 0
    for seed in range(400):
        found = bootstrap.interval(np.mean, 3 + random.standard_normal(100), seed=seed, num_resamples=100, level=level)
        held += found.low <= 3 <= found.high
    assert abs(held / 400 - level) < 4 * np.sqrt(level * (1 - level) / 400) + 0.02


@pytest.mark.parametrize("num", [64, 256, 1024])
def test_width_falls_with_the_root_of_the_number(num: int):
    """The ends are the mean ∓ 1.96 σ̂/√N, within a tenth of the width, and the value is the examples' own."""
    sample = np.random.default_rng(num).standard_normal(num)
    found = bootstrap.interval(np.mean, sample, seed=1, num_resamples=2000)
    half = scipy.stats.norm.ppf(0.975) * sample.std() / np.sqrt(num)
    assert found.value == sample.mean()
    np.testing.assert_allclose([found.low, found.high], [found.value - half, found.value + half], atol=0.2 * half)
    assert found.high - found.low == pytest.approx(2 * half, rel=0.1)


def test_each_set_is_drawn_by_itself():
    """The difference of the means of two equal sets varies as that of two independent ones: √2 times one mean."""
    sample = np.random.default_rng(2).standard_normal(400)

    def difference(one: np.ndarray, other: np.ndarray) -> float:
        return one.mean() - other.mean()

    found = bootstrap.interval(difference, sample, sample, seed=3, num_resamples=2000)
    half = np.sqrt(2) * scipy.stats.norm.ppf(0.975) * sample.std() / 20
    assert found.value == 0
    assert found.high - found.low == pytest.approx(2 * half, rel=0.1)


def test_draws_whole_examples_with_replacement():
    """A resample has each set's own shape, rows that stay together, and some rows more than once."""
    images, labels = np.arange(24).reshape(6, 2, 2), np.arange(4)
    distinct = []

    def statistic(drawn: np.ndarray, other: np.ndarray) -> float:
        assert (drawn.shape, other.shape) == ((6, 2, 2), (4,))
        rows = drawn[:, 0, 0] // 4
        np.testing.assert_array_equal(drawn, images[rows])
        distinct.append(len(set(rows)))
        return float(rows.sum())

    bootstrap.interval(statistic, images, labels, seed=0, num_resamples=2000)
    assert distinct[0] == 6  # The value is of the examples as they are.
    # Of 6 draws with replacement 6 (1 − (5/6)⁶) differ on average; one count has a standard deviation below 1.
    assert np.mean(distinct[1:]) == pytest.approx(6 * (1 - (5 / 6) ** 6), abs=4 / np.sqrt(2000))


def test_ends_are_the_quantiles_of_the_resamples():
    """The ends are the stated quantiles of the statistic over the resamples, of one as skewed as may be too."""
    values = []

    def statistic(drawn: np.ndarray) -> float:
        values.append(float(np.exp(3 * drawn.mean())))
        return values[-1]

    found = bootstrap.interval(statistic, np.random.default_rng(4).standard_normal(20), seed=5, level=0.8)
    ordered = np.sort(values[1:])
    assert len(ordered) == 200
    assert (ordered < found.low).mean() == pytest.approx(0.1, abs=0.005)
    assert (ordered > found.high).mean() == pytest.approx(0.1, abs=0.005)
    assert found.value == values[0]


def test_same_seed_same_interval():
    """The seed alone decides the draws."""
    sample = np.random.default_rng(6).standard_normal((50, 3))
    first = bootstrap.interval(np.median, sample, seed=7)
    np.random.seed(0)
    assert bootstrap.interval(np.median, sample, seed=7) == first
    assert bootstrap.interval(np.median, sample, seed=8) != first


@pytest.mark.parametrize(("count", "total"), [(0, 480), (480, 480), (1, 1), (0, 1), (3, 10), (887, 1000)])
@pytest.mark.parametrize("level", [0.5, 0.95])
def test_the_interval_of_a_share_is_wilsons(count: int, total: int, level: float):
    """The ends are scipy's, hold the share, and leave room for doubt where all or none are counted."""
    found = bootstrap.share_interval(count, total, level=level)
    expected = scipy.stats.binomtest(count, total).proportion_ci(level, method="wilson")
    assert found.value == count / total
    np.testing.assert_allclose([found.low, found.high], expected, atol=1e-12)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.high - found.low > 0.3 / total


@pytest.mark.parametrize(
    ("count", "total", "level"), [(-1, 5, 0.9), (6, 5, 0.9), (0, 0, 0.9), (1, 5, 1.0), (1, 5, 0.0), (1, 5, 95)]
)
def test_what_is_no_share_is_refused(count: int, total: int, level: float):
    """What has no share is refused by a sentence that says what is needed."""
    with pytest.raises(UserError, match=f"count={count}, total={total} and level={level}"):
        bootstrap.share_interval(count, total, level=level)


def test_nothing_below_zero_is_cut_off_alone():
    """Ends below 0 become 0; the value and other ends stay."""
    assert bootstrap.from_zero(bootstrap.Interval(0.25, -0.5, 1.0)) == bootstrap.Interval(0.25, 0.0, 1.0)
    assert bootstrap.from_zero(bootstrap.Interval(0.25, 0.125, 1.0)) == bootstrap.Interval(0.25, 0.125, 1.0)


@pytest.mark.parametrize(
    ("samples", "options", "sentence"),
    [
        ((), {}, r"shapes \[\]"),
        ((np.ones(3), np.ones((0, 2))), {}, r"\(0, 2\)"),
        ((np.float64(1),), {}, r"\(\)"),
        ((np.ones(3),), {"num_resamples": 1}, "num_resamples=1"),
        ((np.ones(3),), {"level": 0.0}, "level=0.0"),
        ((np.ones(3),), {"level": 95}, "level=95"),
        ((np.array([np.nan, 1.0]),), {"num_resamples": 5}, "not finite for"),
    ],
)
def test_unusable_samples_are_refused(samples: tuple[np.ndarray, ...], options: dict, sentence: str):
    """What has no interval is refused by a sentence that says why."""
    with pytest.raises(UserError, match=sentence):
        bootstrap.interval(lambda *arrays: float(np.mean(arrays[0])), *samples, seed=0, **options)
