"""Drawing steps: the laws, the weights, and the history of losses against a loop, on one device and on eight."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from gen_jax import rng
from gen_jax.families import diffusion


def _history(num_steps: int, seed: int = 0) -> diffusion.History:
    losses = np.random.default_rng(seed).exponential(np.geomspace(10, 1e-3, num_steps)[:, None], (num_steps, 10))
    return diffusion.History(jnp.asarray(losses, jnp.float32), jnp.full(num_steps, 10, jnp.int32))


_SAMPLERS = {
    "uniform": functools.partial(diffusion.uniform, num_steps=20),
    "antithetic": functools.partial(diffusion.antithetic, num_steps=20),
    "stratified": functools.partial(diffusion.stratified, num_steps=20, batch_size=8000),
    "importance": functools.partial(diffusion.importance, history=_history(20)),
}


@pytest.mark.parametrize("name", _SAMPLERS)
def test_weighted_draws_are_unbiased(name: str):
    """The weighted mean of any function of the step is its plain mean over the steps, within 4 standard errors."""
    t, weight = jax.jit(_SAMPLERS[name])(rng.root(0), jnp.arange(8000))
    assert t.dtype == jnp.int32 and t.min() >= 0 and t.max() < 20
    for f in (np.ones(20), np.geomspace(10, 1e-3, 20), np.arange(20.0), np.eye(20)[17]):
        values = np.asarray(weight, np.float64) * f[np.asarray(t)]
        error = values.std() / np.sqrt(8000)
        assert abs(values.mean() - f.mean()) <= 4 * error + 1e-6


@pytest.mark.parametrize("name", ["uniform", "antithetic", "importance"])
def test_frequencies(name: str):
    """Each step is drawn as often as its probability says."""
    p = np.asarray(diffusion.importance_probabilities(_history(20)), np.float64) if name == "importance" else None
    expected = np.full(20, 1 / 20) if p is None else p
    # Of a pair only one is a draw of its own.
    index = jnp.arange(0, 16000, 2) if name == "antithetic" else jnp.arange(8000)
    counts = np.bincount(jax.jit(_SAMPLERS[name])(rng.root(1), index)[0], minlength=20)
    common = expected * 8000 > 5
    statistic = scipy.stats.chisquare(counts[common], expected[common] / expected[common].sum() * counts[common].sum())
    assert statistic.pvalue > 1e-3
    if p is not None:
        assert counts[~common].sum() < 5 * (expected[~common].sum() * 8000 + 1)


def test_draw_depends_on_the_index_alone():
    """The steps of a few examples are those that they have in the whole batch."""
    index = jnp.arange(40, 60)
    for name, sampler in _SAMPLERS.items():
        whole = sampler(rng.root(2), jnp.arange(100))
        part = sampler(rng.root(2), index)
        for a, b in zip(whole, part, strict=True):
            np.testing.assert_array_equal(a[40:60], b, name)


def test_antithetic_pairs_and_strata():
    """Pairs mirror each other; a stratified batch of a multiple of T has every step equally often."""
    t, _ = diffusion.antithetic(rng.root(3), jnp.arange(64), 1000)
    np.testing.assert_array_equal(t[::2] + t[1::2], 999)
    assert len(np.unique(t)) > 50
    for seed in range(5):
        t, _ = diffusion.stratified(rng.root(seed), 7 * 60 + jnp.arange(60), 20, 60)
        np.testing.assert_array_equal(np.bincount(t, minlength=20), 3)
    first = {int(diffusion.stratified(rng.root(seed), jnp.arange(1), 20, 60)[0][0]) for seed in range(40)}
    assert len(first) > 8


def test_probabilities():
    """P ∝ √E[L²] and 0.001 of all steps alike; uniform until the last step has its tenth loss."""
    history = _history(30)
    root = np.sqrt((np.asarray(history.losses, np.float64) ** 2).mean(1))
    p = diffusion.importance_probabilities(history)
    np.testing.assert_allclose(p, 0.999 * root / root.sum() + 0.001 / 30, rtol=1e-5)
    early = history._replace(counts=history.counts.at[4].set(9))
    np.testing.assert_allclose(diffusion.importance_probabilities(early), 1 / 30, rtol=1e-6)
    np.testing.assert_allclose(diffusion.importance_probabilities(diffusion.init_history(30)), 1 / 30, rtol=1e-6)
    # Losses of exactly 0 leave nothing to weigh by.
    nothing = history._replace(losses=jnp.zeros_like(history.losses))
    np.testing.assert_allclose(diffusion.importance_probabilities(nothing), 1 / 30, rtol=1e-6)


def test_importance_sampling_has_the_least_variance():
    """With losses that are constants of the step, weighted draws by √E[L²] = L hardly vary."""
    losses = np.geomspace(10, 1e-2, 20)
    history = diffusion.History(jnp.asarray(np.tile(losses[:, None], 10), jnp.float32), jnp.full(20, 10, jnp.int32))
    for name, draw in {"uniform": (_SAMPLERS["uniform"],), "importance": (diffusion.importance, history)}.items():
        t, weight = draw[0](rng.root(0), jnp.arange(4000), *draw[1:])
        spread = (np.asarray(weight) * losses[np.asarray(t)]).std() / losses.mean()
        assert spread > 1 if name == "uniform" else spread < 0.05


def test_history_against_a_loop():
    """Batches with repeats, more than the ring holds among them, leave what a list of the last ten would hold."""
    generator = np.random.default_rng(5)
    lists: list[list[float]] = [[] for _ in range(6)]
    history = diffusion.init_history(6)
    update = jax.jit(diffusion.update_history)
    for _ in range(7):
        t = generator.choice(6, 40, p=[0.5, 0.2, 0.1, 0.1, 0.1, 0.0])
        losses = generator.standard_normal(40).astype(np.float32)
        for step, loss in zip(t, losses, strict=True):
            lists[step].append(loss)
        history = update(history, jnp.asarray(t), jnp.asarray(losses))
        for step, kept in enumerate(lists):
            assert int(history.counts[step]) == len(kept)
            expected = np.zeros(10, np.float32)
            expected[: len(kept[-10:])] = kept[-10:]
            np.testing.assert_array_equal(np.sort(history.losses[step]), np.sort(expected))


def test_history_of_eight_devices_is_one():
    """Every device has the history of the whole batch, the same as one device's."""
    generator = np.random.default_rng(6)
    t = jnp.asarray(generator.integers(0, 5, 64))
    losses = jnp.asarray(generator.standard_normal(64), jnp.float32)
    history = diffusion.init_history(5)
    alone = diffusion.update_history(history, t, losses)
    update = jax.pmap(
        functools.partial(diffusion.update_history, axis_name="batch"), axis_name="batch", in_axes=(None, 0, 0)
    )
    devices = update(history, t.reshape(8, 8), losses.reshape(8, 8))
    for name in ("losses", "counts"):
        for device in range(8):
            np.testing.assert_array_equal(getattr(devices, name)[device], getattr(alone, name))


def test_history_carries_no_gradient():
    history = diffusion.init_history(5)
    slope = jax.grad(lambda x: diffusion.update_history(history, jnp.array([1, 2]), x).losses.sum())(jnp.ones(2))
    np.testing.assert_array_equal(slope, 0)
