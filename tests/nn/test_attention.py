"""Attention against loops in float64."""

import jax.numpy as jnp
import numpy as np
import scipy.special
import torch

from gen_jax.nn.attention import attention


def _inputs(seed: int = 0) -> list[np.ndarray]:
    """Queries, keys and values of sizes that all differ: 4 queries, 6 keys, 3 heads of 5, values of 7."""
    random = np.random.default_rng(seed)
    return [random.standard_normal(shape).astype(np.float32) for shape in ((2, 4, 3, 5), (2, 6, 3, 5), (2, 6, 3, 7))]


def test_is_the_loops():
    """Every example, head and query by itself."""
    query, key, value = _inputs()
    expected = np.empty((2, 4, 3, 7))
    for b in range(2):
        for h in range(3):
            for n in range(4):
                weights = scipy.special.softmax(key[b, :, h].astype(np.float64) @ query[b, n, h] / np.sqrt(5))
                expected[b, n, h] = weights @ value[b, :, h]
    np.testing.assert_allclose(attention(*map(jnp.asarray, (query, key, value))), expected, atol=1e-6)


def test_is_pytorchs():
    """Its own function, with the heads before the positions."""
    inputs = _inputs(1)
    expected = torch.nn.functional.scaled_dot_product_attention(*(torch.tensor(a).transpose(1, 2) for a in inputs))
    np.testing.assert_allclose(attention(*map(jnp.asarray, inputs)), expected.transpose(1, 2), atol=1e-6)


def test_extreme_logits():
    """Logits of thousands choose the one key, and do not overflow."""
    query, key, value = _inputs(2)
    found = attention(jnp.asarray(1e4 * query), jnp.asarray(key), jnp.asarray(value))
    best = np.einsum("bnhd,bmhd->bhnm", query, key).argmax(axis=-1)
    expected = np.stack([[[value[b, best[b, h, n], h] for h in range(3)] for n in range(4)] for b in range(2)])
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_order_of_keys_does_not_matter():
    """Keys and values in another order give the same."""
    query, key, value = map(jnp.asarray, _inputs(3))
    order = np.array([4, 0, 5, 2, 1, 3])
    found = attention(query, key[:, order], value[:, order])
    np.testing.assert_allclose(found, attention(query, key, value), atol=1e-6)


def test_half_precision_sums_in_single():
    """4096 keys alike have the mean of their values, which weights that were normalised in bfloat16 would miss."""
    key = jnp.zeros((1, 4096, 1, 4), jnp.bfloat16)
    value = jnp.ones((1, 4096, 1, 2), jnp.bfloat16)
    found = attention(key[:, :3], key, value)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(found, np.float32), 1.0)
