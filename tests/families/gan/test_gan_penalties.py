"""The penalties on the critic's gradient: closed forms, the bias they bring, and what they must not mix or break."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from gen_jax import rng
from gen_jax.contracts import Array
from gen_jax.families import gan
from gen_jax.families.gan import losses


def _linear(w: Array) -> Callable[[Array], Array]:
    return lambda x: jnp.vdot(w, x)


def _quadratic(x: Array) -> Array:
    """Gradient x: it tells where it was taken."""
    return 0.5 * jnp.sum(x**2)


@pytest.mark.parametrize("shape", [(5,), (3, 4, 2)])
def test_closed_forms_of_a_linear_critic(shape: tuple[int, ...]):
    """(‖w‖ − 1)² for any ε and any pair, and ‖w‖² for any x (G11)."""
    random = np.random.default_rng(0)
    w = jnp.asarray(random.standard_normal(shape), jnp.float32)
    norm = np.linalg.norm(np.asarray(w, np.float64))
    real, fake = jnp.asarray(random.standard_normal((2, 16, *shape)), jnp.float32) * 10
    penalties = jax.vmap(gan.gradient_penalty, (None, 0, 0, 0))(
        _linear(w), rng.per_example(rng.root(0), jnp.arange(16)), real, fake
    )
    assert penalties.shape == (16,)
    np.testing.assert_allclose(penalties, (norm - 1) ** 2, rtol=1e-5)
    np.testing.assert_allclose(jax.vmap(gan.r1_penalty, (None, 0))(_linear(w), real), norm**2, rtol=1e-5)


def test_the_penalty_is_taken_on_the_line_between_the_pair_with_one_epsilon_an_example():
    """With gradient x̂ and orthogonal ends, (‖x̂‖ − 1)² gives ε; it is uniform, and the same for all dimensions."""

    def keys() -> Array:
        return rng.per_example(rng.root(1), jnp.arange(4000))

    real, fake = jnp.array([3.0, 0.0]), jnp.array([3.0, 4.0])  # x̂ = (3, 4 (1 − ε)): on the line, and always longer.
    penalty = jax.vmap(lambda key: gan.gradient_penalty(_quadratic, key, real, fake))(keys())
    norm = np.sqrt(np.asarray(penalty, np.float64)) + 1
    epsilon = 1 - np.sqrt(np.maximum(norm**2 - 9, 0)) / 4
    assert epsilon.min() > -1e-3 and epsilon.max() < 1 + 1e-3
    assert np.mean(epsilon) == pytest.approx(0.5, abs=4 * np.sqrt(1 / 12 / 4000))
    assert np.var(epsilon) == pytest.approx(1 / 12, rel=0.1)
    # One ε for all of 1000 dimensions: ‖x̂‖ = 1000^½ |1 − 2ε|, which varies as |1 − 2ε| does, and not by 1 in 1000.
    ones = jnp.ones(1000)
    penalty = jax.vmap(lambda key: gan.gradient_penalty(_quadratic, key, -ones, ones))(keys())
    inside = np.sqrt(1000) * np.abs(1 - 2 * epsilon) - 1
    np.testing.assert_allclose(penalty, inside**2, rtol=1e-2, atol=0.1)


def test_epsilon_one_is_the_real_example(monkeypatch: pytest.MonkeyPatch):
    """x̂ = ε real + (1 − ε) fake, and not the other way round."""
    monkeypatch.setattr(jax.random, "uniform", lambda *args, **kwargs: jnp.float32(1.0))
    found = gan.gradient_penalty(_quadratic, rng.root(0), jnp.array([3.0, 4.0]), jnp.zeros(2))
    assert float(found) == pytest.approx(16.0)


def test_a_critic_without_gradient():
    """At D = 0 the penalty is 1, and its gradient in the critic's weights is 0 and not NaN; R1 is 0."""
    real, fake = jnp.ones(3), jnp.zeros(3)

    def penalty(w: Array) -> Array:
        return gan.gradient_penalty(_linear(w), rng.root(2), real, fake)

    value, slope = jax.value_and_grad(penalty)(jnp.zeros(3))
    assert float(value) == 1.0
    np.testing.assert_array_equal(slope, np.zeros(3))
    value, slope = jax.value_and_grad(lambda w: gan.r1_penalty(_linear(w), real))(jnp.zeros(3))
    assert float(value) == 0.0
    np.testing.assert_array_equal(slope, np.zeros(3))
    # Near zero it is the derivative still: ∂(‖w‖ − 1)²/∂w = 2 (‖w‖ − 1) w / ‖w‖. Nor is a tiny ‖w‖² a zero one.
    for size in (1e-3, 1e-8, 1e-15):
        np.testing.assert_allclose(jax.grad(penalty)(jnp.array([size, 0.0, 0.0])), [2 * (size - 1), 0, 0], rtol=1e-5)
    # A network whose ReLUs are all off: the gradient through two layers of zeros.
    layers = (-jnp.ones((3, 4)), jnp.ones(4))
    slopes = jax.grad(
        lambda layers: gan.gradient_penalty(
            lambda x: jnp.vdot(layers[1], jax.nn.relu(x @ layers[0] - 1)), rng.root(2), real, fake
        )
    )(layers)
    assert all(np.all(np.isfinite(slope)) for slope in jax.tree.leaves(slopes))


def test_the_penalty_of_one_example_depends_on_no_other():
    """The Jacobian of the mapped penalties in all examples has zeros off its diagonal, for a critic that is one's."""
    random = np.random.default_rng(3)
    hidden, out = random.standard_normal((3, 8)).astype(np.float32), random.standard_normal(8).astype(np.float32)
    real, fake = jnp.asarray(random.standard_normal((2, 4, 3)), jnp.float32)

    def critic(x: Array) -> Array:
        return jnp.vdot(out, jnp.tanh(x @ hidden))

    def penalties(real: Array, fake: Array) -> tuple[Array, Array]:
        keys = rng.per_example(rng.root(3), jnp.arange(4))
        each = jax.vmap(gan.gradient_penalty, (None, 0, 0, 0))(critic, keys, real, fake)
        return each, jax.vmap(gan.r1_penalty, (None, 0))(critic, real)

    for which in (0, 1):
        of_pairs, of_real = jax.jacobian(penalties, argnums=which)(real, fake)
        for jacobian in (of_pairs,) if which else (of_pairs, of_real):
            by_pair = np.abs(jacobian).max(axis=-1)
            np.testing.assert_array_equal(by_pair[~np.eye(4, dtype=bool)], 0)
            assert by_pair.diagonal().min() > 1e-3


def test_penalties_refuse_what_would_broadcast_and_integers():
    """An image of one channel against one of three, and levels that nobody has scaled."""
    with pytest.raises(ValueError, match="shape"):
        gan.gradient_penalty(_quadratic, rng.root(0), jnp.ones((4, 4, 3)), jnp.ones((4, 4, 1)))
    for real, fake in ((jnp.ones(3, jnp.uint8), jnp.ones(3)), (jnp.ones(3, jnp.uint8), jnp.ones(3, jnp.uint8))):
        with pytest.raises(ValueError, match="floating"):
            gan.gradient_penalty(_quadratic, rng.root(0), real, fake)


def _best_slope(theta: float, lam: float) -> tuple[float, float]:
    """The slope and the value of the best linear critic between Diracs at θ (real) and 0 (fake), by descent."""
    real, fake = jnp.array([theta]), jnp.zeros(1)

    @jax.jit
    def objective(w: Array) -> Array:
        loss = gan.wasserstein_critic_loss(w * real[0], w * fake[0])
        return loss + lam * gan.gradient_penalty(lambda x: w * x[0], rng.root(4), real, fake)

    found = scipy.optimize.minimize(
        lambda w: np.float64(objective(jnp.float32(w[0]))),
        x0=[0.3],
        jac=lambda w: np.asarray([jax.grad(objective)(jnp.float32(w[0]))], np.float64),
        method="L-BFGS-B",
        options={"ftol": 0, "gtol": 1e-6},
    )
    return found.x[0], -found.fun


@pytest.mark.parametrize(
    ("theta", "lam", "slope", "value"),
    [(1.0, 10.0, 1.05, 1.025), (1.0, 0.1, 6.0, 3.5), (2.0, 10.0, 1.1, 2.1), (1.0, 1.0, 1.5, 1.25)],
)
def test_bias_of_the_gradient_penalty(theta: float, lam: float, slope: float, value: float):
    """Between Diracs the best slope is 1 + θ/(2λ) and not 1, and the value θ + θ²/(4λ) and not θ (G5)."""
    found = _best_slope(theta, lam)
    assert found == pytest.approx((slope, value), rel=1e-4)
    # The distance is what is left of the value without the bias (G4).
    assert found[1] - theta**2 / (4 * lam) == pytest.approx(theta, rel=0.001)


def test_the_critic_between_gaussians_measures_their_distance():
    """W1(N(m, 1), N(0, 1)) = m, within 2 % of what is left of a trained critic's objective without the bias (G4)."""
    m, lam = 1.5, 10.0
    quantiles = jnp.asarray(np.random.default_rng(5).standard_normal((256, 1)), jnp.float32)

    def loss(params: dict[str, Array]) -> Array:
        keys = rng.per_example(rng.root(5), jnp.arange(256))

        def critic(x: Array) -> Array:
            return jnp.vdot(params["out"], jax.nn.softplus(x * params["in"] + params["bias"]))

        def pair(key: Array, x: Array) -> Array:
            real, fake = x + m, x
            return gan.wasserstein_critic_loss(critic(real), critic(fake)) + lam * gan.gradient_penalty(
                critic, key, real, fake
            )

        return jnp.mean(jax.vmap(pair)(keys, quantiles))

    random = np.random.default_rng(6)
    start = {
        "in": random.standard_normal(16),
        "bias": random.standard_normal(16),
        "out": random.standard_normal(16) / 4,
    }
    params = jax.tree.map(jnp.float32, start)

    def descend(params: dict[str, Array], _: None) -> tuple[dict[str, Array], Array]:
        value, slopes = jax.value_and_grad(loss)(params)
        return jax.tree.map(lambda p, g: p - 0.005 * g, params, slopes), value

    _, values = jax.jit(lambda params: jax.lax.scan(descend, params, None, length=400))(params)
    assert -float(values[-1]) - m**2 / (4 * lam) == pytest.approx(m, rel=0.02)
    assert -float(values[0]) < 0.8 * m  # It had to be learned.


def test_the_parts_of_the_penalties():
    """A gradient of length 5 is 4 from slope 1; one ε an example, uniform over keys, and the point is between both."""
    gradient = jnp.array([[3.0, 0.0], [0.0, -4.0]])
    assert float(losses.distance_from_slope_one(gradient)) == pytest.approx(16.0, rel=1e-6)
    assert float(losses.squared_slope(gradient)) == pytest.approx(25.0, rel=1e-6)

    real, fake = jnp.array([[1.0, 2.0]]), jnp.array([[0.0, -2.0]])
    keys = rng.per_example(rng.root(0), jnp.arange(4000))
    points = np.asarray(jax.vmap(lambda key: losses.between(key, real, fake))(keys))[:, 0]
    np.testing.assert_allclose(points[:, 1], 4 * points[:, 0] - 2, atol=1e-5)
    assert scipy.stats.kstest(points[:, 0], "uniform").pvalue > 1e-3
