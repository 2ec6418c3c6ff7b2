"""The Fréchet and kernel distances and the inception score against closed forms, scipy's square root and loops."""

import itertools

import numpy as np
import pytest
import scipy.linalg
import scipy.special

from gen_jax.contracts import UserError
from gen_jax.eval import distances, vectors


def rotation(dims: int, seed: int) -> np.ndarray:
    """A random orthogonal matrix [dims, dims]."""
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((dims, dims)))[0]


def covariance(dims: int, seed: int) -> np.ndarray:
    """A random covariance [dims, dims] of full rank."""
    factor = np.random.default_rng(seed).standard_normal((dims, 2 * dims))
    return factor @ factor.T / dims


@pytest.fixture(scope="module")
def gaussians() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Two means [6] and two covariances that do not commute, as (mean, cov, mean, cov)."""
    means = np.random.default_rng(0).standard_normal((2, 6))
    return means[0], covariance(6, seed=1), means[1], covariance(6, seed=2)


def test_moments_are_numpys():
    """The mean and the covariance by N − 1, over several chunks, of features far from the origin."""
    features = 1e4 + np.random.default_rng(3).standard_normal((2 * distances.CHUNK + 77, 5)) @ covariance(5, seed=4)
    found = distances.gaussian_moments(features)
    np.testing.assert_allclose(found.mean, features.mean(0), rtol=1e-14)
    np.testing.assert_allclose(found.covariance, np.cov(features, rowvar=False), rtol=1e-10)
    small = np.array([[0.0, 1.0], [2.0, 1.0]])
    np.testing.assert_array_equal(distances.gaussian_moments(small).covariance, [[2, 0], [0, 0]])


def test_half_precision_features_have_float64_moments():
    """Features of 16 bits have the moments of the same numbers in 64: sums that overflow float16 do no harm."""
    features = (100 * np.random.default_rng(5).standard_normal((3000, 2))).astype(np.float16)
    found = distances.gaussian_moments(features)
    assert found.covariance.dtype == found.mean.dtype == np.float64
    np.testing.assert_array_equal(found.covariance, distances.gaussian_moments(features.astype(float)).covariance)


@pytest.mark.parametrize(
    ("dims", "shift", "scale", "expected"), [(64, 0.0, 2.0, 64.0), (64, 0.5, 1.0, 16.0), (5, 2.0, 0.1, 24.05)]
)
def test_isotropic_gaussians(dims: int, shift: float, scale: float, expected: float):
    """N(0, I) and N(m, s²I) are ‖m‖² + d(s − 1)² apart."""
    mean, identity = np.zeros(dims), np.eye(dims)
    found = distances.frechet_distance(mean, identity, mean + shift, scale**2 * identity)
    assert found == pytest.approx(expected, rel=1e-12)


def test_commuting_covariances():
    """In a common eigenbasis the distance is Σ (√λ₁ − √λ₂)², variances of 0 included."""
    basis, values1, values2 = rotation(4, seed=6), np.array([4.0, 1, 0.25, 0]), np.array([1.0, 9, 0, 0])
    cov1, cov2 = ((basis * values) @ basis.T for values in (values1, values2))
    found = distances.frechet_distance(np.zeros(4), cov1, np.zeros(4), cov2)
    assert found == pytest.approx(1 + 4 + 0.25, rel=1e-7)


def test_other_covariances(gaussians):
    """For covariances that do not commute it is the formula by scipy's general square root of C₁C₂."""
    mean1, cov1, mean2, cov2 = gaussians
    cross = np.trace(scipy.linalg.sqrtm(cov1 @ cov2).real)
    expected = ((mean1 - mean2) ** 2).sum() + np.trace(cov1) + np.trace(cov2) - 2 * cross
    assert abs(cov1 @ cov2 - cov2 @ cov1).max() > 1  # Or else this would be the test above.
    assert distances.frechet_distance(*gaussians) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(("num", "num_other"), [(5, 8), (20, 8), (5, 40)])
def test_rank_deficient_covariances(num: int, num_other: int):
    """Of centred X and Y, fewer than the 30 dimensions, the cross term is the nuclear norm of XYᵀ/√((n−1)(m−1)).

    Their means are other ones, whose squared distance is added: 30 · ½².
    """
    random = np.random.default_rng(num)
    x, y = random.standard_normal((num, 30)), 2 * random.standard_normal((num_other, 30))
    x, y = x - x.mean(0), y - y.mean(0)
    cross = np.linalg.norm(x @ y.T, "nuc") / np.sqrt((num - 1) * (num_other - 1))
    expected = 7.5 + (x**2).sum() / (num - 1) + (y**2).sum() / (num_other - 1) - 2 * cross
    found = distances.frechet_distance_of_features(x + 1, y + 1.5)
    assert found == pytest.approx(expected, rel=1e-10)


def test_frechet_distance_is_a_distance(gaussians):
    """It is 0 from a Gaussian to itself, the same both ways, and the same in rotated coordinates."""
    mean1, cov1, mean2, cov2 = gaussians
    found = distances.frechet_distance(*gaussians)
    assert distances.frechet_distance(mean2, cov2, mean1, cov1) == pytest.approx(found, rel=1e-12)
    turn = rotation(6, seed=7)
    turned = distances.frechet_distance(turn @ mean1, turn @ cov1 @ turn.T, turn @ mean2, turn @ cov2 @ turn.T)
    assert turned == pytest.approx(found, rel=1e-10)
    for seed in range(20):  # For some the rounding is on the other side of 0.
        cov = covariance(6, seed)
        assert 0 <= distances.frechet_distance(mean1, cov, mean1, cov) < 1e-12
    few = np.random.default_rng(8).standard_normal((10, 40))
    assert 0 <= distances.frechet_distance_of_features(few, few) < 1e-11


def test_frechet_distance_of_features_agrees_with_its_gaussians():
    """Of many draws from two Gaussians it is their distance: 1 + 4 (1.5 − 1)² = 2."""
    random = np.random.default_rng(9)
    real, fake = random.standard_normal((20_000, 4)), 0.5 + 1.5 * random.standard_normal((20_000, 4))
    assert distances.frechet_distance_of_features(real, fake) == pytest.approx(2, abs=0.1)


def test_few_examples_make_the_frechet_distance_large():
    """Two sets of one distribution seem the further apart the fewer they are."""
    features = np.random.default_rng(11).standard_normal((12_000, 16))
    by_number = [distances.frechet_distance_of_features(features[:n], features[n : 2 * n]) for n in (60, 600)]
    assert by_number[0] > 5 * by_number[1] > 0


@pytest.mark.parametrize(
    ("cov", "sentence"),
    [
        (np.diag([1.0, -0.01]), "eigenvalue -0.01"),
        (np.diag([1.0, -1e-9]), "eigenvalue -1e-09"),
        (-np.eye(2), "eigenvalue -1"),
        (np.array([[1.0, 0.5], [0.0, 1.0]]), "not symmetric"),
        (np.array([[1.0, np.nan], [np.nan, 1.0]]), "not all finite"),
        (np.eye(3), r"\(3, 3\)"),
        (np.ones(2), r"\(2,\), \(2,\)"),
    ],
)
def test_what_is_no_covariance_is_refused(cov: np.ndarray, sentence: str):
    """In either place what is no covariance is refused by a sentence; a negative rounding error is not."""
    mean, fine = np.zeros(2), np.eye(2)
    for arguments in ((mean, cov, mean, fine), (mean, fine, mean, cov)):
        with pytest.raises(UserError, match=sentence):
            distances.frechet_distance(*arguments)
    rounded = np.diag([1.0, -1e-16])
    assert distances.frechet_distance(mean, rounded, mean, fine) == pytest.approx(1, rel=1e-12)


def cubic(x: np.ndarray, y: np.ndarray) -> float:
    """The kernel of two vectors as the paper has it."""
    return (sum(a * b for a, b in zip(x, y, strict=True)) / len(x) + 1) ** 3


@pytest.mark.parametrize(("num_real", "num_fake"), [(2, 2), (7, 4), (5, 9)])
@pytest.mark.parametrize("pairs", [1, 12, 1 << 22])
def test_kernel_distance_is_the_loop_over_pairs(num_real: int, num_fake: int, pairs: int, monkeypatch):
    """It is the mean over all pairs of different examples, whatever the size of a chunk."""
    monkeypatch.setattr(vectors, "PAIRS", pairs)
    random = np.random.default_rng(12)
    real, fake = random.standard_normal((num_real, 3)), 1 + random.standard_normal((num_fake, 3))
    within = [np.mean([cubic(a, b) for a, b in itertools.permutations(x, 2)]) for x in (real, fake)]
    across = np.mean([cubic(a, b) for a, b in itertools.product(real, fake)])
    assert distances.kernel_distance(real, fake) == pytest.approx(sum(within) - 2 * across, rel=1e-12)


def test_kernel_distance_is_unbiased():
    """Over 600 small pairs of sets of one distribution its mean is 0 within 4 standard errors, that with i = j not."""
    random = np.random.default_rng(13)
    values = np.array([distances.kernel_distance(*random.standard_normal((2, 12, 3))) for _ in range(600)])
    error = values.std(ddof=1) / np.sqrt(len(values))
    assert abs(values.mean()) < 4 * error
    diagonal = np.mean((random.chisquare(3, 1000) / 3 + 1) ** 3) - 1  # E k(x, x) − E k(x, y), nearly.
    assert 2 * diagonal / 12 > 20 * error


@pytest.mark.parametrize(("mean", "std"), [(0.3, 1.0), (0.0, 1.5), (-0.5, 0.5)])
def test_kernel_distance_of_gaussians(mean: float, std: float):
    """In one dimension (xy + 1)³ compares three moments: (Δm₃)² + 3(Δm₂)² + 3(Δm₁)², within 4 standard errors."""
    moments = np.array([mean, mean**2 + std**2, mean**3 + 3 * mean * std**2])
    expected = np.array([3, 3, 1]) @ (moments - [0, 1, 0]) ** 2
    random = np.random.default_rng(14)
    values = np.array(
        [
            distances.kernel_distance(random.standard_normal((300, 1)), mean + std * random.standard_normal((200, 1)))
            for _ in range(100)
        ]
    )
    error = values.std(ddof=1) / 10
    assert abs(values.mean() - expected) < 4 * error
    assert error < 0.2 * expected


def test_kernel_distance_of_subsets():
    """Its mean is the distance of all pairs within its error, its spread that of single subsets, the seed decides."""
    random = np.random.default_rng(15)
    real, fake = random.standard_normal((2000, 2)), 0.5 + random.standard_normal((1500, 2))
    found = distances.kernel_distance_of_subsets(real, fake, seed=0, subset_size=100, num_subsets=300)
    assert abs(found.value - distances.kernel_distance(real, fake)) < 4 * found.deviation / np.sqrt(300)
    single = [
        distances.kernel_distance(real[100 * i : 100 * (i + 1)], fake[100 * i : 100 * (i + 1)]) for i in range(15)
    ]
    assert 0.5 < found.deviation / np.std(single, ddof=1) < 2
    again = distances.kernel_distance_of_subsets(real, fake, seed=0, subset_size=100, num_subsets=300)
    other = distances.kernel_distance_of_subsets(real, fake, seed=1, subset_size=100, num_subsets=300)
    assert again == found != other


def test_a_subset_of_all_is_all():
    """A subset holds different examples: one of the sets' own size is the sets."""
    random = np.random.default_rng(16)
    real, fake = random.standard_normal((2, 30, 4))
    found = distances.kernel_distance_of_subsets(real, fake, seed=0, subset_size=30, num_subsets=3)
    assert found.value == pytest.approx(distances.kernel_distance(real, fake), rel=1e-9)
    assert found.deviation == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("classes", [1, 4, 10])
def test_inception_score_of_sure_classes(classes: int):
    """Sure of every sample and even over C classes it is C; where all samples look alike it is 1."""
    sure = np.tile(np.eye(classes), (20, 1))
    found = distances.inception_score(sure, splits=5)
    assert (found.value, found.deviation) == (pytest.approx(classes, rel=1e-12), pytest.approx(0, abs=1e-12))
    alike = np.tile(np.random.default_rng(17).dirichlet(np.ones(classes)), (50, 1))
    assert distances.inception_score(alike).value == pytest.approx(1, rel=1e-12)


def test_inception_score_is_by_parts():
    """Samples sorted by class score 1 in parts of one class each and C as a whole; unequal parts give the spread."""
    ordered = np.repeat(np.eye(10), 7, axis=0)
    assert distances.inception_score(ordered, splits=10).value == pytest.approx(1, rel=1e-12)
    assert distances.inception_score(ordered, splits=1).value == pytest.approx(10, rel=1e-12)
    halves = np.concatenate([np.tile(np.eye(4), (3, 1)), np.tile(np.eye(4)[:1], (12, 1))])
    found = distances.inception_score(halves, splits=2)
    assert (found.value, found.deviation) == (pytest.approx(2.5, rel=1e-12), pytest.approx(1.5, rel=1e-12))


def test_inception_score_is_exp_of_the_mutual_information():
    """Of soft probabilities it is exp(H(p̄) − mean H(p(c|x))), by another formula than the shipped one."""
    probs = np.random.default_rng(18).dirichlet(0.3 * np.ones(6), 500)
    information = scipy.special.entr(probs.mean(0)).sum() - scipy.special.entr(probs).sum(1).mean()
    assert distances.inception_score(probs, splits=1).value == pytest.approx(np.exp(information), rel=1e-12)


@pytest.mark.parametrize(
    ("probs", "splits", "sentence"),
    [
        (np.log(np.full((20, 4), 0.25)), 2, "below 0"),
        (np.full((20, 4), 0.5), 2, "another sum"),
        (np.tile([1.5, -0.5], (20, 1)), 2, "below 0"),
        (np.full((20, 4), 0.25), 21, "splits=21"),
        (np.full((20, 4), 0.25), 0, "splits=0"),
        (np.full(4, 0.25), 1, r"shape \(4,\)"),
    ],
)
def test_what_is_no_probability_is_refused(probs: np.ndarray, splits: int, sentence: str):
    """What has no inception score is refused by a sentence that says why."""
    with pytest.raises(UserError, match=sentence):
        distances.inception_score(probs, splits)


@pytest.mark.parametrize("distance", [distances.frechet_distance_of_features, distances.kernel_distance])
@pytest.mark.parametrize(
    ("real", "fake", "sentence"),
    [
        (np.ones((1, 3)), np.ones((5, 3)), "real features.* 2 vectors"),
        (np.ones((5, 3)), np.ones((1, 3)), "generated features.* 2 vectors"),
        (np.ones((5, 3)), np.ones((5, 2)), "3 dimensions and the generated features 2"),
        (np.ones((5, 3, 1)), np.ones((5, 3)), r"shape \(5, 3, 1\)"),
        (np.ones((5, 3)), np.full((5, 3), np.inf), "generated features are not all finite"),
    ],
)
def test_unusable_features_are_refused(distance, real: np.ndarray, fake: np.ndarray, sentence: str):
    """What has no distance is refused by a sentence that says why."""
    with pytest.raises(UserError, match=sentence):
        distance(real, fake)


@pytest.mark.parametrize(("size", "num"), [(1, 5), (31, 5), (10, 1)])
def test_impossible_subsets_are_refused(size: int, num: int):
    """Subsets larger than a set, of one example or only one of them are refused."""
    with pytest.raises(UserError, match=f"num_subsets={num} .*subset_size={size}"):
        distances.kernel_distance_of_subsets(
            np.ones((30, 2)), np.ones((40, 2)), seed=0, subset_size=size, num_subsets=num
        )
