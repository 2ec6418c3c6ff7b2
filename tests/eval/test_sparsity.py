"""The sparsity of codes made by hand, and of Gaussian ones against closed forms."""

import numpy as np
import pytest
import scipy.stats

from gen_jax.contracts import UserError
from gen_jax.eval import sparsity


def test_codes_made_by_hand():
    """Counts, averages and Hoyer's values of five small codes, the sign of a unit being of no account."""
    codes = np.array([[0, 2, 0, 0], [1, -1, 0, 0], [0, 0, 0, 0], [3, 3, 3, 0], [0.0, -3, 0, 0]])
    found = sparsity.code_sparsity(codes)
    assert found.active_per_example == pytest.approx(7 / 5)
    assert found.dead_units == 1
    np.testing.assert_allclose(found.mean_activation, [4 / 5, 1 / 5, 3 / 5, 0])
    # (2 − √k) / (2 − 1) for k equal units of four.
    assert found.hoyer == pytest.approx(np.mean([1, 2 - np.sqrt(2), 2 - np.sqrt(3), 1]))


@pytest.mark.parametrize("active", [1, 2, 7, 64])
def test_hoyer_of_equal_units(active: int):
    """Of d units k equal ones have the sparseness (√d − √k) / (√d − 1): 1 for one unit, 0 for all."""
    code = np.zeros((3, 64))
    code[:, :active] = -0.3
    found = sparsity.code_sparsity(code)
    assert found.hoyer == pytest.approx((8 - np.sqrt(active)) / 7, abs=1e-12)
    assert found.active_per_example == active
    assert found.dead_units == 64 - active


def test_hoyer_of_gaussian_codes():
    """Of d standard normal units ‖z‖₁/‖z‖₂ is √(2d/π) as d grows: the sparseness is near (1 − √(2/π)) √d/(√d − 1)."""
    codes = np.random.default_rng(0).standard_normal((500, 4096))
    expected = (1 - np.sqrt(2 / np.pi)) * 64 / 63
    assert sparsity.code_sparsity(codes).hoyer == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("scale", [1e-200, 1e-3, -1.0, 1e200])
def test_hoyer_knows_no_scale(scale: float):
    """A multiple of the codes has the same sparseness, also where squares would underflow or overflow."""
    codes = np.random.default_rng(1).standard_normal((20, 9))
    found = sparsity.code_sparsity(scale * codes)
    assert found.hoyer == pytest.approx(sparsity.code_sparsity(codes).hoyer, rel=1e-12)


@pytest.mark.parametrize("threshold", [0.5, 1.5])
def test_threshold(threshold: float):
    """Of standard normal units the fraction 2 Φ(−t) is active, within 4 standard errors; Hoyer's measure has no t."""
    codes = np.random.default_rng(2).standard_normal((2000, 50))
    found = sparsity.code_sparsity(codes, threshold)
    fraction = 2 * scipy.stats.norm.cdf(-threshold)
    error = np.sqrt(fraction * (1 - fraction) / codes.size)
    assert abs(found.active_per_example / 50 - fraction) < 4 * error
    assert found.hoyer == sparsity.code_sparsity(codes).hoyer


def test_threshold_is_not_reached_by_its_equal():
    """A unit is active above the threshold, not at it, and dead where it never gets there."""
    found = sparsity.code_sparsity(np.array([[0.5, 0.25], [0.25, -0.5]]), 0.25)
    assert found.active_per_example == 1
    assert sparsity.code_sparsity(np.array([[0.5, 0.25]]), 0.5).dead_units == 2


def test_a_dead_code_has_no_sparseness():
    """Where every example is silent, or a code has one unit, Hoyer's measure is not a number and the rest is there."""
    found = sparsity.code_sparsity(np.zeros((5, 3)))
    assert (found.active_per_example, found.dead_units) == (0, 3)
    assert np.isnan(found.hoyer)
    single = sparsity.code_sparsity(np.array([[1.0], [0.0], [2.0]]))
    assert (single.active_per_example, single.dead_units) == (pytest.approx(2 / 3), 0)
    assert np.isnan(single.hoyer)


def test_float16_codes_are_reckoned_in_float64():
    """Half-precision codes have the averages of the same numbers in float64."""
    codes = np.random.default_rng(3).standard_normal((50, 30)).astype(np.float16)
    found, expected = (sparsity.code_sparsity(given) for given in (codes, codes.astype(np.float64)))
    assert found.hoyer == expected.hoyer
    np.testing.assert_array_equal(found.mean_activation, expected.mean_activation)
    assert found.mean_activation.dtype == np.float64


@pytest.mark.parametrize(
    ("codes", "threshold", "sentence"),
    [
        (np.zeros((0, 3)), 0.0, r"shape \(0, 3\)"),
        (np.zeros((3, 0)), 0.0, r"shape \(3, 0\)"),
        (np.zeros((3, 2, 2)), 0.0, r"shape \(3, 2, 2\)"),
        (np.array([[1.0, np.nan]]), 0.0, "not all finite"),
        (np.ones((1, 2)), -0.1, "threshold=-0.1"),
        (np.ones((1, 2)), np.nan, "threshold=nan"),
    ],
)
def test_unusable_codes_are_refused(codes: np.ndarray, threshold: float, sentence: str):
    """What has no sparsity is refused by a sentence that says why."""
    with pytest.raises(UserError, match=sentence):
        sparsity.code_sparsity(codes, threshold)
