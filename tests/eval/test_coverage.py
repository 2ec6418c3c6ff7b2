"""Precision, recall, density and coverage against loops, extreme sets and the closed expectation of coverage."""

import numpy as np
import pytest
import scipy.stats

from gen_jax.contracts import UserError
from gen_jax.eval import coverage, vectors


def radius(points: list, i: int, k: int) -> float:
    """The distance from a point to the k-th nearest of the others."""
    return sorted(np.linalg.norm(points[i] - points[j]) for j in range(len(points)) if j != i)[k - 1]


def slow(real: np.ndarray, fake: np.ndarray, k: int) -> tuple[float, float, float, float]:
    """Precision, recall, density and coverage by loops over the definitions."""

    def inside(point: np.ndarray, points: np.ndarray) -> list[int]:
        return [i for i in range(len(points)) if np.linalg.norm(point - points[i]) <= radius(points, i, k)]

    precision = sum(len(inside(y, real)) > 0 for y in fake) / len(fake)
    recall = sum(len(inside(x, fake)) > 0 for x in real) / len(real)
    density = sum(len(inside(y, real)) for y in fake) / (k * len(fake))
    covered = {i for y in fake for i in inside(y, real)}
    return precision, recall, density, len(covered) / len(real)


def found(real: np.ndarray, fake: np.ndarray, k: int) -> tuple[float, float, float, float]:
    """The same by the shipped functions."""
    first, second = coverage.precision_recall(real, fake, k), coverage.density_coverage(real, fake, k)
    return first.precision, first.recall, second.density, second.coverage


def test_an_example_made_by_hand():
    """Five points and three samples on a line, with one neighbour.

    The real radii are 1, 1, 2, 5, 5 at 0, 1, 3, 10, 15 and the sampled ones 1.5, 1.5, 17.5 at 1, 2.5, 20. The sample 1
    lies in the balls of 0, 1 and, at its very edge, 3; 2.5 in that of 3; 20 at the edge of that of 15. Of the real
    points 0, 1 and 3 lie in the balls of the first two samples, and 3, 10 and 15 in the third one's.
    """
    real, fake = np.array([[0.0], [1], [3], [10], [15]]), np.array([[1.0], [2.5], [20]])
    np.testing.assert_allclose(found(real, fake, 1), (1, 1, 5 / 3, 4 / 5))


@pytest.mark.parametrize("pairs", [1, 100, 1 << 22])
@pytest.mark.parametrize(("num_real", "num_fake", "dims", "k"), [(30, 20, 1, 1), (17, 31, 2, 3), (25, 25, 5, 5)])
def test_is_the_loop(num_real: int, num_fake: int, dims: int, k: int, pairs: int, monkeypatch):
    """All four are those of loops over the definitions, whatever the size of a chunk."""
    monkeypatch.setattr(vectors, "PAIRS", pairs)
    random = np.random.default_rng(num_real)
    real, fake = random.standard_normal((num_real, dims)), 0.7 + 0.8 * random.standard_normal((num_fake, dims))
    expected = slow(real, fake, k)
    np.testing.assert_allclose(found(real, fake, k), expected, rtol=1e-12)
    assert min(expected) > 0
    assert len({expected[0], expected[1], expected[3], 1.0}) == 4  # None is trivial or could stand for another.


def test_points_on_a_grid():
    """Where many distances are equal, points on the edge of a ball are in it: all four are those of the loop."""
    random = np.random.default_rng(0)
    real, fake = random.integers(0, 6, (40, 2)).astype(float), random.integers(2, 9, (30, 2)).astype(float)
    np.testing.assert_allclose(found(real, fake, 2), slow(real, fake, 2), rtol=1e-12)


@pytest.mark.parametrize("offset", [0.0, 1e6])
@pytest.mark.parametrize("k", [1, 4])
def test_identical_sets(offset: float, k: int):
    """Of a set and itself all are 1, but the density: each ball has its centre and the k others in it, (k + 1)/k."""
    points = offset + np.random.default_rng(1).standard_normal((200, 3))
    np.testing.assert_allclose(found(points, points, k), (1, 1, (k + 1) / k, 1))


def test_copies_of_one_point():
    """Where all points of both sets are one, far from the origin too, every ball of radius 0 has all in it."""
    points = np.full((20, 7), 1e3 / 7)
    np.testing.assert_allclose(found(points, points[:12], 3), (1, 1, 20 / 3, 1))


def test_sets_far_apart():
    """Of two sets with no point near another's all are 0."""
    random = np.random.default_rng(2)
    real, fake = random.standard_normal((50, 4)), 100 + random.standard_normal((60, 4))
    assert found(real, fake, 3) == (0, 0, 0, 0)


def test_samples_of_one_mode_are_precise_and_recall_little():
    """Samples of one of two far modes have precision 1, and half of the data are recalled and covered."""
    random = np.random.default_rng(3)
    real = random.random((400, 2)) + np.repeat([[0, 0], [50, 0]], 200, axis=0)
    fake = 0.25 + 0.5 * random.random((4000, 2))
    precision, recall, density, covered = found(real, fake, 5)
    assert precision == 1
    assert 0 < recall < 0.5
    assert 0.2 < covered < 0.5
    assert density == pytest.approx(1, abs=0.15)  # As for the whole: it does not see what is missing.


def test_density_is_not_bounded_by_one():
    """In 30 dimensions the middle lies in far more balls than a point of the data does."""
    random = np.random.default_rng(9)
    real, fake = random.standard_normal((200, 30)), 0.01 * random.standard_normal((200, 30))
    result = coverage.density_coverage(real, fake, 5)
    assert result.density > 5
    with_the_datas_own = coverage.density_coverage(real, random.standard_normal((200, 30)), 5)
    assert with_the_datas_own.density == pytest.approx(1, abs=0.5)


def test_an_outlier_among_samples_spoils_recall_and_not_coverage():
    """One far sample has a ball that holds all the data: recall is 1, and coverage as without it."""
    random = np.random.default_rng(4)
    real, fake = (
        random.standard_normal((100, 2)),
        np.concatenate([50 + random.standard_normal((20, 2)), [[-200, -200]]]),
    )
    assert coverage.precision_recall(real, fake, 3).recall == 1
    assert coverage.density_coverage(real, fake, 3).coverage == 0


@pytest.mark.parametrize(("num_real", "num_fake", "k", "dims"), [(60, 60, 1, 2), (60, 60, 5, 1), (80, 40, 3, 3)])
def test_expected_coverage(num_real: int, num_fake: int, k: int, dims: int):
    """For one distribution coverage has the stated mean and density 1, within 4 standard errors over 300 draws."""
    random = np.random.default_rng(num_fake + k)
    results = [
        coverage.density_coverage(random.standard_normal((num_real, dims)), random.standard_normal((num_fake, dims)), k)
        for _ in range(300)
    ]
    for values, expected in (
        ([result.coverage for result in results], coverage.expected_coverage(num_real, num_fake, k)),
        ([result.density for result in results], 1),
    ):
        assert abs(np.mean(values) - expected) < 4 * np.std(values, ddof=1) / np.sqrt(300)
    assert results[0].expected_coverage == coverage.expected_coverage(num_real, num_fake, k)


@pytest.mark.parametrize(("num_real", "num_fake", "k"), [(10, 10, 1), (100, 50, 5), (7, 20, 6)])
def test_expected_coverage_is_hypergeometric(num_real: int, num_fake: int, k: int):
    """It is the chance that of k drawn from N − 1 real and M sampled ones at least one is sampled."""
    none = scipy.stats.hypergeom(num_real - 1 + num_fake, num_fake, k).pmf(0)
    assert coverage.expected_coverage(num_real, num_fake, k) == pytest.approx(1 - none, rel=1e-10)


@pytest.mark.parametrize(("scale", "shift"), [(1e-5, 0.0), (1e5, 0.0), (-2.0, 3.0)])
def test_scale_and_origin_are_of_no_account(scale: float, shift: float):
    """Features times one number plus another give the same four numbers."""
    random = np.random.default_rng(5)
    real, fake = random.standard_normal((50, 3)), 0.5 + random.standard_normal((40, 3))
    assert found(scale * real + shift, scale * fake + shift, 3) == found(real, fake, 3)


@pytest.mark.parametrize("measure", [coverage.precision_recall, coverage.density_coverage])
@pytest.mark.parametrize(
    ("real", "fake", "k", "sentence"),
    [
        (np.ones((5, 2)), np.ones((8, 2)), 5, "One of 5 examples has no num_neighbours=5"),
        (np.ones((5, 2)), np.ones((8, 2)), 0, "num_neighbours=0"),
        (np.ones((5, 2)), np.ones((8, 3)), 1, "2 dimensions and the generated features 3"),
        (np.ones((5, 2)), np.full((8, 2), np.nan), 1, "generated features are not all finite"),
        (np.ones((5, 2)), np.ones((0, 2)), 1, r"shape \(0, 2\)"),
    ],
)
def test_unusable_features_are_refused(measure, real: np.ndarray, fake: np.ndarray, k: int, sentence: str):
    """What has no neighbours is refused by a sentence that says why."""
    with pytest.raises(UserError, match=sentence):
        measure(real, fake, k)


def test_precision_needs_neighbours_among_samples_too():
    """Only precision and recall have balls about samples: one sample has a density and no recall."""
    real, one = np.random.default_rng(6).standard_normal((20, 2)), np.zeros((1, 2))
    with pytest.raises(UserError, match="One of 1 examples"):
        coverage.precision_recall(real, one, 1)
    assert coverage.density_coverage(real, one, 19).coverage > 0
