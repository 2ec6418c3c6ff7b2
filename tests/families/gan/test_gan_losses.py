"""The losses of a pair of logits: closed forms, equilibria, local convergence, and no overflow."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.special

from gen_jax.contracts import Array
from gen_jax.families import gan

_LOGITS = [(0.0, 0.0), (1.3, -0.4), (-2.0, 3.0), (7.0, -9.0)]
_LABELS = {"a": 0.0, "b": 1.0}

_PAIR_LOSSES: dict[str, Callable[[Array, Array], Array]] = {
    "minimax": gan.minimax_discriminator_loss,
    "smoothed": functools.partial(gan.minimax_discriminator_loss, real_label=0.9),
    "wasserstein": gan.wasserstein_critic_loss,
    "hinge": gan.hinge_discriminator_loss,
    "least_squares": functools.partial(gan.least_squares_discriminator_loss, **_LABELS),
}
_FAKE_LOSSES: dict[str, Callable[[Array], Array]] = {
    "minimax": gan.minimax_generator_loss,
    "non_saturating": gan.non_saturating_generator_loss,
    "wasserstein": gan.wasserstein_generator_loss,
    "hinge": gan.hinge_generator_loss,
    "least_squares": functools.partial(gan.least_squares_generator_loss, c=1.0),
}


@pytest.mark.parametrize(("real", "fake"), _LOGITS)
def test_every_loss_against_its_definition_in_float64(real: float, fake: float):
    """In terms of D = σ(logit), as the papers write them; the softened label weighs both answers to a real example."""
    d_real, d_fake = scipy.special.expit([real, fake])
    pairs = {
        "minimax": -np.log(d_real) - np.log(1 - d_fake),
        "smoothed": -0.9 * np.log(d_real) - 0.1 * np.log(1 - d_real) - np.log(1 - d_fake),
        "wasserstein": fake - real,
        "hinge": max(0, 1 - real) + max(0, 1 + fake),
        "least_squares": 0.5 * (real - 1) ** 2 + 0.5 * fake**2,
    }
    fakes = {
        "minimax": np.log(1 - d_fake),
        "non_saturating": -np.log(d_fake),
        "wasserstein": -fake,
        "hinge": -fake,
        "least_squares": 0.5 * (fake - 1) ** 2,
    }
    for name, expected in pairs.items():
        assert float(_PAIR_LOSSES[name](jnp.float32(real), jnp.float32(fake))) == pytest.approx(expected, rel=2e-5), (
            name
        )
    for name, expected in fakes.items():
        assert float(_FAKE_LOSSES[name](jnp.float32(fake))) == pytest.approx(expected, rel=2e-5), name


def test_at_the_equilibrium():
    """D = ½ everywhere costs the discriminator 2 log 2 and the generator log 2, or −log 2 where it saturates (G3)."""
    zero = jnp.zeros(())
    assert float(gan.minimax_discriminator_loss(zero, zero)) == pytest.approx(1.386294, abs=1e-6)
    assert float(gan.non_saturating_generator_loss(zero)) == pytest.approx(0.693147, abs=1e-6)
    assert float(gan.minimax_generator_loss(zero)) == pytest.approx(-0.693147, abs=1e-6)


@pytest.mark.parametrize("real", [-1e4, -100.0, 100.0, 1e4])
@pytest.mark.parametrize("fake", [-1e4, 1e4])
def test_extreme_logits(real: float, fake: float):
    """Values are those of the asymptotes max(0, ·), and the slopes those of σ, which is 0 or 1 there."""
    argnums = (0, 1)
    value, slopes = jax.value_and_grad(gan.minimax_discriminator_loss, argnums)(jnp.float32(real), jnp.float32(fake))
    assert float(value) == pytest.approx(max(-real, 0) + max(fake, 0))
    assert [float(s) for s in slopes] == pytest.approx([-float(real < 0), float(fake > 0)])
    value, slopes = jax.value_and_grad(_PAIR_LOSSES["smoothed"], argnums)(jnp.float32(real), jnp.float32(fake))
    assert float(value) == pytest.approx(max(real, 0) - 0.9 * real + max(fake, 0), rel=1e-5)
    assert [float(s) for s in slopes] == pytest.approx([float(real > 0) - 0.9, float(fake > 0)], rel=1e-5)
    value, slope = jax.value_and_grad(gan.minimax_generator_loss)(jnp.float32(fake))
    assert (float(value), float(slope)) == pytest.approx((-max(fake, 0), -float(fake > 0)))
    value, slope = jax.value_and_grad(gan.non_saturating_generator_loss)(jnp.float32(fake))
    assert (float(value), float(slope)) == pytest.approx((max(-fake, 0), -float(fake < 0)))
    for loss in _PAIR_LOSSES.values():
        value, slopes = jax.value_and_grad(loss, argnums)(jnp.float32(real), jnp.float32(fake))
        assert np.all(np.isfinite([value, *slopes]))
    for other in _FAKE_LOSSES.values():
        assert np.all(np.isfinite(jax.value_and_grad(other)(jnp.float32(fake))))


def test_the_saturating_generator_learns_nothing_where_the_discriminator_is_sure():
    """At the logit −20 its slope is σ(−20) ≈ 2e-9, and that of the one that does not saturate is −1."""
    sure = jnp.float32(-20.0)
    assert abs(float(jax.grad(gan.minimax_generator_loss)(sure))) == pytest.approx(scipy.special.expit(-20), rel=1e-3)
    assert float(jax.grad(gan.non_saturating_generator_loss)(sure)) == pytest.approx(-1)


def test_two_games_are_of_zero_sum():
    """In the saturating and the Wasserstein game the generator's slope is minus the discriminator's."""
    for name in ("minimax", "wasserstein"):
        slope = jax.grad(_PAIR_LOSSES[name], 1)(jnp.float32(0.3), jnp.float32(0.7))
        assert float(slope) == -float(jax.grad(_FAKE_LOSSES[name])(jnp.float32(0.7)))


def test_softening_labels_moves_the_optimum_of_the_discriminator():
    """Where the two densities are p and q, D* = α p / (p + q) for the label α: found by solving, not by formula."""
    for p, q, alpha in ((1.0, 1.0, 0.9), (3.0, 1.0, 0.8), (0.5, 2.0, 1.0)):

        def expected_loss(logit: float, p: float = p, q: float = q, alpha: float = alpha) -> float:
            # One loss sees a real and a fake logit; a part of it is silent at ∓10⁴.
            real = gan.minimax_discriminator_loss(jnp.float32(logit), jnp.float32(-1e4), alpha)
            fake = gan.minimax_discriminator_loss(jnp.float32(1e4), jnp.float32(logit))
            return float(p * real + q * fake)

        best = scipy.optimize.minimize_scalar(expected_loss, bounds=(-8, 8), method="bounded").x
        assert scipy.special.expit(best) == pytest.approx(alpha * p / (p + q), abs=2e-3)


def test_least_squares_optimum_and_pearson_divergence():
    """D* = (b p + a q) / (p + q), and with b − c = 1, b − a = 2 the generator's loss is half a χ² (G6)."""
    a, b, c = -1.0, 1.0, 0.0
    grid = np.linspace(-12, 13, 4001)
    p = np.exp(-0.5 * grid**2) / np.sqrt(2 * np.pi)
    q = np.exp(-0.5 * (grid - 1) ** 2) / np.sqrt(2 * np.pi)
    d_star = (b * p + a * q) / (p + q)

    def expected_loss(logits: Array) -> Array:
        # p (r − b)²/2 + q (f − a)²/2 with r = f: the loss at (r, a) is the first part, at (b, f) the second.
        each = jax.vmap(functools.partial(gan.least_squares_discriminator_loss, a=a, b=b))
        constant = jnp.ones_like(logits)
        return jnp.sum(p * each(logits, a * constant) + q * each(b * constant, logits))

    slopes = jax.grad(expected_loss)(jnp.asarray(d_star, jnp.float32))
    np.testing.assert_allclose(slopes, 0, atol=1e-6)
    each = np.asarray(jax.vmap(functools.partial(gan.least_squares_generator_loss, c=c))(jnp.asarray(d_star)))
    # The real examples' part, constant in the generator, completes the divergence.
    found = np.trapezoid((p + q) * each, grid)
    pearson = np.trapezoid((2 * q - (p + q)) ** 2 / (p + q), grid)
    assert found == pytest.approx(0.5 * pearson, rel=1e-5)


def test_hinge_stops_at_the_margin():
    """Beyond the margin the slope is 0 for the discriminator and still −1 for the generator."""
    slopes = jax.grad(gan.hinge_discriminator_loss, (0, 1))
    assert [float(s) for s in slopes(jnp.float32(1.5), jnp.float32(-1.5))] == [0, 0]
    assert [float(s) for s in slopes(jnp.float32(0.5), jnp.float32(-0.5))] == [-1, 1]
    assert float(jax.grad(gan.hinge_generator_loss)(jnp.float32(5.0))) == -1


_GENERATORS = {"saturating": gan.minimax_generator_loss, "non_saturating": gan.non_saturating_generator_loss}


@pytest.mark.parametrize("generator_loss", _GENERATORS.values(), ids=_GENERATORS.keys())
@pytest.mark.parametrize(
    ("gamma", "expected"),
    [
        (0.0, [-0.5j, 0.5j]),
        (0.5, [-0.25 - 0.4330127j, -0.25 + 0.4330127j]),
        (1.0, [-0.5, -0.5]),
        (2.0, [-1.8660254, -0.1339746]),
    ],
)
def test_dirac_gan_eigenvalues(gamma: float, expected: list[complex], generator_loss: Callable[[Array], Array]):
    """The gradient field's Jacobian at the equilibrium: ±i/2 turns for ever, R1 pulls inwards (G8)."""

    def field(point: Array) -> Array:
        def discriminator_loss(psi: Array, theta: Array) -> Array:
            real = jnp.zeros(1)
            penalty = gan.r1_penalty(lambda x: psi * x[0], real)
            return gan.minimax_discriminator_loss(psi * real[0], psi * theta) + 0.5 * gamma * penalty

        theta, psi = point
        slope = jax.grad(lambda theta: generator_loss(psi * theta))(theta)
        return -jnp.stack([slope, jax.grad(discriminator_loss)(psi, theta)])

    jacobian = np.asarray(jax.jacfwd(field)(jnp.zeros(2)), np.float64)
    found = np.linalg.eigvals(jacobian)
    # A double eigenvalue is known to the root of the rounding only; the polynomial's coefficients are exact.
    np.testing.assert_allclose([np.trace(jacobian), np.linalg.det(jacobian)], [-gamma, 0.25], atol=1e-6)
    np.testing.assert_allclose(np.sort_complex(found), np.sort_complex(np.asarray(expected)), atol=1e-3)
    if gamma == 0:
        assert np.abs(1 + 0.1 * found) == pytest.approx([1.001249] * 2, abs=1e-6)  # Each step of 0.1 leads further out.


def test_clip_weights():
    """Every weight lies in [−c, c] afterwards; those that did are the same to the bit, and a NaN stays to be seen."""
    params = {"w": jnp.array([[-3.0, 0.005], [0.02, jnp.nan]]), "b": jnp.array(-0.01)}
    clipped = gan.clip_weights(params, 0.01)
    np.testing.assert_array_equal(clipped["w"], np.array([[-0.01, 0.005], [0.01, np.nan]], np.float32))
    assert float(clipped["b"]) == pytest.approx(-0.01)
    for limit in (0.0, -1.0):
        with pytest.raises(ValueError, match="positive"):
            gan.clip_weights(params, limit)
