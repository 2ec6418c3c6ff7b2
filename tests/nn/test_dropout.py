"""Dropout whose masks belong to the example and the layer."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax import rng
from gen_jax.nn.dropout import Dropout


class _TwoLayers(nn.Module):
    """Two dropout layers side by side, and one within a named block."""

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, keys: jax.Array | None) -> tuple[jax.Array, ...]:
        return Dropout(self.rate)(x, keys), Dropout(self.rate)(x, keys), Dropout(self.rate, name="third")(x, keys)


def _apply(x: jax.Array, keys: jax.Array | None, rate: float = 0.4) -> list[np.ndarray]:
    return [np.asarray(y) for y in _TwoLayers(rate).apply({}, x, keys)]


def _keys(index: int | np.ndarray) -> jax.Array:
    """The keys of the examples of that index, or of the first so many."""
    return rng.per_example(rng.root(0), np.arange(index) if isinstance(index, int) else index)


def test_mask_depends_on_the_example_and_not_on_the_batch():
    """Example i is dropped alike in the whole batch, in its half, in another order, and alone."""
    index, x = np.arange(8), jnp.ones((8, 4, 5))
    whole = np.stack(_apply(x, _keys(index)))
    halves = [np.stack(_apply(x[:4], _keys(half))) for half in np.split(index, 2)]
    np.testing.assert_array_equal(whole, np.concatenate(halves, axis=1))
    np.testing.assert_array_equal(whole[:, ::-1], np.stack(_apply(x, _keys(index[::-1]))))
    np.testing.assert_array_equal(whole[:, 5:6], np.stack(_apply(x[:1], _keys(index[5:6]))))
    assert len(np.unique(whole.reshape(24, -1), axis=0)) == 24


def test_mask_depends_on_the_layer():
    """Layers of one network have independent masks from the same key; the same layer has the same mask again."""
    x, keys = jnp.ones((50, 400)), _keys(50)
    layers = _apply(x, keys, rate=0.5)
    for again, layer in zip(_apply(x, keys, rate=0.5), layers, strict=True):
        np.testing.assert_array_equal(layer, again)
    kept = np.stack([layer.ravel() > 0 for layer in layers]).astype(float)
    assert np.abs(np.corrcoef(kept) - np.eye(3)).max() < 4 / np.sqrt(kept.shape[1])


def test_masks_of_examples_are_independent():
    """Two examples have uncorrelated masks (4 standard errors)."""
    kept = _apply(jnp.ones((6, 5000)), _keys(6), rate=0.5)[0] > 0
    assert np.abs(np.corrcoef(kept.astype(float)) - np.eye(6)).max() < 4 / np.sqrt(5000)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_rate_and_mean(rate: float):
    """A share `rate` is zero within 4 standard errors and the rest is x / (1 − rate), so that the mean is kept."""
    x = jnp.full((20, 2000), 3.0)
    y = _apply(x, _keys(20), rate)[1]
    standard_error = np.sqrt(rate * (1 - rate) / y.size)
    assert abs(np.mean(y == 0) - rate) < 4 * standard_error
    np.testing.assert_allclose(y[y != 0], 3 / (1 - rate), rtol=1e-6)
    assert abs(y.mean() - 3) < 4 * 3 * standard_error / (1 - rate)


def test_identity_without_keys_or_rate():
    """No keys, as in evaluation, or a rate of 0 return the input itself."""
    x = jnp.asarray(np.random.default_rng(0).standard_normal((3, 7)), jnp.float32)
    for y in _apply(x, None) + _apply(x, _keys(3), rate=0.0):
        np.testing.assert_array_equal(y, x)


def test_gradient_is_the_mask():
    """The derivative is 1 / (1 − rate) where an activation is kept and 0 where it is dropped."""
    x, keys = jnp.ones((4, 30)), _keys(4)
    gradient = jax.grad(lambda x: jnp.sum(_TwoLayers(0.25).apply({}, x, keys)[0]))(x)
    np.testing.assert_allclose(gradient, _apply(x, keys, 0.25)[0])
    assert 0 < np.count_nonzero(gradient) < gradient.size


def test_keeps_the_input_type():
    """A bfloat16 input gives a bfloat16 output."""
    (y, *_) = _TwoLayers(0.5).apply({}, jnp.ones((2, 3), jnp.bfloat16), _keys(2))
    assert y.dtype == jnp.bfloat16
