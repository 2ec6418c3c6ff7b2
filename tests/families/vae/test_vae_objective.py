"""The objective: its terms, its reductions, its noise and its warm-up."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
import scipy.stats

from gen_jax import rng
from gen_jax.families.vae import VAE, ConvDecoder, ConvEncoder, MLPDecoder, MLPEncoder, losses, objective, objectives
from gen_jax.families.vae.models import outputs_per_channel
from gen_jax.train.state import init_state
from gen_jax.train.step import make_train_step

_SHAPE = (4, 4, 1)
_BOUNDS = ("elbo", "elbo_monte_carlo", "iwae")
# Most of this file's time is compilation; these programs run once each.
_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def _model(likelihood: str = "bernoulli", variance: str = "pixel", dropout: float = 0.0) -> VAE:
    outputs = (*_SHAPE[:2], _SHAPE[2] * outputs_per_channel(likelihood, variance))
    encoder = MLPEncoder(3, (8,), dropout=dropout)
    return VAE(encoder, MLPDecoder(outputs, (8,), dropout=dropout), likelihood, variance)


@functools.lru_cache
def _params(model: VAE) -> Any:
    params = _jit(model.init)(jax.random.key(0), jnp.zeros((1, *_SHAPE)))["params"]
    return jax.tree.map(lambda a: np.asarray(1.5 * a + 0.05), params)  # Away from symmetric starting values.


def _batch(count: int = 6, step: int = 0) -> dict[str, Any]:
    image = np.random.default_rng(1).integers(0, 256, (count, *_SHAPE)).astype(np.uint8)
    return {"image": image, "index": np.arange(100, 100 + count, dtype=np.uint32), "step": np.int32(step)}


@functools.lru_cache
def _compiled(model: VAE, gradient: bool = False, **options: Any) -> Any:
    """The objective `(params, seed, batch, beta) -> (loss, terms)` or its gradient, compiled once for all β."""

    def loss(params: Any, seed: Any, batch: Any, beta: Any) -> Any:
        weight = {} if options.get("bound") == "iwae" else {"beta": beta}  # It has none.
        value, (model_state, terms) = objective(params, {}, rng.root(seed), batch, model=model, **weight, **options)
        assert model_state == {}
        return value, terms

    return _jit((lambda *inputs: jax.grad(loss, has_aux=True)(*inputs)[0]) if gradient else loss)


def _loss(model: VAE, batch: dict[str, Any], beta: float = 1.0, **options: Any) -> tuple[float, dict[str, float]]:
    value, terms = _compiled(model, **options)(_params(model), 3, batch, beta)
    return float(value), {name: float(term) for name, term in terms.items()}


@pytest.mark.parametrize(
    ("bound", "likelihood", "variance"),
    [
        ("elbo", "bernoulli", "pixel"),
        ("elbo_monte_carlo", "bernoulli", "pixel"),
        ("iwae", "bernoulli", "pixel"),
        pytest.param("elbo", "gaussian", "pixel", marks=pytest.mark.slow),
        ("iwae", "gaussian", "scalar"),
        ("elbo", "discretized_logistic", "pixel"),
    ],
)
def test_loss_is_made_of_its_terms(bound: str, likelihood: str, variance: str):
    """With one sample −loss = bound = log_likelihood − β kl, whichever bound and likelihood."""
    model = _model(likelihood, variance)
    beta = 1.0 if bound == "iwae" else 0.7
    loss, terms = _loss(model, _batch(), bound=bound, beta=beta)
    assert set(terms) == {"bound", "log_likelihood", "kl", "beta"}
    assert terms["beta"] == pytest.approx(beta)
    assert -loss == pytest.approx(terms["bound"], rel=1e-6)
    assert terms["bound"] == pytest.approx(terms["log_likelihood"] - beta * terms["kl"], rel=1e-5)


def test_one_importance_sample_is_the_sampled_elbo():
    """The importance-weighted objective with k = 1 is the fully sampled ELBO."""
    model = _model()
    iwae = _loss(model, _batch(), bound="iwae")[0]
    sampled = _loss(model, _batch(), bound="elbo_monte_carlo")[0]
    assert iwae == pytest.approx(sampled, rel=1e-6)


def test_more_importance_samples_give_a_higher_bound():
    """On the same samples of an example, L_2 beats their average L_1."""
    model = _model()
    iwae = _loss(model, _batch(), bound="iwae", num_samples=2)[0]
    sampled = _loss(model, _batch(), bound="elbo_monte_carlo", num_samples=2)[0]
    assert iwae < sampled - 1e-3


def test_both_elbos_agree_in_expectation():
    """Over 20000 samples the sampled divergence of each example is the closed one within 4 standard errors."""
    model, count = _model(), 20_000
    x = jnp.asarray(_batch(4)["image"] / 255.0, jnp.float32)
    infer = _jit(functools.partial(objectives.infer, model=model, num_samples=count, dropout=False))
    mean, log_var, log_px_z, log_pz, log_qz_x = infer(_params(model), rng.root(0), x, jnp.arange(4))
    assert log_px_z.shape == log_pz.shape == log_qz_x.shape == (4, count)
    for example in range(4):
        sampled = np.asarray(log_qz_x[example] - log_pz[example], np.float64)
        closed = float(losses.elbo(log_px_z[example], mean[example], log_var[example])[1]["kl"])
        error = sampled.std() / np.sqrt(count)
        assert 0 < error < 0.1 * closed
        assert abs(sampled.mean() - closed) < 4 * error


def test_divergence_of_the_prior_from_itself_is_zero():
    """Where q(z|x) is the prior both forms of the divergence vanish for every sample, not only on average."""
    model = _model()
    params = _params(model)
    params = params | {"encoder": jax.tree.map(np.zeros_like, params["encoder"])}
    for bound in ("elbo", "elbo_monte_carlo"):
        loss, terms = _compiled(model, bound=bound)(params, 0, _batch(), 1.0)
        assert abs(float(terms["kl"])) < 1e-6
        assert float(loss) == pytest.approx(-float(terms["log_likelihood"]), rel=1e-6)


@pytest.mark.parametrize("bound", _BOUNDS)
def test_a_doubled_batch_has_the_same_loss(bound: str):
    """The loss is a mean over examples: a batch followed by its copy, indices and all, changes nothing."""
    model, batch = _model(), _batch()
    doubled = batch | {name: np.concatenate([batch[name]] * 2) for name in ("image", "index")}
    once, terms = _loss(model, batch, bound=bound)
    twice, doubled_terms = _loss(model, doubled, bound=bound)
    assert twice == pytest.approx(once, rel=1e-6)
    assert doubled_terms == pytest.approx(terms, rel=1e-6)


def test_a_batch_is_the_mean_of_its_parts():
    """Halves of a batch, with their own indices, average to the whole: the noise belongs to the example."""
    model, batch = _model(dropout=0.3), _batch(6)
    whole = _loss(model, batch, num_samples=2)[0]
    parts = [batch | {name: batch[name][part] for name in ("image", "index")} for part in (slice(0, 3), slice(3, 6))]
    assert np.mean([_loss(model, part, num_samples=2)[0] for part in parts]) == pytest.approx(whole, rel=1e-6)
    moved = batch | {"index": batch["index"] + 1}
    assert _loss(model, moved, num_samples=2)[0] != pytest.approx(whole, rel=1e-4)


def test_noise_differs_between_examples_steps_and_samples():
    """Equal images get different codes by their index, by the step's key and by the sample's number."""
    model = _model()
    x = jnp.full((3, *_SHAPE), 0.5)
    infer = _jit(functools.partial(objectives.infer, model=model, num_samples=4, dropout=False))
    first, again, later = (
        np.asarray(infer(_params(model), rng.at_step(rng.root(0), step), x, jnp.arange(3))[3]) for step in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert np.unique(np.concatenate([first.ravel(), later.ravel()])).size == 24


def _log_p_by_scipy(x: Any, outputs: dict[str, Any]) -> np.ndarray:
    """The log-probability of each pixel's level, in nats, from the decoder's numbers; in float64."""
    x, outputs = np.asarray(x, np.float64), {name: np.asarray(a, np.float64) for name, a in outputs.items()}
    if "logits" in outputs:
        return scipy.stats.bernoulli.logpmf(x, scipy.special.expit(outputs["logits"]))
    if "log_var" in outputs:
        return scipy.stats.norm.logpdf(x, outputs["mean"], np.exp(0.5 * outputs["log_var"])) - np.log(256)
    law = scipy.stats.logistic(outputs["mean"], np.exp(outputs["log_scale"]))
    upper, lower = np.where(x == 1, np.inf, x + 1 / 510), np.where(x == 0, -np.inf, x - 1 / 510)
    # The difference of two small numbers, above the mean that of what lies beyond.
    large, small = np.where(
        x > outputs["mean"], (law.logsf(lower), law.logsf(upper)), (law.logcdf(upper), law.logcdf(lower))
    )
    return large + np.log1p(-np.exp(small - large))


@pytest.mark.parametrize("bound", ["elbo", "iwae"])
@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian", "discretized_logistic"])
def test_loss_is_in_nats_summed_over_pixels(likelihood: str, bound: str):
    """The loss, from the networks' numbers at two sampled codes an example and scipy's densities.

    log p(x|z) is a sum over pixels. The ELBO takes the mean of it over the codes and β times the divergence off, the
    importance-weighted bound is the logarithm of the mean weight.
    """
    model = _model(likelihood)
    params, batch, beta = _params(model), _batch(), 0.7
    loss, terms = _loss(model, batch, beta=beta, bound=bound, num_samples=2)
    keys = rng.per_example(rng.stream(rng.root(3), "observe"), batch["index"])
    x = _jit(jax.vmap(lambda k, v: objectives.observe(k, v, likelihood, "dynamic")))(keys, batch["image"])
    apply = jax.jit(model.apply, static_argnames="method")
    mean, log_var = (np.asarray(a, np.float64) for a in apply({"params": params}, x, method="encode"))
    posterior_keys = rng.per_example(rng.stream(rng.root(3), "posterior"), batch["index"])
    draw = jax.vmap(lambda key, i: jax.random.normal(jax.random.fold_in(key, i), (3,)), (0, None))
    noise = np.asarray(_jit(jax.vmap(draw, (None, 0)))(posterior_keys, jnp.arange(2)))
    z = mean + np.exp(0.5 * log_var) * noise  # [2, B, 3]
    outputs = [apply({"params": params}, jnp.float32(code), method="decode") for code in z]
    log_px_z = np.stack([_log_p_by_scipy(x, found).sum((1, 2, 3)) for found in outputs])
    assert terms["log_likelihood"] == pytest.approx(log_px_z.mean(), rel=1e-5)
    if bound == "elbo":
        kl = 0.5 * np.sum(mean**2 + np.exp(log_var) - 1 - log_var, axis=1)
        assert terms["kl"] == pytest.approx(kl.mean(), rel=1e-5)
        expected = log_px_z.mean() - beta * kl.mean()
    else:
        log_qz_x = scipy.stats.norm.logpdf(z, mean, np.exp(0.5 * log_var)).sum(-1)
        log_w = log_px_z + scipy.stats.norm.logpdf(z).sum(-1) - log_qz_x
        expected = np.mean(scipy.special.logsumexp(log_w, axis=0) - np.log(2))
    assert -loss == pytest.approx(expected, rel=1e-5)


def test_beta_scales_only_the_divergence():
    """loss(β) = loss(0) + β kl, with the same terms for every β."""
    model = _model()
    zero, terms = _loss(model, _batch(), beta=0.0, bound="elbo")
    assert zero == pytest.approx(-terms["log_likelihood"], rel=1e-6)
    for beta in (0.5, 1.0, 4.0):
        loss, same = _loss(model, _batch(), beta=beta, bound="elbo")
        assert loss == pytest.approx(zero + beta * terms["kl"], rel=1e-6)
        assert same["kl"] == pytest.approx(terms["kl"], rel=1e-6)


@pytest.mark.parametrize(("step", "weight"), [(0, 0.0), (1, 0.2), (5, 1.0), (10, 2.0), (11, 2.0), (10**6, 2.0)])
def test_warm_up_weight(step: int, weight: float):
    """The divergence's weight rises linearly from 0 at step 0 to β at the last warm-up step, and stays there."""
    loss, terms = _loss(_model(), _batch(step=step), beta=2.0, bound="elbo", kl_warmup_steps=10)
    assert terms["beta"] == pytest.approx(weight, rel=1e-6, abs=1e-9)
    assert loss == pytest.approx(-terms["log_likelihood"] + weight * terms["kl"], rel=1e-6)


@pytest.mark.parametrize("bound", ["elbo", "elbo_monte_carlo"])
def test_warm_up_starts_without_the_divergence(bound: str):
    """At step 0 the gradient is the reconstruction's alone; at the end of the warm-up it is the full one."""
    model = _model()

    def gradient(step: int, beta: float = 1.0, **options: Any) -> Any:
        return _compiled(model, True, bound=bound, **options)(_params(model), 3, _batch(step=step), beta)

    def distance(a: Any, b: Any) -> float:
        return float(optax.tree.norm(jax.tree.map(jnp.subtract, a, b)))

    start, end = gradient(0, kl_warmup_steps=10), gradient(10, kl_warmup_steps=10)
    reconstruction, full = gradient(0, beta=0.0), gradient(0, beta=1.0)
    assert distance(start, reconstruction) < 1e-5
    assert distance(end, full) < 1e-5
    assert distance(reconstruction, full) > 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bound": "iwae", "beta": 2.0}, "beta must be 1"),
        ({"bound": "iwae", "kl_warmup_steps": 10}, "without warm-up"),
        ({"bound": "elbow"}, "elbow"),
        ({"binarization": "static"}, "static"),
    ],
)
def test_refuses_what_it_cannot_do(options: dict[str, Any], message: str):
    """The importance-weighted bound has no divergence to weigh, and unknown names are errors that repeat them."""
    model = _model()
    with pytest.raises(ValueError, match=message):
        objective(_params(model), {}, rng.root(0), _batch(), model=model, **options)


def test_dropout_only_when_asked():
    """With dropout=False a model with dropout has the loss of the same model without it; with True another."""
    with_dropout, without = _model(dropout=0.5), _model(dropout=0.0)
    plain = _loss(without, _batch(), bound="elbo")[0]
    assert _loss(with_dropout, _batch(), dropout=False)[0] == pytest.approx(plain, rel=1e-6)
    assert abs(_loss(with_dropout, _batch(), dropout=True)[0] - plain) > 1e-3


def test_no_key_is_used_twice():
    """Under JAX's key-reuse check the objective with dropout and several samples runs; a real reuse is caught."""
    model, batch = _model(dropout=0.3), _batch()
    with jax.debug_key_reuse(True):
        assert np.isfinite(_loss(model, batch, num_samples=2)[0])
        key = rng.root(1)
        jax.random.normal(key)
        with pytest.raises(jax.errors.KeyReuseError):
            jax.random.normal(key)


@pytest.mark.parametrize(
    ("binarization", "values"), [("dynamic", {0.0, 1.0}), ("threshold", {0.0, 1.0}), ("none", {100 / 255, 200 / 255})]
)
def test_what_the_bernoulli_observes(binarization: str, values: set[float]):
    """Binary pixels, drawn anew or thresholded, or the grey levels; the other likelihoods ignore the choice."""
    image = np.concatenate([np.full((8, 16, 1), 100, np.uint8), np.full((8, 16, 1), 200, np.uint8)])
    x = objectives.observe(jax.random.key(0), image, "bernoulli", binarization)
    assert x.shape == image.shape
    np.testing.assert_allclose(sorted(np.unique(x)), sorted(values), rtol=1e-6)
    if binarization == "threshold":
        np.testing.assert_array_equal(x, image > 127)
    levels = objectives.observe(jax.random.key(0), image, "discretized_logistic", binarization)
    np.testing.assert_allclose(levels, image / 255, rtol=1e-6)
    dequantized = objectives.observe(jax.random.key(0), image, "gaussian", binarization)
    np.testing.assert_array_equal(np.floor(dequantized * 256), image)
    assert np.unique(dequantized).size > 200


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian", "discretized_logistic"])
def test_every_likelihood_is_scipys(likelihood: str):
    """Of levels, in nats, summed over pixels and channels; the Gaussian's density with one variance for all of them."""
    random = np.random.default_rng(2)
    levels = random.integers(0, 256, (4, 5, 3)) * np.array([0, 1, 1])  # The ends of the scale are there.
    levels[0] = 255
    x, first, second = levels / 255, random.normal(0.5, 0.4, levels.shape), random.normal(-1.5, 0.5, levels.shape)
    if likelihood == "bernoulli":
        x, outputs = np.round(x), {"logits": 4 * first}
    elif likelihood == "gaussian":
        x, outputs = (levels + random.random(levels.shape)) / 256, {"mean": first, "log_var": second[:1, :1, :1]}
    else:
        outputs = {"mean": first, "log_scale": second}
    expected = np.broadcast_to(_log_p_by_scipy(x, outputs), x.shape).sum()
    found = losses.log_likelihood(jnp.float32(x), {name: jnp.float32(a) for name, a in outputs.items()})
    assert found.shape == ()
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_float64_gradient_by_finite_differences():
    """The objective's gradient along a random direction is its finite difference, through noise and networks."""
    with jax.enable_x64(True):
        model = _model()
        params = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), _params(model))
        random = np.random.default_rng(7)
        direction = jax.tree.map(lambda a: jnp.asarray(random.standard_normal(a.shape)), params)
        batch = jax.tree.map(jnp.asarray, _batch())

        def loss(t: jax.Array) -> jax.Array:
            moved = jax.tree.map(lambda a, d: a + t * d, params, direction)
            key = jax.random.key(0)
            return objective(moved, {}, key, batch, model=model, bound="iwae", num_samples=3, binarization="none")[0]

        values, slopes = _jit(jax.vmap(jax.value_and_grad(loss)))(jnp.array([-1e-5, 0.0, 1e-5]))
        assert values.dtype == slopes.dtype == jnp.float64
        assert float(slopes[1]) == pytest.approx(float(values[2] - values[0]) / 2e-5, rel=1e-6)


def test_convolutional_vae_learns_one_batch_in_bfloat16():
    """The whole objective in a train step of mixed precision lowers its loss on a repeated batch."""
    shape = (8, 8, 1)
    outputs = (8, 8, outputs_per_channel("discretized_logistic", "pixel"))
    encoder, decoder = ConvEncoder(2, (4,), 8, dropout=0.1), ConvDecoder(outputs, (4,), 8)
    model = VAE(encoder, decoder, "discretized_logistic")
    tx = optax.adam(3e-3)
    params = _jit(model.init)(jax.random.key(0), jnp.zeros((1, *shape)))["params"]
    image = np.zeros((40, 8, *shape), np.uint8)
    image[:, :, 2:6, 3:5] = 255
    index = np.arange(320, dtype=np.uint32).reshape(40, 8)
    loss = functools.partial(objective, model=model)
    step = make_train_step(loss, tx, compute_dtype=jnp.bfloat16, steps_per_call=40)
    state, metrics = _jit(step)(init_state(params, tx, rng.root(0)), {"image": image, "index": index})
    assert np.isfinite(metrics["loss"]).all()
    assert metrics["loss"].dtype == jnp.float32
    assert float(metrics["loss"][-5:].mean()) < 0.8 * float(metrics["loss"][:5].mean())
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(state.params)} == {"float32"}
