"""Encoders, decoders and the VAE: shapes, parameter counts, ranges and the sampler of q(z|x)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from gen_jax import rng
from gen_jax.families.vae import models

_LIKELIHOODS = [
    ("bernoulli", "pixel", {"logits"}),
    ("gaussian", "pixel", {"mean", "log_var"}),
    ("gaussian", "scalar", {"mean", "log_var"}),
    ("gaussian", "fixed", {"mean", "log_var"}),
    ("discretized_logistic", "pixel", {"mean", "log_scale"}),
]


def _model(network: str, shape: tuple[int, int, int], likelihood: str, variance: str, **kwargs: Any) -> models.VAE:
    height, width, channels = shape
    outputs = (height, width, channels * models.outputs_per_channel(likelihood, variance))
    if network == "mlp":
        encoder, decoder = models.MLPEncoder(5, (7,)), models.MLPDecoder(outputs, (7,))
    else:
        encoder, decoder = models.ConvEncoder(5, (4, 6), 7), models.ConvDecoder(outputs, (4, 6), 7)
    return models.VAE(encoder, decoder, likelihood, variance, **kwargs)


def _count(model: models.VAE, shape: tuple[int, int, int]) -> int:
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *shape)))["params"]
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("network", ["mlp", "conv"])
@pytest.mark.parametrize("shape", [(28, 28, 1), (32, 32, 3)])
@pytest.mark.parametrize(("likelihood", "variance", "names"), _LIKELIHOODS)
def test_shapes(network: str, shape: tuple[int, int, int], likelihood: str, variance: str, names: set[str]):
    """Codes are [B, d]; each parameter of the likelihood is [B, H, W, C], a shared variance [B, 1, 1, 1]."""
    model = _model(network, shape, likelihood, variance)
    x = jnp.zeros((3, *shape))
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    mean, log_var = jax.eval_shape(lambda v, x: model.apply(v, x, method="encode"), variables, x)
    assert mean.shape == log_var.shape == (3, 5)
    outputs = jax.eval_shape(lambda v, z: model.apply(v, z, method="decode"), variables, mean)
    assert set(outputs) == names
    for name, array in outputs.items():
        shared = name == "log_var" and variance != "pixel"
        assert array.shape == ((3, 1, 1, 1) if shared else (3, *shape))
        assert array.dtype == jnp.float32


def test_parameter_count_of_aevb():
    """The paper's MLP, 784-500-20 with a Gaussian encoder and a Bernoulli decoder."""
    model = models.VAE(models.MLPEncoder(20, (500,)), models.MLPDecoder((28, 28, 1), (500,)))
    assert _count(model, (28, 28, 1)) == 815_824


def test_parameter_count_of_iwae():
    """The one-layer network of Burda et al.: 50 codes and two layers of 200 on either side."""
    model = models.VAE(models.MLPEncoder(50, (200, 200)), models.MLPDecoder((28, 28, 1), (200, 200)))
    assert _count(model, (28, 28, 1)) == 425_284


def test_scalar_variance_is_one_parameter():
    """A learned shared variance costs one number more than a fixed one; a pixel's own doubles the last layer."""
    shape = (4, 4, 1)
    fixed, scalar, pixel = (_count(_model("mlp", shape, "gaussian", v), shape) for v in ("fixed", "scalar", "pixel"))
    assert scalar == fixed + 1
    assert pixel == fixed + (7 + 1) * 16


def test_no_hidden_layers_are_affine_maps():
    """With hidden=() the encoder's two outputs and the decoder are affine in their inputs."""
    model = models.VAE(
        models.MLPEncoder(2, ()), models.MLPDecoder((2, 2, 1), ()), "gaussian", "scalar", squash_mean=False
    )
    x = jnp.asarray(np.random.default_rng(0).standard_normal((3, 2, 2, 1)), jnp.float32)
    params = jax.jit(model.init)(jax.random.key(0), x)["params"]
    weights = jax.tree.map(np.asarray, params)
    encoder, decoder = weights["encoder"], weights["decoder"]["Dense_0"]
    apply = jax.jit(model.apply, static_argnames="method")
    mean, log_var = apply({"params": params}, x, method="encode")
    flat = np.asarray(x).reshape(3, 4)
    np.testing.assert_allclose(mean, flat @ encoder["mean"]["kernel"] + encoder["mean"]["bias"], atol=1e-6)
    np.testing.assert_allclose(log_var, flat @ encoder["log_var"]["kernel"] + encoder["log_var"]["bias"], atol=1e-6)
    decoded = apply({"params": params}, mean, method="decode")["mean"]
    expected = np.asarray(mean) @ decoder["kernel"] + decoder["bias"]
    np.testing.assert_allclose(decoded.reshape(3, 4), expected, atol=1e-6)


@pytest.mark.parametrize(("likelihood", "variance", "names"), _LIKELIHOODS)
def test_means_lie_in_the_unit_interval(likelihood: str, variance: str, names: set[str]):
    """However far a code lies, the picture is in [0, 1] and the Gaussian's squashed mean too; nothing is NaN."""
    del names
    shape = (4, 4, 1)
    model = _model("mlp", shape, likelihood, variance)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, *shape)))["params"]
    params = jax.tree.map(lambda a: 50.0 * a, params)
    z = 100.0 * jnp.asarray(np.random.default_rng(1).standard_normal((20, 5)), jnp.float32)
    outputs = jax.jit(lambda p: model.apply({"params": p}, z, method="decode"))(params)
    picture = np.asarray(jax.jit(models.image_mean)(outputs))
    assert picture.shape == (20, *shape)
    assert picture.min() >= 0.0
    assert picture.max() <= 1.0
    assert picture.max() - picture.min() > 0.9
    assert all(np.isfinite(a).all() for a in outputs.values())
    if likelihood == "gaussian":
        assert float(outputs["mean"].min()) >= 0.0
        assert float(outputs["mean"].max()) <= 1.0
    if likelihood == "discretized_logistic":
        assert float(outputs["log_scale"].min()) >= -8.0


def test_unsquashed_mean_is_the_decoders_number():
    """squash_mean=False leaves the mean as it is, outside of [0, 1] too; squash_mean=True is its sigmoid."""
    shape = (2, 2, 1)
    plain = _model("mlp", shape, "gaussian", "fixed", squash_mean=False)
    squashed = _model("mlp", shape, "gaussian", "fixed", squash_mean=True)
    params = jax.jit(plain.init)(jax.random.key(0), jnp.zeros((1, *shape)))["params"]
    z = 5.0 * jnp.asarray(np.random.default_rng(2).standard_normal((9, 5)), jnp.float32)
    raw, found = (
        jax.jit(lambda p, m=m: m.apply({"params": p}, z, method="decode"))(params)["mean"] for m in (plain, squashed)
    )
    raw = np.asarray(raw, np.float64)
    assert raw.min() < 0
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-raw)), rtol=1e-5)


@pytest.mark.parametrize("std", [0.5, 1.0, 2.0])
def test_fixed_variance(std: float):
    """The fixed variance is the square of `fixed_std`, for every code."""
    model = _model("mlp", (2, 2, 1), "gaussian", "fixed", fixed_std=std)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 2, 2, 1)))
    log_var = jax.jit(lambda v: model.apply(v, jnp.ones((3, 5)), method="decode"))(variables)["log_var"]
    np.testing.assert_allclose(np.exp(log_var), std**2, rtol=1e-6)


def test_scalar_variance_is_the_parameter():
    """The learned shared variance is the parameter `log_var`, 0 at first, and it has a gradient."""
    model = _model("mlp", (2, 2, 1), "gaussian", "scalar")
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 2, 2, 1)))["params"]
    assert float(params["log_var"]) == 0.0

    @jax.jit
    def total(params: Any) -> jax.Array:
        return jnp.sum(model.apply({"params": params}, jnp.ones((3, 5)), method="decode")["log_var"])

    moved = params | {"log_var": jnp.asarray(-1.5)}
    assert float(total(moved)) == pytest.approx(-4.5)
    assert float(jax.grad(total)(params)["log_var"]) == 3.0


def test_logistic_mean_and_scale():
    """At raw 0 the mean is ½ and the scale about e^−2; far below 0 the scale stops at e^−8."""
    model = _model("mlp", (1, 1, 1), "discretized_logistic", "pixel")
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 1, 1, 1)))["params"]
    params = jax.tree.map(jnp.zeros_like, params)
    decode = jax.jit(lambda variables: model.apply(variables, jnp.zeros((1, 5)), method="decode"))

    def scale(raw: float) -> float:
        bias = jnp.array([0.25, raw])
        decoder = params["decoder"] | {"Dense_1": params["decoder"]["Dense_1"] | {"bias": bias}}
        outputs = decode({"params": params | {"decoder": decoder}})
        assert float(outputs["mean"][0, 0, 0, 0]) == 0.75
        return float(outputs["log_scale"][0, 0, 0, 0])

    assert scale(0.0) == pytest.approx(-2.0, abs=0.01)
    assert scale(-1000.0) == pytest.approx(-8.0)
    assert scale(100.0) == pytest.approx(98.0)


def test_reparameterized_samples_have_the_laws_moments():
    """Z = μ + σ ε has the mean μ and the covariance diag σ², each within 4 standard errors."""
    count = 100_000
    mean, log_var = jnp.array([0.5, -2.0]), jnp.array([0.4, -1.5])
    keys = rng.per_example(rng.root(0), np.arange(count))
    z = np.asarray(jax.jit(jax.vmap(models.reparameterize, (0, None, None)))(keys, mean, log_var), np.float64)
    std = np.exp(0.5 * np.asarray(log_var, np.float64))
    eps = (z - np.asarray(mean)) / std
    assert np.abs(eps.mean(0)).max() < 4 / np.sqrt(count)
    assert np.abs((eps**2).mean(0) - 1).max() < 4 * np.sqrt(2 / count)
    assert abs((eps[:, 0] * eps[:, 1]).mean()) < 4 / np.sqrt(count)


def test_reparameterized_gradients():
    """dz/dμ = 1 and dz/d log σ² = (z − μ) / 2, so that gradients reach the encoder through the sample."""
    mean, log_var = jnp.array([0.5, -2.0]), jnp.array([0.4, -1.5])
    key = jax.random.key(3)
    z = models.reparameterize(key, mean, log_var)
    draw = lambda m, v: models.reparameterize(jax.random.key(3), m, v)  # noqa: E731
    by_mean, by_log_var = jax.jit(jax.jacobian(draw, argnums=(0, 1)))(mean, log_var)
    np.testing.assert_allclose(by_mean, np.eye(2), atol=1e-7)
    np.testing.assert_allclose(by_log_var, np.diag((z - mean) / 2), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("log_scale", [-8.0, -4.0, -1.0, 1.0, 5.0, 15.0, 40.0, 100.0])
def test_picture_of_each_likelihood(log_scale: float):
    """The Bernoulli's is P(x = 1), the Gaussian's its mean cut to [0, 1], the logistic's E[clip(x, 0, 1)].

    The last is ∫_0^1 P(x > t) dt, from the sharpest scale to one so wide that it is ½.
    """
    mean = np.array([-3.0, -0.05, 0.0, 0.3, 0.5, 0.98, 1.0, 4.0])
    image_mean = jax.jit(models.image_mean)
    binary = image_mean({"logits": jnp.asarray(mean, jnp.float32).reshape(1, 2, 4, 1)})
    np.testing.assert_allclose(np.ravel(binary), 1 / (1 + np.exp(-mean)), rtol=1e-6)
    gaussian = {"mean": jnp.asarray(mean, jnp.float32).reshape(1, 2, 4, 1), "log_var": jnp.zeros((1, 1, 1, 1))}
    np.testing.assert_allclose(np.ravel(image_mean(gaussian)), [0, 0, 0, 0.3, 0.5, 0.98, 1, 1], rtol=1e-6)
    middles = (np.arange(20_000) + 0.5) / 20_000
    above = scipy.stats.logistic.sf(middles, mean[:, None], np.exp(log_scale))
    outputs = {"mean": mean, "log_scale": np.full(8, log_scale)}
    outputs = {name: jnp.asarray(a, jnp.float32).reshape(1, 2, 4, 1) for name, a in outputs.items()}
    np.testing.assert_allclose(np.ravel(image_mean(outputs)), above.mean(axis=1), atol=1e-3)


@pytest.mark.parametrize(("likelihood", "variance"), [("bernouli", "pixel"), ("gaussian", "diagonal")])
def test_unknown_names_are_refused(likelihood: str, variance: str):
    """A misspelt likelihood or variance is an error that repeats it."""
    with pytest.raises(ValueError, match="bernouli" if likelihood == "bernouli" else "diagonal"):
        _count(_model("mlp", (2, 2, 1), likelihood, variance), (2, 2, 1))
