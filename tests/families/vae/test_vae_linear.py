"""Linear VAEs trained by the shipped parts, against the exact optima of probabilistic PCA and of water-filling.

A linear Gaussian VAE whose q is diagonal reaches the maximum likelihood of probabilistic PCA ("Probabilistic Principal
Component Analysis", Tipping and Bishop, 1999; "Don't Blame the ELBO!", Lucas et al., 2019), and with a fixed decoder
variance s² and a weight β it is the reverse water-filling of a Gaussian source at the level β s².
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_digits

from gen_jax import rng
from gen_jax.families.vae import VAE, MLPDecoder, MLPEncoder, elbo, losses, objective, objectives
from gen_jax.nn.precision import apply_in_param_dtype
from gen_jax.ops import distributions
from gen_jax.train.state import init_state
from gen_jax.train.step import make_train_step

_SPECTRUM = 2.0 ** np.arange(2, -6, -1)  # 4, 2, 1, …, 1/32.


def _linear(latent_dim: int, shape: tuple[int, int, int], **kwargs: Any) -> VAE:
    return VAE(MLPEncoder(latent_dim, ()), MLPDecoder(shape, ()), "gaussian", squash_mean=False, **kwargs)


def _spectrum_data() -> jax.Array:
    """Sixteen points [16, 1, 1, 8] with mean 0 and covariance exactly diag(4, 2, …, 1/32)."""
    points = np.sqrt(8 * _SPECTRUM) * np.eye(8)
    return jnp.asarray(np.concatenate([points, -points]), jnp.float32).reshape(16, 1, 1, 8)


def _expected_elbo(params: Any, x: jax.Array, model: VAE, beta: Any) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Minus the mean bound with its expectation over q exact, and the mean terms `log_likelihood` and `kl`.

    Where x|z is linear, log p(x|z) is quadratic in z; its mean over q is the plain average over the 2d points
    μ ± √d σ_j e_j, which stand in for samples.
    """
    mean, log_var = apply_in_param_dtype(model, params, x, method="encode")
    count = mean.shape[-1]
    steps = jnp.sqrt(count) * jnp.exp(0.5 * log_var)[:, None] * jnp.eye(count)[None]
    z = mean[:, None] + jnp.concatenate([steps, -steps], axis=1)
    outputs = apply_in_param_dtype(model, params, z.reshape(-1, count), method="decode")
    outputs = jax.tree.map(lambda a: a.reshape(*z.shape[:2], *a.shape[1:]), outputs)
    log_px_z = jax.vmap(jax.vmap(losses.log_likelihood, (None, 0)))(x, outputs) + x[0].size * np.log(256)
    value, terms = jax.vmap(elbo, (0, 0, 0, None))(log_px_z, mean, log_var, beta)
    return -jnp.mean(value), (jnp.mean(terms["log_likelihood"]), jnp.mean(terms["kl"]))


def _minimize(model: VAE, x: jax.Array, beta: Any, seed: int, num_steps: int = 4000) -> tuple[Any, Any]:
    """Trains on the expected bound of a fixed data set; the parameters and the last terms."""
    params = model.init(rng.root(seed), x)["params"]
    tx = optax.adam(optax.cosine_decay_schedule(0.02, num_steps))

    def step(carry: Any, _: None) -> tuple[Any, None]:
        params, opt_state = carry
        gradient = jax.grad(_expected_elbo, has_aux=True)(params, x, model, beta)[0]
        updates, opt_state = tx.update(gradient, opt_state)
        return (optax.apply_updates(params, updates), opt_state), None

    (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), length=num_steps)
    return params, _expected_elbo(params, x, model, beta)


@functools.lru_cache
def _trained_on_spectrum(latent_dim: int) -> tuple[Any, float, float]:
    """Parameters, bound and mean divergence of a linear VAE of the spectrum with a learned variance."""
    model = _linear(latent_dim, (1, 1, 8), variance="scalar")
    params, (loss, (_, kl)) = jax.jit(lambda x: _minimize(model, x, 1.0, seed=0))(_spectrum_data())
    return params, -float(loss), float(kl)


@pytest.mark.parametrize(
    ("latent_dim", "nats", "kl", "variance"),
    [
        (1, -10.058549, 0.976877, 0.566964),
        (2, -9.048147, 2.154081, 0.328125),
        (3, -8.288263, 3.501501, 0.19375),
        (4, -7.756695, 4.981107, 0.1171875),
    ],
)
def test_spectrum_reaches_probabilistic_pca(latent_dim: int, nats: float, kl: float, variance: float):
    """The bound, the mean divergence and σ² are those of the closed form."""
    params, bound, found_kl = _trained_on_spectrum(latent_dim)
    assert bound == pytest.approx(nats, abs=2e-3)
    assert bound < nats + 1e-5  # No bound beats the maximum likelihood.
    assert found_kl == pytest.approx(kl, rel=5e-3)
    assert float(jnp.exp(params["log_var"])) == pytest.approx(variance, rel=5e-3)


def test_spectrum_active_units():
    """Var_x(E[z_j|x]) = 1 − σ² / λ_j for the four largest λ, each code of its own direction."""
    params, _, _ = _trained_on_spectrum(4)
    model = _linear(4, (1, 1, 8), variance="scalar")
    mean, log_var = jax.jit(lambda p: model.apply({"params": p}, _spectrum_data(), method="encode"))(params)
    covariance = np.cov(np.asarray(mean, np.float64).T, bias=True)
    expected = 1 - 0.1171875 / _SPECTRUM[:4]
    np.testing.assert_allclose(np.sort(np.diag(covariance))[::-1], expected, atol=5e-3)
    np.testing.assert_allclose(expected, [0.9707, 0.9414, 0.8828, 0.7656], atol=1e-4)
    np.testing.assert_allclose(covariance - np.diag(np.diag(covariance)), 0.0, atol=0.01)
    # The aggregate posterior is the prior: what the mean does not vary, the variance fills.
    np.testing.assert_allclose(np.diag(covariance) + np.exp(log_var).mean(0), 1.0, atol=0.01)


def test_fixed_variance_is_reverse_water_filling():
    """With s² = ¼ and β from ½ to 8 the rate and the distortion are those of the water level β s²."""
    betas = jnp.array([0.5, 1.0, 2.0, 4.0, 8.0])
    rates = [5.19860, 3.46574, 2.07944, 1.03972, 0.34657]
    distortions = [0.84375, 1.46875, 2.46875, 3.96875, 5.96875]
    level = np.asarray(betas, np.float64)[:, None] * 0.25
    np.testing.assert_allclose(0.5 * np.log(np.maximum(_SPECTRUM / level, 1)).sum(1), rates, atol=1e-5)
    np.testing.assert_allclose(np.minimum(_SPECTRUM, level).sum(1), distortions, atol=1e-5)

    model = _linear(8, (1, 1, 8), variance="fixed", fixed_std=0.5)
    x = _spectrum_data()
    train = jax.jit(jax.vmap(lambda beta: _minimize(model, x, beta, seed=1)))
    params, (loss, (log_likelihood, kl)) = train(betas)
    # log p(x|z) = −D / (2 s²) − ½ d log(2π s²), D the squared error.
    distortion = -2 * 0.25 * (np.asarray(log_likelihood, np.float64) + 4 * np.log(2 * np.pi * 0.25))
    np.testing.assert_allclose(kl, rates, atol=0.01)
    np.testing.assert_allclose(distortion, distortions, atol=0.01)
    np.testing.assert_allclose(loss, distortion / 0.5 + betas * kl + 4 * np.log(2 * np.pi * 0.25), rtol=1e-5)
    # As many codes are used as eigenvalues stand out of the water.
    means = jax.jit(jax.vmap(lambda p: model.apply({"params": p}, x, method="encode")[0]))(params)
    active = (np.asarray(means).var(axis=1) > 0.05).sum(axis=1)
    np.testing.assert_array_equal(active, [5, 4, 3, 2, 1])


@pytest.mark.slow
def test_digits_reach_probabilistic_pca():
    """Ten codes for 8x8 digits, trained on samples by the train step, reach 17.4519 nats with a KL of 12.7961.

    The optimum −½ [D log 2π + Σ log λ_j + (D − 10) log σ² + D] is computed here from the data's eigenvalues.
    """
    images = load_digits().data / 16
    eigenvalues = np.linalg.eigvalsh(np.cov(images.T, bias=True))[::-1]
    variance = eigenvalues[10:].mean()
    optimum = -0.5 * (64 * np.log(2 * np.pi) + np.log(eigenvalues[:10]).sum() + 54 * np.log(variance) + 64)
    divergence = 0.5 * np.log(eigenvalues[:10] / variance).sum()
    assert optimum == pytest.approx(17.4519, abs=1e-4)
    assert divergence == pytest.approx(12.7961, abs=1e-4)

    model = _linear(10, (8, 8, 1), variance="scalar")
    data = jnp.asarray(images, jnp.float32).reshape(-1, 8, 8, 1)

    def bound(params: Any, key: Any, index: Any, num_samples: int) -> tuple[jax.Array, jax.Array]:
        """The bound and the divergence of each example; the pixels are numbers here and not levels."""
        x = data[index]
        mean, log_var, log_px_z, _, _ = objectives.infer(
            params, key, x, index, model=model, num_samples=num_samples, dropout=False
        )
        value, terms = jax.vmap(elbo)(log_px_z + 64 * np.log(256), mean, log_var)
        return value, terms["kl"]

    def loss(params: Any, model_state: Any, key: Any, batch: Any) -> Any:
        value, _ = bound(params, key, batch["row"], 1)
        return -jnp.mean(value), (model_state, {})

    num_steps = 4000
    tx = optax.adam(optax.cosine_decay_schedule(0.01, num_steps))
    state = init_state(jax.jit(model.init)(rng.root(0), data[:1])["params"], tx, rng.root(1))
    # Runs for longer than it is compiled.
    options = {"xla_backend_optimization_level": 2, "xla_llvm_disable_expensive_passes": False}
    step = jax.jit(make_train_step(loss, tx, steps_per_call=1000), compiler_options=options)
    rows = np.random.default_rng(0).integers(0, len(images), (num_steps, 200)).astype(np.uint32)
    for part in np.split(rows, num_steps // 1000):
        state, _ = step(state, {"row": part})
    values, kls = jax.jit(functools.partial(bound, num_samples=20))(state.params, rng.root(2), jnp.arange(len(images)))
    assert float(values.mean()) == pytest.approx(optimum, abs=0.1)
    assert float(kls.mean()) == pytest.approx(divergence, rel=0.01)
    assert float(jnp.exp(state.params["log_var"])) == pytest.approx(variance, rel=0.02)


def test_a_decoder_that_ignores_the_code_has_the_marginal_likelihood():
    """With q the prior and constant logits the shipped objective on binarised digits is the pixels' own code length.

    The best factorised Bernoulli costs 24.4247 nats, 0.5506 bits a pixel: the floor that every latent model must beat.
    """
    binary = (load_digits().data / 16 > 0.5).reshape(-1, 8, 8, 1)
    p = binary.mean(0)
    entropy = -np.sum(p[p > 0] * np.log(p[p > 0])) - np.sum((1 - p[p < 1]) * np.log1p(-p[p < 1]))
    assert entropy == pytest.approx(24.4247, abs=1e-4)

    model = VAE(MLPEncoder(2, ()), MLPDecoder((8, 8, 1), ()))
    params = jax.tree.map(jnp.zeros_like, jax.jit(model.init)(rng.root(0), jnp.zeros((1, 8, 8, 1)))["params"])
    with np.errstate(divide="ignore"):
        logits = np.clip(np.log(p) - np.log1p(-p), -30, 30)  # Some pixels are never on.
    dense = params["decoder"]["Dense_0"] | {"bias": jnp.asarray(logits.ravel(), jnp.float32)}
    params = params | {"decoder": {"Dense_0": dense}}
    batch = {"image": (255 * binary).astype(np.uint8), "index": np.arange(len(binary), dtype=np.uint32)}
    for bound, num_samples in (("elbo", 1), ("iwae", 5)):
        loss, (_, terms) = jax.jit(
            functools.partial(objective, model=model, bound=bound, num_samples=num_samples, binarization="threshold")
        )(params, {}, rng.root(1), batch)
        assert float(loss) == pytest.approx(entropy, abs=2e-4)
        assert float(terms["kl"]) == pytest.approx(0.0, abs=1e-5)
        assert float(distributions.bits_per_dim(-loss, 64)) == pytest.approx(0.5506, abs=1e-4)
