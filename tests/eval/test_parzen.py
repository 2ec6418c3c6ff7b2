"""The Parzen window against closed forms for a Gaussian, and against scipy's and scikit-learn's kernel densities."""

import numpy as np
import pytest
import scipy.special
import scipy.stats
from sklearn.neighbors import KernelDensity

from gen_jax.contracts import UserError
from gen_jax.eval import parzen, vectors

# E log p(x) for x of N(0, 1), p = N(0, 1 + σ²) the window of width σ about infinitely many samples of N(0, 1).
LIMITS = {0.2: -1.419318, 0.5: -1.430510}


def normal_quantiles(num: int) -> np.ndarray:
    """[num, 1] numbers that are spread as evenly under N(0, 1) as may be."""
    return scipy.stats.norm.ppf((np.arange(num) + 0.5) / num)[:, None]


@pytest.mark.parametrize(("sigma", "expected"), LIMITS.items())
def test_gaussian_limit(sigma: float, expected: float):
    """About even samples of N(0, 1) the mean over N(0, 1), by quadrature, is −½[log 2π(1 + σ²) + 1/(1 + σ²)]."""
    assert expected == pytest.approx(-0.5 * (np.log(2 * np.pi * (1 + sigma**2)) + 1 / (1 + sigma**2)), abs=1e-6)
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    logs = parzen.log_density(normal_quantiles(20_000), nodes[:, None], sigma)
    assert weights @ logs / weights.sum() == pytest.approx(expected, abs=3e-4)


def test_gaussian_in_many_dimensions():
    """One sample has the density N(x; s, σ²I): −‖x − s‖²/2σ² − (d/2) log 2πσ², at any distance."""
    points = np.random.default_rng(0).standard_normal((5, 784)) * np.array([[0], [1], [10], [1e3], [1e6]])
    sample = np.random.default_rng(1).standard_normal((1, 784))
    expected = -((points - sample) ** 2).sum(1) / (2 * 0.2**2) - 392 * np.log(2 * np.pi * 0.2**2)
    np.testing.assert_allclose(parzen.log_density(sample, points, 0.2), expected, rtol=1e-12)


@pytest.mark.parametrize("pairs", [1, 700, 1 << 22])
@pytest.mark.parametrize(("dims", "sigma"), [(1, 0.3), (4, 0.7)])
def test_is_scikit_learns_kernel_density(dims: int, sigma: float, pairs: int, monkeypatch):
    """Point by point it is scikit-learn's density of the same width, whatever the size of a chunk."""
    monkeypatch.setattr(vectors, "PAIRS", pairs)
    random = np.random.default_rng(2)
    samples, points = random.standard_normal((100, dims)), 2 * random.standard_normal((37, dims))
    exact = KernelDensity(bandwidth=sigma, atol=0, rtol=0).fit(samples)
    np.testing.assert_allclose(parzen.log_density(samples, points, sigma), exact.score_samples(points), rtol=1e-10)


def test_is_scipys_kernel_density():
    """In one dimension it is scipy's, whose width is a factor times the samples' standard deviation."""
    random = np.random.default_rng(3)
    samples, points = random.standard_normal(80), 3 * random.standard_normal(50)
    exact = scipy.stats.gaussian_kde(samples, bw_method=0.4 / samples.std(ddof=1))
    np.testing.assert_allclose(
        parzen.log_density(samples[:, None], points[:, None], 0.4), exact.logpdf(points), rtol=1e-10
    )


def test_integrates_to_one():
    """In two dimensions the density sums to 1 over a fine grid."""
    samples = np.random.default_rng(4).standard_normal((10, 2))
    axis = np.arange(-7, 7, 0.1)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    assert np.exp(parzen.log_density(samples, grid, 0.5)).sum() * 0.01 == pytest.approx(1, rel=1e-9)


def test_tiny_widths_do_not_underflow():
    """Far from every sample and with a tiny width the nearest sample decides, and nothing is infinite."""
    samples, points = np.array([[0.0], [1.0]]), np.array([[0.25], [0.0]])
    found = parzen.log_density(samples, points, 1e-150)
    np.testing.assert_allclose(found[0], -0.5 * 0.25**2 * 1e300, rtol=1e-12)
    assert found[1] == pytest.approx(-np.log(2) - 0.5 * np.log(2 * np.pi) + 150 * np.log(10), rel=1e-12)


@pytest.fixture(scope="module")
def normal() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Samples, a validation set and a test set of N(0, I) in three dimensions."""
    random = np.random.default_rng(5)
    return random.standard_normal((2000, 3)), random.standard_normal((500, 3)), random.standard_normal((600, 3))


def test_width_is_the_validation_sets_best(normal):
    """The chosen width has the greatest validation mean, and the result is the test set's mean."""
    samples, validation, test = normal
    sigmas = (0.8, 0.1, 0.4, 0.2)
    means = {sigma: parzen.log_density(samples, validation, sigma).mean() for sigma in sigmas}
    found = parzen.parzen_log_likelihood(samples, validation, test, sigmas)
    assert found.sigma == max(means, key=lambda sigma: means[sigma]) == 0.4
    logs = parzen.log_density(samples, test, 0.4)
    assert found.log_likelihood == pytest.approx(logs.mean(), rel=1e-12)


def test_width_is_not_chosen_by_the_test_set(normal):
    """A test set that is narrower than the validation set would have another width, and has no say."""
    samples, validation, _ = normal
    sigmas = (0.01, 0.4, 5.0)
    exact = samples[:300]
    assert parzen.log_density(samples, exact, 0.01).mean() > parzen.log_density(samples, exact, 0.4).mean()
    assert parzen.parzen_log_likelihood(samples, validation, exact, sigmas).sigma == 0.4


def test_mean_is_within_its_standard_error_of_the_limit():
    """The test mean is that of the limit within 4 standard errors, where a wrong normaliser would not be."""
    random = np.random.default_rng(6)
    test = random.standard_normal((3000, 1))
    found = parzen.parzen_log_likelihood(normal_quantiles(5000), test[:10], test, (0.2,))
    error = 1 / (np.sqrt(2 * 3000) * 1.04)  # Var log p = Var x² / 4(1 + σ²)² = 1 / 2(1 + σ²)².
    assert abs(found.log_likelihood - LIMITS[0.2]) < 4 * error
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * error, rel=0.3)


@pytest.mark.parametrize(
    ("sigmas", "sigma"), [((0.5, 1.0, 2.0), 0.5), ((1.0, 0.5, 2.0), 0.5), ((0.1, 0.2), 0.2), ((0.4,), 0.4)]
)
def test_the_best_width_may_be_the_first_or_the_last(normal, sigmas: tuple[float, ...], sigma: float):
    """Where the validation set's best width is at an edge of the grid, in whatever order that is given, it is taken."""
    assert parzen.parzen_log_likelihood(*normal, sigmas).sigma == sigma


@pytest.mark.parametrize(
    ("samples", "validation", "test", "sigmas", "sentence"),
    [
        (np.ones((5, 2)), np.ones((3, 2)), np.ones((3, 2)), (), r"width of \[\]"),
        (np.ones((5, 2)), np.ones((3, 2)), np.ones((3, 2)), (0.1, 0.0), "width of"),
        (np.ones((5, 2)), np.ones((3, 2)), np.ones((3, 2)), (np.inf,), "width of"),
        (np.ones((5, 2)), np.ones((3, 2)), np.ones((3, 2)), (-0.1,), "width of"),
        (np.ones((5, 2)), np.ones((3, 2)), np.ones((3, 2)), (1e-170,), "width of"),
        (np.ones((0, 2)), np.ones((3, 2)), np.ones((3, 2)), (0.1,), r"samples have the shape \(0, 2\)"),
        (np.ones((5, 2)), np.ones((3, 1)), np.ones((3, 2)), (0.1,), "2 dimensions and the validation examples 1"),
        (np.ones((5, 2)), np.ones((3, 2)), np.ones((3, 1)), (0.1,), "2 dimensions and the test examples 1"),
        (np.ones((5, 2)), np.ones((3, 2)), np.ones((1, 2)), (0.1,), "test examples .* 2 vectors"),
        (np.full((5, 2), np.nan), np.ones((3, 2)), np.ones((3, 2)), (0.1,), "samples are not all finite"),
    ],
)
def test_unusable_examples_are_refused(samples, validation, test, sigmas, sentence: str):
    """What has no Parzen likelihood is refused by a sentence that says why."""
    with pytest.raises(UserError, match=sentence):
        parzen.parzen_log_likelihood(samples, validation, test, sigmas)


def test_the_interval_is_students_about_the_mean():
    """The ends are the mean ∓ 1.96 standard errors to the noise of the resamples, and the seed decides them."""
    random = np.random.default_rng(0)
    sets = [random.standard_normal((400, 2)) for _ in range(3)]
    found = parzen.parzen_log_likelihood(*sets, [0.3, 0.5], seed=1)
    ends = np.array([found.low, found.high]) - found.log_likelihood
    error = scipy.stats.sem(parzen.log_density(sets[0], sets[2], found.sigma))
    np.testing.assert_allclose(ends, error * np.array([-1.96, 1.96]), rtol=0.2)
    assert parzen.parzen_log_likelihood(*sets, [0.3, 0.5], seed=1) == found
    assert parzen.parzen_log_likelihood(*sets, [0.3, 0.5], seed=2).low != found.low
