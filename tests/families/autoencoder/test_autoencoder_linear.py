"""Linear autoencoders trained by the shipped parts, against optima that are known in closed form.

Principal components ("Neural Networks and Principal Component Analysis", Baldi and Hornik, 1989), soft-thresholded ones
("Loss Landscapes of Regularized Linear Autoencoders", Kunin et al., 2019), and the filter of Wiener for noisy inputs.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.linalg

from gen_jax import rng
from gen_jax.families.autoencoder import (
    MLPAutoencoder,
    contractive_objective,
    denoising_objective,
    objective,
    sparse_objective,
)
from gen_jax.families.autoencoder.objectives import errors_of
from gen_jax.nn.precision import apply_in_param_dtype
from gen_jax.train.state import init_state
from gen_jax.train.step import make_train_step

_SPECTRUM = 2.0 ** np.arange(2, -6, -1)  # 4, 2, 1, …, 1/32.
_SHAPE = (1, 1, 8)


def _linear(latent_dim: int, tied: bool = False) -> MLPAutoencoder:
    return MLPAutoencoder(_SHAPE, (latent_dim,), output="linear", tied=tied)


def _points() -> np.ndarray:
    """Sixteen points [16, 8] with mean 0 and covariance exactly diag(4, 2, …, 1/32)."""
    points = np.sqrt(8 * _SPECTRUM) * np.eye(8)
    return np.concatenate([points, -points])


def _batch(points: np.ndarray) -> dict[str, np.ndarray]:
    """The points as what the objectives take for grey levels, which they divide by 255."""
    return {"image": 255 * points.reshape(-1, *_SHAPE), "index": np.arange(len(points), dtype=np.uint32)}


def _train(loss: Any, model: Any, batch: Any, *, num_steps: int = 3000, seed: int = 0) -> tuple[Any, dict[str, float]]:
    """Parameters and last metrics, in float64, of the shipped train step on one batch; Adam's steps fall to 0."""
    with jax.enable_x64(True):
        params = jax.jit(model.init)(rng.root(seed), jnp.zeros((1, *_SHAPE)))["params"]
        params = jax.tree.map(lambda a: a.astype(jnp.float64), params)
        tx = optax.adam(optax.cosine_decay_schedule(0.03, num_steps))
        step = make_train_step(loss, tx)

        def run(state: Any, batch: Any) -> Any:
            return jax.lax.scan(lambda state, _: step(state, batch), state, length=num_steps)

        state, metrics = jax.jit(run)(init_state(params, tx, rng.root(seed + 1)), batch)
        assert metrics["loss"].dtype == jnp.float64
        return jax.tree.map(np.asarray, state.params), {name: float(value[-1]) for name, value in metrics.items()}


def _kernels(params: Any, tied: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """W₁ [q, 8] and W₂ [8, q], as they stand before a column x."""
    encoder = params["encoder_0"]["kernel"].T
    return encoder, encoder.T if tied else params["decoder_0"]["kernel"].T


@pytest.mark.parametrize(
    ("size", "residual", "kind"),
    [
        (1, 3.96875, "untied"),
        (2, 1.96875, "untied"),
        (3, 0.96875, "untied"),
        (4, 0.46875, "untied"),
        (1, 3.96875, "tied"),
        (2, 1.96875, "tied"),
        (3, 0.96875, "tied"),
        (4, 0.46875, "tied"),
        (3, 0.96875, "k_sparse"),
    ],
)
def test_reaches_the_principal_components(size: int, residual: float, kind: str):
    """The residual is the sum of the eigenvalues left out, and both layers span the principal subspace.

    A k-sparse code of k units with k kept is a linear code.
    """
    model = _linear(size, kind == "tied")
    loss = functools.partial(objective, model=model, error="squared_error")
    if kind == "k_sparse":
        loss = functools.partial(sparse_objective, model=model, sparsity="k_sparse", k=size, k_start=size)
    params, metrics = _train(loss, model, _batch(_points()))
    assert residual == _SPECTRUM[size:].sum()
    assert metrics["reconstruction"] == pytest.approx(residual, rel=1e-6)
    assert metrics["loss"] == metrics["reconstruction"]
    encoder, decoder = _kernels(params, kind == "tied")
    assert scipy.linalg.subspace_angles(encoder.T, np.eye(8)[:, :size]).max() < 1e-3
    assert scipy.linalg.subspace_angles(decoder, np.eye(8)[:, :size]).max() < 1e-3
    np.testing.assert_allclose(decoder @ encoder, np.diag(np.arange(8) < size), atol=1e-3)  # A projection, moreover.


def test_l2_shrinks_every_mode():
    """W₂ W₁ = diag((1 − μ / λ)₊), μ = 0.3, from untied weights that end as each other's transposes."""
    mu, model = 0.3, _linear(8)
    loss = functools.partial(objective, model=model, error="squared_error", l2=mu)
    params, metrics = _train(loss, model, _batch(_points()))
    kept = np.maximum(1 - mu / _SPECTRUM, 0)
    np.testing.assert_allclose(kept[:5], [0.925, 0.85, 0.70, 0.40, 0.0], atol=1e-12)
    encoder, decoder = _kernels(params)
    np.testing.assert_allclose(decoder @ encoder, np.diag(kept), atol=1e-5)
    np.testing.assert_allclose(encoder, decoder.T, atol=1e-5)
    assert metrics["reconstruction"] == pytest.approx(np.sum(_SPECTRUM * (1 - kept) ** 2), rel=1e-5)
    assert metrics["l2"] == pytest.approx(2 * kept.sum(), rel=1e-5)
    assert metrics["loss"] == pytest.approx(metrics["reconstruction"] + mu * metrics["l2"], rel=1e-12)


def test_contraction_shrinks_every_mode():
    """With tied weights W₂ W₁ = diag(w²), w² = (1 − μ / 2λ)₊, μ = 0.3: 0.85 for λ = 1, and 0 for λ ≤ 0.15."""
    mu, model = 0.3, _linear(8, tied=True)
    loss = functools.partial(
        contractive_objective, model=model, weight=mu, contraction="jacobian", error="squared_error"
    )
    params, metrics = _train(loss, model, _batch(_points()))
    kept = np.maximum(1 - mu / (2 * _SPECTRUM), 0)
    np.testing.assert_allclose(kept, [0.9625, 0.925, 0.85, 0.7, 0.4, 0.0, 0.0, 0.0], atol=1e-12)
    encoder, decoder = _kernels(params, tied=True)
    np.testing.assert_allclose(decoder @ encoder, np.diag(kept), atol=1e-5)
    assert metrics["contraction"] == pytest.approx(kept.sum(), rel=1e-5)  # ‖J‖² = ‖W‖².
    assert metrics["loss"] == pytest.approx(np.sum(_SPECTRUM * (1 - kept) ** 2) + mu * kept.sum(), rel=1e-6)


def _exact_denoising_loss(params: Any, model_state: Any, key: Any, batch: Any, *, model: Any, variance: float) -> Any:
    """The expected error, whose noise is the 16 points ±√8 σ e_j: exact for a linear model, quadratic in the noise."""
    del key
    x = jnp.asarray(batch["image"]).reshape(-1, 8) / 255
    steps = np.sqrt(8 * variance) * np.eye(8)
    noise = jnp.asarray(np.concatenate([steps, -steps]))
    corrupted = (x[:, None] + noise[None]).reshape(-1, *_SHAPE)
    z = apply_in_param_dtype(model, params, corrupted, method="encode")
    raw = apply_in_param_dtype(model, params, z, method="decode")
    clean = jnp.repeat(x, len(noise), axis=0).reshape(-1, *_SHAPE)
    return jnp.mean(errors_of(clean, raw, model.output, "squared_error")), (model_state, {})


@pytest.mark.parametrize(("variance", "expected"), [(0.1, 0.556297), (0.5, 1.779412), (1.0, 2.700238)])
def test_denoising_is_the_wiener_filter(variance: float, expected: float):
    """The learned map is Λ (Λ + σ² I)⁻¹ and its error Σ λ σ² / (λ + σ²)."""
    model = _linear(8)
    loss = functools.partial(_exact_denoising_loss, model=model, variance=variance)
    params, metrics = _train(loss, model, _batch(_points()))
    assert np.sum(_SPECTRUM * variance / (_SPECTRUM + variance)) == pytest.approx(expected, abs=6e-7)
    assert metrics["loss"] == pytest.approx(expected, abs=2e-6)
    encoder, decoder = _kernels(params)
    np.testing.assert_allclose(decoder @ encoder, np.diag(_SPECTRUM / (_SPECTRUM + variance)), atol=1e-5)


def test_sampled_noise_has_the_expected_loss_and_no_slope_at_the_optimum():
    """At Λ (Λ + σ² I)⁻¹ the shipped objective's loss and gradient are 1.779412 and 0 within 4 standard errors."""
    model, variance = _linear(8), 0.5
    params = {
        "encoder_0": {"kernel": jnp.diag(jnp.asarray(_SPECTRUM / (_SPECTRUM + variance))), "bias": jnp.zeros(8)},
        "decoder_0": {"kernel": jnp.eye(8), "bias": jnp.zeros(8)},
    }
    params = jax.tree.map(lambda a: a.astype(jnp.float32), params)
    points = np.tile(_points(), (32, 1))
    loss = functools.partial(
        denoising_objective, model=model, corruption="gaussian", level=variance**0.5, error="squared_error"
    )
    gradient = jax.value_and_grad(lambda params, key: loss(params, {}, key, _batch(points))[0])
    keys = jax.vmap(lambda step: rng.at_step(rng.root(0), step))(jnp.arange(400))
    values, slopes = jax.jit(lambda keys: jax.lax.map(lambda key: gradient(params, key), keys))(keys)

    def mean_and_error(samples: Any) -> tuple[np.ndarray, np.ndarray]:
        samples = np.asarray(samples, np.float64)
        return samples.mean(0), samples.std(0, ddof=1) / np.sqrt(len(samples))

    mean, error = mean_and_error(values)
    assert error < 0.004
    assert abs(mean - 1.779412) < 4 * error
    for name in ("encoder_0", "decoder_0"):
        mean, error = mean_and_error(slopes[name]["kernel"])
        assert error.max() < 0.02
        assert (np.abs(mean) < 4.5 * error + 1e-6).all()  # 64 entries each: 4.5 for the largest of them.


def test_training_on_sampled_noise_reaches_the_wiener_filter():
    """With noise drawn by the shipped objective the map's true error ends within 0.05 % of the least there is."""
    model, variance, num_steps = _linear(8), 0.5, 3000
    loss = functools.partial(
        denoising_objective, model=model, corruption="gaussian", level=variance**0.5, error="squared_error"
    )
    params, _ = _train(loss, model, _batch(np.tile(_points(), (16, 1))), num_steps=num_steps)
    encoder, decoder = _kernels(params)
    learned = decoder @ encoder
    bias = decoder @ params["encoder_0"]["bias"] + params["decoder_0"]["bias"]
    missed = (np.eye(8) - learned) ** 2 @ _SPECTRUM
    risk = missed.sum() + variance * np.sum(learned**2) + np.sum(bias**2)
    assert 1.779412 - 1e-6 < risk < 1.779412 * 1.0005
