"""The sparse objectives: their terms, their k by the step, and ρ̂ as the mean over the batch of all devices."""

import functools
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gen_jax import rng
from gen_jax.families.autoencoder import MLPAutoencoder, objective, sparse_objective
from gen_jax.families.autoencoder.objectives import any_images, beside_plain, code_moments, remembering_images
from gen_jax.train.parallel import Layout, to_host
from gen_jax.train.state import init_state
from gen_jax.train.step import make_train_step

_SHAPE = (4, 4, 1)
_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@functools.lru_cache
def _setup(code_activation: Any = nn.sigmoid) -> tuple[MLPAutoencoder, Any]:
    model = MLPAutoencoder(_SHAPE, (6,), code_activation=code_activation, output="linear")
    params = _jit(model.init)(rng.root(0), jnp.zeros((1, *_SHAPE)))["params"]
    return model, jax.tree.map(lambda a: 2 * np.asarray(a) + np.float32(0.05), params)


def _batch() -> dict[str, np.ndarray]:
    """32 images that grow brighter, so that the means of the parts of 8 devices differ as much as they can."""
    noise = np.random.default_rng(0).integers(0, 32, (32, *_SHAPE))
    image = (noise + 7 * np.arange(32)[:, None, None, None]).astype(np.uint8)
    return {"image": image, "index": np.arange(32, dtype=np.uint32)}


def _codes(model: MLPAutoencoder, params: Any, batch: Any) -> tuple[np.ndarray, np.ndarray]:
    """The images [32, 16] and the codes [32, 6] of one layer, by numpy."""
    x = batch["image"].reshape(32, -1) / 255
    raw = x @ np.asarray(params["encoder_0"]["kernel"], np.float64) + params["encoder_0"]["bias"]
    return x, 1 / (1 + np.exp(-raw)) if model.code_activation is nn.sigmoid else raw


def _error(params: Any, x: np.ndarray, z: np.ndarray) -> float:
    decoder = params["decoder_0"]
    return np.sum((x - z @ np.asarray(decoder["kernel"], np.float64) - decoder["bias"]) ** 2) / len(x)


def test_kl_against_numpy():
    """Loss = error + β Σ_j KL(ρ ‖ ρ̂_j), with ρ̂ the mean of the batch and not a mean of divergences."""
    model, params = _setup()
    batch = _batch() | {"step": np.int32(0)}
    loss, (model_state, terms) = _jit(
        functools.partial(sparse_objective, model=model, sparsity="kl", rho=0.1, weight=3.0)
    )(params, {}, rng.root(0), batch)
    x, z = _codes(model, params, batch)
    there = z.mean(0)
    penalty = np.sum(0.1 * np.log(0.1 / there) + 0.9 * np.log(0.9 / (1 - there)))
    assert float(terms["kl_sparsity"]) == pytest.approx(penalty, rel=1e-5)
    assert float(terms["reconstruction"]) == pytest.approx(_error(params, x, z), rel=1e-5)
    assert float(loss) == pytest.approx(_error(params, x, z) + 3 * penalty, rel=1e-5)
    assert set(terms) == {"reconstruction", "kl_sparsity"} and model_state == {}


def test_l1_against_numpy():
    """Loss = error + β (1/B) Σ_i Σ_j |z_ij|."""
    model, params = _setup(nn.tanh)
    batch = _batch() | {"step": np.int32(0)}
    loss, (_, terms) = _jit(functools.partial(sparse_objective, model=model, sparsity="l1", weight=0.2))(
        params, {}, rng.root(0), batch
    )
    x, raw = _codes(model, params, batch)
    z = np.tanh(raw)
    assert (z < 0).any()
    assert float(terms["l1_sparsity"]) == pytest.approx(np.abs(z).sum() / 32, rel=1e-5)
    assert float(loss) == pytest.approx(_error(params, x, z) + 0.2 * np.abs(z).sum() / 32, rel=1e-5)
    assert set(terms) == {"reconstruction", "l1_sparsity"}


@pytest.mark.parametrize(("step", "k"), [(0, 5), (2, 4), (4, 3), (8, 1), (100, 1)])
def test_k_sparse_against_numpy(step: int, k: int):
    """The error of what is decoded from the k largest, k falling from 5 at step 0 to 1 at step 8 and staying."""
    model, params = _setup(nn.tanh)
    batch = _batch() | {"step": np.int32(step)}
    loss, (_, terms) = _jit(
        functools.partial(sparse_objective, model=model, sparsity="k_sparse", k=1, k_start=5, anneal_steps=8)
    )(params, {}, rng.root(0), batch)
    x, raw = _codes(model, params, batch)
    z = np.tanh(raw)
    smallest = np.argsort(z, axis=1)[:, : 6 - k]
    np.put_along_axis(z, smallest, 0.0, axis=1)
    assert float(terms["k"]) == k
    assert float(loss) == pytest.approx(_error(params, x, z), rel=1e-5)
    assert float(terms["reconstruction"]) == float(loss)


def test_k_sparse_gradient_is_that_of_the_kept():
    """A unit that is kept in no example gets no gradient in its weights, in or out; the others do."""
    model, params = _setup(nn.tanh)
    never = params["encoder_0"] | {"bias": params["encoder_0"]["bias"] + np.array([0, 0, -50, 0, 0, 0], np.float32)}
    params = params | {"encoder_0": never}
    batch = _batch() | {"step": np.int32(0)}
    loss = functools.partial(sparse_objective, model=model, sparsity="k_sparse", k=5, k_start=5)
    slope = _jit(jax.grad(lambda params: loss(params, {}, rng.root(0), batch)[0]))(params)
    used = np.abs(slope["encoder_0"]["kernel"]).max(0) > 0
    np.testing.assert_array_equal(used, np.arange(6) != 2)
    np.testing.assert_array_equal(np.abs(slope["decoder_0"]["kernel"]).max(1) > 0, np.arange(6) != 2)


def test_an_unknown_sparsity_is_an_error():
    model, params = _setup()
    with pytest.raises(ValueError, match="sparsity='l0' is unknown"):
        sparse_objective(params, {}, rng.root(0), _batch() | {"step": 0}, model=model, sparsity="l0")


def _steps(layout: Layout, loss: Any, params: Any, whole_batch: bool, model_state: Any = None) -> Any:
    """The state and the metrics after two SGD steps on a layout of devices."""
    tx = optax.sgd(0.02)
    step = layout.wrap_train(make_train_step(loss, tx, whole_batch=whole_batch))
    state = layout.put_state(init_state(params, tx, rng.root(0), model_state=model_state))
    for _ in range(2):
        state, metrics = step(state, layout.put_batch(_batch()))
    return to_host(state), to_host(metrics)


@pytest.mark.parametrize("twin", [False, True])
def test_rho_hat_is_of_the_whole_batch_on_every_layout(twin: bool):
    """Eight devices take the steps of one, penalty and gradient, also beside a twin that takes no axis.

    Without the whole batch's mean they do not, so that the equality means something: each device's own ρ̂ is far off.
    """
    model, params = _setup()
    loss = functools.partial(sparse_objective, model=model, sparsity="kl", rho=0.05, weight=1.0)
    if twin:
        plain = functools.partial(objective, model=model, error="squared_error")
        loss = beside_plain(loss, plain, whole_batch=True)
        params = {"model": params, "plain": params}
    reference, metrics = _steps(Layout("jit", jax.devices()[:1]), loss, params, True)
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), reference.params, params)
    assert max(jax.tree.leaves(moved)) > 1e-2
    for backend in ("pmap", "jit"):
        other, other_metrics = _steps(Layout(backend, jax.devices()[:8]), loss, params, True)
        chex.assert_trees_all_close(other.params, reference.params, rtol=0, atol=1e-6)
        chex.assert_trees_all_close(other_metrics, metrics, rtol=1e-5)
    local, local_metrics = _steps(Layout("pmap", jax.devices()[:8]), loss, params, False)
    apart = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), local.params, reference.params)
    assert max(jax.tree.leaves(apart)) > 1e-4
    assert float(local_metrics["kl_sparsity"]) > 1.001 * float(metrics["kl_sparsity"])  # It is convex.


def test_the_moments_of_the_codes_are_of_the_whole_batch_on_every_layout():
    """Two steps on eight devices leave the running moments that one device has."""
    model, params = _setup()
    loss = functools.partial(objective, model=model, error="squared_error")
    reference, _ = _steps(Layout("jit", jax.devices()[:1]), loss, params, False, code_moments(6))
    assert np.abs(reference.model_state["code_mean"]).max() > 1e-3
    other, _ = _steps(Layout("pmap", jax.devices()[:8]), loss, params, False, code_moments(6))
    chex.assert_trees_all_close(other.model_state, reference.model_state, rtol=1e-5, atol=1e-7)
    chex.assert_trees_all_close(other.params, reference.params, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("backend", "count"), [("jit", 1), ("jit", 8), ("pmap", 8)])
def test_the_images_of_the_last_batch_are_kept_whole_and_in_order(backend: str, count: int):
    """On any number of devices the state holds all images of the batch, in its order, and the loss is what it was."""
    tx = optax.sgd(0.1)
    images = np.random.default_rng(0).integers(0, 256, (16, 4, 4, 1)).astype(np.uint8)
    model = MLPAutoencoder((4, 4, 1), (5,), output="linear")
    params = _jit(model.init)(rng.root(0), jnp.zeros((1, 4, 4, 1)))["params"]

    def plain(params: Any, model_state: Any, key: Any, batch: Any, *, axis_name: str | None = None) -> Any:
        assert model_state == {}
        return objective(params, model_state, key, batch, model=model, error="squared_error")

    step = make_train_step(remembering_images(plain), tx, whole_batch=True)
    start = any_images(rng.root(1), images.shape)
    assert start["images"].dtype == jnp.uint8 and len(np.unique(start["images"])) > 100
    layout = Layout(backend, jax.devices()[:count])
    state = layout.put_state(init_state(params, tx, rng.root(0), model_state=start))
    batch = layout.put_batch({"image": images, "index": np.arange(16, dtype=np.uint32)})
    state, metrics = layout.wrap_train(step)(state, batch)
    np.testing.assert_array_equal(state.model_state["images"], images)
    alone, _ = plain(params, {}, rng.root(0), {"image": images})
    assert float(metrics["loss"]) == pytest.approx(float(alone), rel=1e-5)
