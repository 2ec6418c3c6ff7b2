"""Looking ahead: the exact gradient of a bilinear game, Adam by hand, and a discriminator that stays where it is."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special

from gen_jax import rng
from gen_jax.contracts import Array
from gen_jax.families import gan
from gen_jax.train import parallel
from gen_jax.train.game import Player, init_game, make_alternating_step


def _bilinear(x: Array, y: Array, num_steps: int, tx: optax.GradientTransformation) -> Array:
    """The game xy, which the generator x makes small and the discriminator y makes large."""
    return gan.unrolled_generator_loss(lambda x, y: x * y, lambda y, x, _: -x * y, x, y, tx, tx.init(y), num_steps)


@pytest.mark.parametrize(("num_steps", "expected"), [(0, 2.0), (1, 2.2), (5, 3.0), (10, 4.0)])
def test_the_gradient_of_a_bilinear_game(num_steps: int, expected: float):
    """The slope in x is y + 2Kηx, and y + Kηx only where the updates are held constant (G9)."""
    value, slope = jax.jit(jax.value_and_grad(_bilinear), static_argnums=(2, 3))(1.0, 2.0, num_steps, optax.sgd(0.1))
    assert float(slope) == pytest.approx(expected, rel=1e-6)
    assert float(value) == pytest.approx(2 + 0.1 * num_steps, rel=1e-6)


def test_the_gradient_in_the_discriminator():
    """The look-ahead is a function of φ too: ∂φᴷ/∂φ = 1 here, so that df/dy = x; momentum's state is part of it."""
    assert float(jax.grad(_bilinear, 1)(1.0, 2.0, 5, optax.sgd(0.1))) == pytest.approx(1)
    # With momentum ½ the second update is 1½ times the first, and with a trace from before all have that in them.
    tx = optax.sgd(0.1, momentum=0.5)
    state = jax.tree.map(lambda _: jnp.float32(-4.0), tx.init(jnp.float32(0)))
    slope = jax.grad(
        lambda x: gan.unrolled_generator_loss(
            lambda x, y: x * y, lambda y, x, _: -x * y, x, jnp.float32(2), tx, state, 2
        )
    )(jnp.float32(1))
    # y₂ = y + η [(x + 2) + (x + ½(x + 2))] = y + η (2½ x + 3).
    assert float(slope) == pytest.approx(2 + 0.1 * 3 + 2 * 0.1 * 2.5, rel=1e-6)


def test_each_update_takes_its_own_data():
    """With data [K] update k is given the k-th: y_K = y + η x Σ_k c_k; a wrong number of them is refused."""
    tx = optax.sgd(0.1)

    def loss(x: Array, data: Array) -> Array:
        return gan.unrolled_generator_loss(
            lambda x, y: x * y, lambda y, x, c: -c * x * y, x, jnp.float32(2), tx, tx.init(jnp.float32(2)), 3, data
        )

    data = jnp.array([1.0, 10.0, 100.0])
    assert float(jax.grad(loss)(jnp.float32(1), data)) == pytest.approx(2 + 2 * 0.1 * 111, rel=1e-6)
    with pytest.raises(ValueError, match="scan"):
        loss(jnp.float32(1), data[:2])


# A game of two linear players in numbers: real points x_i, fakes s z_i + t, and a discriminator a x² + b x + c.
_REAL = np.random.default_rng(0).standard_normal(16) + 1
_NOISE = np.random.default_rng(1).standard_normal(16)
_D, _G = np.array([0.1, -0.3, 0.2]), np.array([0.7, -0.2])
_ADAM = {"b1": 0.5, "b2": 0.9, "eps": 1e-8, "eps_root": 1e-16}


def _features(x: Any, xp: Any = np) -> Any:
    return xp.stack([x**2, x, xp.ones_like(x)], axis=-1)


def _look_ahead(g: np.ndarray, moments: tuple[np.ndarray, np.ndarray, int], steps: int) -> tuple[float, np.ndarray]:
    """Adam by its paper in float64, with the gradients by hand, and the generator's loss after it."""
    d, fake, (m, v, count) = _D.copy(), g[0] * _NOISE + g[1], moments
    for t in range(count + 1, count + steps + 1):
        real_slope = -scipy.special.expit(-_features(_REAL) @ d)
        fake_slope = scipy.special.expit(_features(fake) @ d)
        grad = np.mean(real_slope[:, None] * _features(_REAL) + fake_slope[:, None] * _features(fake), axis=0)
        m, v = 0.5 * m + 0.5 * grad, 0.9 * v + 0.1 * grad**2
        d = d - 0.05 * (m / (1 - 0.5**t)) / (np.sqrt(v / (1 - 0.9**t)) + 1e-8)
    return float(np.mean(np.logaddexp(0, -_features(fake) @ d))), d


def _d_loss(d: Array, g: Array, _: Any) -> Array:
    real, fake = (_features(x, jnp) @ d for x in (jnp.float32(_REAL), g[0] * jnp.float32(_NOISE) + g[1]))
    return jnp.mean(gan.minimax_discriminator_loss(real, fake))


def _g_loss(g: Array, d: Array) -> Array:
    return jnp.mean(gan.non_saturating_generator_loss(_features(g[0] * jnp.float32(_NOISE) + g[1], jnp) @ d))


@pytest.mark.parametrize("warm", [False, True], ids=["new", "warm"])
def test_adam_is_unrolled_with_its_state(warm: bool):
    """Value, discriminator and gradient are those of a float64 loop of Adam by hand and its central differences."""
    tx = optax.adam(0.05, **_ADAM)
    state = tx.init(jnp.float32(_D))
    moments: tuple[np.ndarray, np.ndarray, int] = (np.zeros(3), np.zeros(3), 0)
    if warm:
        moments = (np.array([0.2, -0.1, 0.3]), np.array([0.05, 0.02, 0.1]), 7)
        mu, nu = (jnp.float32(moment) for moment in moments[:2])
        state = (state[0]._replace(mu=mu, nu=nu, count=jnp.int32(7)), *state[1:])
    d_params, g_params = jnp.float32(_D), jnp.float32(_G)

    def loss(g: Array) -> Array:
        return gan.unrolled_generator_loss(_g_loss, _d_loss, g, d_params, tx, state, 4)

    value, slope = jax.jit(jax.value_and_grad(loss))(g_params)
    expected, d_expected = _look_ahead(_G, moments, 4)
    assert float(value) == pytest.approx(expected, rel=1e-5)
    d_found = gan.unrolled_discriminator(_d_loss, d_params, g_params, tx, state, 4)
    np.testing.assert_allclose(d_found, d_expected, rtol=1e-4)
    differences = [
        (_look_ahead(_G + h, moments, 4)[0] - _look_ahead(_G - h, moments, 4)[0]) / 2e-5 for h in 1e-5 * np.eye(2)
    ]
    np.testing.assert_allclose(slope, differences, rtol=2e-4, atol=1e-5)
    # What the look-ahead adds is no rounding error.
    assert np.abs(slope - jax.grad(_g_loss)(g_params, d_found)).max() > 2e-3
    # The discriminator is where it was: `loss` gives the same again.
    np.testing.assert_array_equal(d_params, np.float32(_D))
    assert float(jax.jit(loss)(g_params)) == pytest.approx(float(value), rel=1e-6)


@pytest.mark.parametrize("steps", [1, 3])
def test_adam_at_a_gradient_of_zero(steps: int):
    """A ReLU that is off has weights of gradient 0 and v = 0: NaN through √0, and a number with `eps_root`."""

    def d_loss(d: dict[str, Array], g: Array, _: Any) -> Array:
        return -d["out"] * jax.nn.relu(d["in"] * g - 5) + d["other"] * g

    def slope(tx: optax.GradientTransformation) -> Array:
        d = {"in": jnp.float32(1), "out": jnp.float32(1), "other": jnp.float32(0)}

        def loss(g: Array) -> Array:
            return gan.unrolled_generator_loss(lambda g, d: d_loss(d, g, None), d_loss, g, d, tx, tx.init(d), steps)

        return jax.jit(jax.grad(loss))(jnp.float32(1.5))

    assert np.isnan(slope(optax.adam(0.1)))
    # L_G = other · g with other = −K η: Adam's first updates are η long whatever the gradient, so the slope is −K η.
    assert float(slope(optax.adam(0.1, eps_root=1e-16))) == pytest.approx(-0.1 * steps, rel=1e-4)
    # It costs nothing elsewhere: an update of a gradient of 1e-4 is the same.
    grads = jnp.float32(1e-4)
    updates = [tx.update(grads, tx.init(grads))[0] for tx in (optax.adam(0.1), optax.adam(0.1, eps_root=1e-16))]
    assert float(updates[0]) == float(updates[1])


def test_the_equilibrium_is_not_cut_off():
    """With SGD at an inner gradient of exactly 0 the gradient still goes through: d²/dx² of the Dirac game at 0."""
    tx = optax.sgd(0.1)

    def loss(x: Array) -> Array:
        return _bilinear(x, jnp.float32(0), 5, tx)

    assert float(jax.grad(loss)(jnp.float32(0))) == 0
    assert float(jax.grad(jax.grad(loss))(jnp.float32(0))) == pytest.approx(2 * 5 * 0.1, rel=1e-6)


def _discriminator(params: Any, model_state: Any, key: Any, batch: Any, *, axis_name: str | None = None) -> Any:
    del key, axis_name
    return _game_loss(params["discriminator"], params["generator"], batch), (model_state, {})


def _game_loss(d: Array, g: Array, batch: Any) -> Array:
    real, fake = (_features(x, jnp) @ d for x in (batch["x"], g[0] * batch["z"] + g[1]))
    return jnp.mean(gan.minimax_discriminator_loss(real, fake))


def _look_ahead_generator(
    params: Any, model_state: Any, key: Any, batch: Any, *, opt_state: Any, tx: Any, axis_name: str | None = None
) -> Any:
    del key

    def g_loss(g: Array, d: Array) -> Array:
        return jnp.mean(gan.non_saturating_generator_loss(_features(g[0] * batch["z"] + g[1], jnp) @ d))

    loss = gan.unrolled_generator_loss(
        g_loss,
        lambda d, g, _: _game_loss(d, g, batch),
        params["generator"],
        params["discriminator"],
        tx,
        opt_state["discriminator"],
        3,
        axis_name=axis_name,
    )
    return loss, (model_state, {})


def test_an_unrolled_game_is_the_same_on_any_number_of_devices():
    """Inner gradients are means over all devices, so the look-ahead is one; the generator's turn leaves D untouched."""
    tx = optax.sgd(0.5, momentum=0.9)
    generator = functools.partial(_look_ahead_generator, tx=tx)
    players = (
        Player("discriminator", _discriminator, tx),
        Player("generator", generator, optax.sgd(0.5), takes_opt_state=True),
    )
    random = np.random.default_rng(2)
    batch = {"x": random.standard_normal(16).astype(np.float32), "z": random.standard_normal(16).astype(np.float32)}
    params = {"discriminator": jnp.float32(_D), "generator": jnp.float32(_G)}
    results = []
    for backend, count in (("jit", 1), ("pmap", 8), ("jit", 8)):
        layout = parallel.Layout(backend, jax.devices()[:count])
        wrapped = layout.wrap_train(make_alternating_step(players))
        state = layout.put_state(init_game(params, players, rng.root(0)))
        for _ in range(2):
            state, metrics = wrapped(state, layout.put_batch(batch))
        results.append(parallel.to_host((state.params, state.opt_state, metrics)))
    for other in results[1:]:
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), other, results[0])
    # Alone, the generator moves and the discriminator and its optimiser do not, to the bit.
    alone = init_game(params, players, rng.root(0))
    after, _ = jax.jit(make_alternating_step(players[1:]))(alone, batch)
    np.testing.assert_array_equal(after.params["discriminator"], alone.params["discriminator"])
    jax.tree.map(np.testing.assert_array_equal, after.opt_state["discriminator"], alone.opt_state["discriminator"])
    assert np.abs(after.params["generator"] - alone.params["generator"]).max() > 1e-3
