"""Mode coverage of samples made by hand and of perfect ones, whose expectations are known."""

import numpy as np
import pytest
import scipy.stats

from gen_jax.contracts import UserError
from gen_jax.eval import modes

STD = 0.02


def ring(num: int = 8, radius: float = 2.0) -> np.ndarray:
    """[num, 2] centres on a circle."""
    angles = np.linspace(0, 2 * np.pi, num, endpoint=False)
    return radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def perfect(centres: np.ndarray, num: int, seed: int) -> np.ndarray:
    """[num, d] samples of the even mixture."""
    random = np.random.default_rng(seed)
    return centres[random.integers(0, len(centres), num)] + STD * random.standard_normal((num, centres.shape[1]))


def test_samples_made_by_hand():
    """Three modes on a line and ten samples: their counts, edges of the radius included, and the divergence."""
    centres = np.array([[0.0, 0.0], [10.0, 0.0], [20.0, 0.0]])
    samples = np.array(
        [[0, 0], [0.5, 0], [0, -0.75], [0, 1], [0, 1.25], [4, 0], [10, 0.5], [10, -0.5], [6, 0], [14.5, 0]]
    )
    found = modes.mode_coverage(samples, centres, 1.0, min_count=2)
    np.testing.assert_array_equal(found.counts, [4, 2, 0])
    np.testing.assert_array_equal(found.assigned, [6, 4, 0])
    assert found.high_quality == pytest.approx(0.6)
    assert found.covered == 2
    assert found.reverse_kl == pytest.approx(0.6 * np.log(0.6 * 3) + 0.4 * np.log(0.4 * 3))
    assert [modes.mode_coverage(samples, centres, 1.0, min_count=n).covered for n in (1, 3, 4, 5)] == [2, 1, 1, 0]
    assert modes.mode_coverage(samples, centres, 1.0).covered == 0  # 20 by default.


@pytest.mark.parametrize(("sigmas", "dims"), [(3, 2), (1, 2), (2, 3)])
def test_perfect_samples_have_the_known_quality(sigmas: int, dims: int):
    """Of perfect samples 1 − e^(−s²/2) are within s σ in two dimensions (0.988891 for 3), within 4 standard errors."""
    centres = np.concatenate([ring(), np.zeros((8, dims - 2))], axis=1)
    found = modes.mode_coverage(perfect(centres, 50_000, seed=0), centres, sigmas * STD)
    expected = scipy.stats.chi2(dims).cdf(sigmas**2)
    if (sigmas, dims) == (3, 2):
        assert expected == pytest.approx(0.988891, abs=1e-6)
    assert abs(found.high_quality - expected) < 4 * np.sqrt(expected * (1 - expected) / 50_000)
    assert found.covered == 8
    assert found.assigned.sum() == 50_000


@pytest.mark.parametrize("num_modes", [8, 25])
def test_perfect_samples_have_the_known_divergence(num_modes: int):
    """Of n perfect samples the reverse divergence is (K − 1)/2n on average, within 4 standard errors and 1/n²."""
    num, centres = 1000, ring(num_modes)
    values = [modes.mode_coverage(perfect(centres, num, seed), centres, 3 * STD).reverse_kl for seed in range(200)]
    error = np.std(values, ddof=1) / np.sqrt(len(values))
    # The next term of the multinomial's bias: (Σ 1/p − 1) / 12n².
    expected = (num_modes - 1) / (2 * num) + (num_modes**2 - 1) / (12 * num**2)
    assert abs(np.mean(values) - expected) < 4 * error
    assert error < 0.05 * expected


@pytest.mark.parametrize("kept", [1, 3, 8])
def test_collapse(kept: int):
    """Samples that are shared evenly by some of eight modes cover these, at a divergence of log(8 / some)."""
    centres = ring()
    found = modes.mode_coverage(np.repeat(centres[:kept], 40, axis=0), centres, 3 * STD)
    assert found.covered == kept
    assert found.high_quality == 1
    assert found.reverse_kl == pytest.approx(np.log(8 / kept), abs=1e-12)
    assert found.reverse_kl >= 0
    np.testing.assert_array_equal(found.counts, [40] * kept + [0] * (8 - kept))


def test_samples_far_from_every_mode_still_belong_to_one():
    """Scattered samples cover nothing, but their shares, and so the divergence, are those of the nearest centres."""
    centres = ring()
    found = modes.mode_coverage(np.repeat(centres * [[1.5]], 30, axis=0), centres, 3 * STD)
    assert (found.covered, found.high_quality) == (0, 0)
    np.testing.assert_array_equal(found.assigned, np.full(8, 30))
    assert found.reverse_kl == pytest.approx(0, abs=1e-12)


def test_weights():
    """Samples in the shares of an uneven mixture are 0 from it and KL(p ‖ uniform) from the even one."""
    centres, weights = ring(4), np.array([0.1, 0.2, 0.3, 0.4])
    samples = np.repeat(centres, [10, 20, 30, 40], axis=0)
    found = modes.mode_coverage(samples, centres, 1.0, weights=weights)
    assert found.reverse_kl == pytest.approx(0, abs=1e-12)
    for seed in range(20):  # For some the rounding is on the other side of 0.
        shares = np.random.default_rng(seed).integers(1, 50, 4)
        own = modes.mode_coverage(np.repeat(centres, shares, axis=0), centres, 1.0, weights=shares * (1 / shares.sum()))
        assert 0 <= own.reverse_kl < 1e-12
    swapped = modes.mode_coverage(samples, centres, 1.0, weights=weights[::-1]).reverse_kl
    assert swapped == pytest.approx(scipy.stats.entropy(weights, weights[::-1]), rel=1e-12)
    even = modes.mode_coverage(samples, centres, 1.0).reverse_kl
    assert even == pytest.approx(scipy.stats.entropy(weights, np.full(4, 0.25)), rel=1e-12)


@pytest.mark.parametrize(
    ("centres", "options", "sentence"),
    [
        (np.stack([f(np.linspace(0, 2 * np.pi, 8)).round(9) for f in (np.cos, np.sin)], 1), {}, "endpoint=False"),
        (ring(), {"radius": 0.0}, "radius=0.0"),
        (ring(), {"radius": np.nan}, "radius=nan"),
        (ring(), {"min_count": 0}, "min_count=0"),
        (ring(3), {"weights": np.array([0.5, 0.5])}, "not those of 3 modes"),
        (ring(2), {"weights": np.array([1.0, 0.0])}, "above 0"),
        (ring(2), {"weights": np.array([1.0, 3.0])}, "the sum 1"),
        (np.ones((1, 3)), {}, "2 dimensions and the centres 3"),
        (ring() * np.nan, {}, "centres are not all finite"),
    ],
)
def test_unusable_modes_are_refused(centres: np.ndarray, options: dict, sentence: str):
    """What no sample can cover is refused by a sentence that says why: the ring with its first centre twice is too."""
    with pytest.raises(UserError, match=sentence):
        modes.mode_coverage(np.zeros((30, 2)), centres, **{"radius": 0.06, **options})


def test_diverged_samples_are_refused():
    """Samples that are not finite are no samples of poor quality but an error."""
    with pytest.raises(UserError, match="samples are not all finite"):
        modes.mode_coverage(np.array([[0.0, np.nan]]), ring(), 0.06)


def test_numbers_are_those_of_the_coverage_with_intervals():
    """The values are `mode_coverage`'s, and the fraction's interval is a binomial's of as many samples."""
    centres = ring()
    some = centres[[0, 1, 2, 4]]
    samples = np.concatenate([perfect(some, 1500, seed=0), 5 + np.random.default_rng(1).random((500, 2))])
    found = modes.mode_coverage_numbers(samples, centres, 3 * STD, seed=0, num_resamples=1000)
    plain = modes.mode_coverage(samples, centres, 3 * STD)
    assert found["modes_covered"] == plain.covered == 4
    assert found["high_quality"] == pytest.approx(plain.high_quality)
    assert found["reverse_kl_nats"] == pytest.approx(plain.reverse_kl)
    deviation = np.sqrt(plain.high_quality * (1 - plain.high_quality) / 2000)
    assert found["high_quality_high"] - found["high_quality_low"] == pytest.approx(2 * 1.96 * deviation, rel=0.1)
    assert found["modes_covered_low"] == found["modes_covered_high"] == 4
    assert len(found) == 9


@pytest.mark.parametrize("scale", [1.0, 1.5])
def test_where_all_or_no_samples_are_good_there_is_still_doubt(scale: float):
    """Of 480 samples on the centres, or beside them, the other end is z²/(480 + z²) away; no divergence is below 0."""
    found = modes.mode_coverage_numbers(np.repeat(scale * ring(), 60, axis=0), ring(), 3 * STD, seed=0)
    good, doubt = float(scale == 1), 1.96**2 / (480 + 1.96**2)
    assert found["high_quality"] == good
    assert found["high_quality_low"] == pytest.approx(good * (1 - doubt), abs=1e-5)
    assert found["high_quality_high"] == pytest.approx(good + (1 - good) * doubt, abs=1e-5)
    assert found["reverse_kl_nats"] == pytest.approx(0, abs=1e-12)
    assert found["reverse_kl_nats_low"] == 0 < found["reverse_kl_nats_high"]


def test_the_modes_covered_vary_where_the_counts_are_near_the_least():
    """A mode of 20 samples, the least there may be, is covered by about half of the resamples."""
    centres = ring(2)
    samples = np.concatenate([np.repeat(centres[:1], 980, axis=0), np.repeat(centres[1:], 20, axis=0)])
    found = modes.mode_coverage_numbers(samples, centres, 3 * STD, seed=0)
    assert (found["modes_covered_low"], found["modes_covered"], found["modes_covered_high"]) == (1, 2, 2)


@pytest.mark.parametrize("shares", [25 * [0.04], [0.9, 0.1]])
def test_the_divergences_interval_holds_its_expectation(shares: list[float]):
    """Of 200 sets of samples 95 % of the intervals hold the mean divergence, within 4 standard errors, or more."""
    centres, random = ring(len(shares)), np.random.default_rng(0)
    found = [
        modes.mode_coverage_numbers(random.choice(centres, 300, p=shares), centres, STD, seed=i, num_resamples=50)
        for i in range(200)
    ]
    mean = np.mean([one["reverse_kl_nats"] for one in found])
    held = np.mean([one["reverse_kl_nats_low"] <= mean <= one["reverse_kl_nats_high"] for one in found])
    assert held > 0.95 - 4 * np.sqrt(0.95 * 0.05 / 200)
