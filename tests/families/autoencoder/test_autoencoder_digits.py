"""Linear autoencoders of real data, 8x8 digits, against principal components of the same images.

The loss of a linear autoencoder sees its data by their mean and covariance alone. So training takes 128 points with the
digits' own, and what it reached is measured by the shipped objective on all 1797 digits.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.linalg
from sklearn.datasets import load_digits

from gen_jax import rng
from gen_jax.families.autoencoder import MLPAutoencoder, objective
from gen_jax.train.state import init_state
from gen_jax.train.step import make_train_step

_SHAPE = (8, 8, 1)


@functools.lru_cache
def _principal() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The digits [1797, 64] in [0, 1], their mean, and the covariance's eigenvalues and eigenvectors, largest first."""
    images = load_digits().data / 16
    values, vectors = np.linalg.eigh(np.cov(images.T, bias=True))
    return images, images.mean(0), np.maximum(values[::-1], 0), vectors[:, ::-1]


def _batch(images: np.ndarray) -> dict[str, np.ndarray]:
    return {"image": 255 * images.reshape(-1, *_SHAPE)}  # The objective divides by 255.


def _same_moments() -> np.ndarray:
    """128 points [128, 64] with the digits' mean and covariance: mean ± √(64 λ_i) v_i."""
    _, mean, values, vectors = _principal()
    steps = (np.sqrt(64 * values)[None] * vectors).T
    return mean[None] + np.concatenate([steps, -steps])


def _coordinates(tied: bool) -> Callable[[Any], Any]:
    """A change of the parameters' coordinates, under which the optimiser sees centred (and if untied, white) inputs."""
    _, mean, values, vectors = _principal()
    live = values > 1e-9  # Three pixels are always black.
    scale = np.ones(64) if tied else np.where(live, 1 / np.sqrt(np.where(live, values, 1.0)), 1.0)
    whiten = (vectors * scale[None]) @ vectors.T

    def change(params: Any) -> Any:
        kernel = whiten @ params["encoder_0"]["kernel"]
        encoder = {"kernel": kernel, "bias": params["encoder_0"]["bias"] - mean @ kernel}
        if tied:
            return {"encoder_0": encoder, "decoder_bias_0": params["decoder_bias_0"] + mean}
        return {"encoder_0": encoder, "decoder_0": params["decoder_0"] | {"bias": params["decoder_0"]["bias"] + mean}}

    return change


def _loss_of(model: MLPAutoencoder) -> Callable[..., Any]:
    return functools.partial(objective, model=model, error="squared_error")


def _train(model: MLPAutoencoder, batch: Any, change: Any, dtype: Any, rate: float, num_steps: int) -> Any:
    """The parameters after the shipped train step on one batch, Adam's steps falling to 0."""
    params = jax.jit(model.init)(rng.root(0), jnp.zeros((1, *_SHAPE)))["params"]
    params = jax.tree.map(lambda a: a.astype(dtype), params)
    loss, tx = _loss_of(model), optax.adam(optax.cosine_decay_schedule(rate, num_steps))
    step = make_train_step(lambda params, *rest: loss(change(params), *rest), tx)

    def run(state: Any, batch: Any) -> Any:
        return jax.lax.scan(lambda state, _: (step(state, batch)[0], None), state, length=num_steps)[0]

    # Runs for longer than it is compiled.
    options = {"xla_backend_optimization_level": 2, "xla_llvm_disable_expensive_passes": False}
    return change(jax.jit(run, compiler_options=options)(init_state(params, tx, rng.root(1)), batch).params)


def _angle(span: np.ndarray, size: int) -> float:
    return scipy.linalg.subspace_angles(np.asarray(span, np.float64), _principal()[3][:, :size]).max()


_RESIDUALS = {2: 3.35525, 5: 2.13561, 10: 1.22857, 20: 0.49606}
_QUICK: list[Any] = [(2, False), (5, True), (20, False)]
_SLOW = [case for case in itertools.product(_RESIDUALS, (False, True)) if case not in _QUICK]


@pytest.mark.parametrize(("size", "tied"), _QUICK + [pytest.param(*case, marks=pytest.mark.slow) for case in _SLOW])
def test_digits_reach_the_principal_components(size: int, tied: bool):
    """The squared error is the sum of the eigenvalues left out, and both layers span the principal subspace."""
    images, _, values, vectors = _principal()
    assert values[size:].sum() == pytest.approx(_RESIDUALS[size], abs=5e-6)
    model = MLPAutoencoder(_SHAPE, (size,), output="linear", tied=tied)
    with jax.enable_x64(True):
        params = _train(model, _batch(_same_moments()), _coordinates(tied), jnp.float64, 0.05, 4000)
        found = jax.jit(_loss_of(model))(params, {}, rng.root(0), _batch(images))[0]
        assert found.dtype == jnp.float64
    assert float(found) == pytest.approx(values[size:].sum(), rel=1e-6)
    live = vectors[:, values > 1e-9]  # What the encoder does to pixels that are always black has no effect.
    encoder = np.asarray(params["encoder_0"]["kernel"])
    assert _angle(live @ (live.T @ encoder), size) < 1e-3
    assert _angle(encoder if tied else params["decoder_0"]["kernel"].T, size) < 1e-3


def test_digits_reach_the_principal_components_in_float32():
    """Tied weights on the 1797 digits themselves, in float32 and in the model's own coordinates."""
    images, _, values, _ = _principal()
    model = MLPAutoencoder(_SHAPE, (5,), output="linear", tied=True)
    batch = _batch(np.asarray(images, np.float32))
    params = _train(model, batch, lambda params: params, jnp.float32, 0.03, 2000)
    assert float(jax.jit(_loss_of(model))(params, {}, rng.root(0), batch)[0]) == pytest.approx(
        values[5:].sum(), rel=1e-5
    )
    assert _angle(params["encoder_0"]["kernel"], 5) < 1e-3


def test_without_weights_the_best_image_is_the_mean():
    """All weights 0: one step of descent at the rate ½ makes the bias the mean image, with the error 4.69328."""
    images, mean, values, _ = _principal()
    assert values.sum() == pytest.approx(4.69328, abs=5e-6)
    model = MLPAutoencoder(_SHAPE, (3,), output="linear")
    params = jax.tree.map(jnp.zeros_like, jax.jit(model.init)(rng.root(0), jnp.zeros((1, *_SHAPE)))["params"])
    tx = optax.sgd(0.5)
    step = jax.jit(make_train_step(_loss_of(model), tx))
    batch = _batch(np.asarray(images, np.float32))
    state, _ = step(init_state(params, tx, rng.root(0)), batch)
    np.testing.assert_allclose(state.params["decoder_0"]["bias"], mean, atol=1e-6)
    state, metrics = step(state, batch)
    assert float(metrics["loss"]) == pytest.approx(4.69328, rel=2e-6)
    assert float(metrics["grad_norm"]) < 1e-5
