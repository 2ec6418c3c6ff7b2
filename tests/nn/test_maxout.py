"""Maxout against its definition."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.nn.maxout import maxout


def test_is_the_largest_of_k_affine_maps():
    """Unit j of a dense layer of k·n outputs is the maximum over the k maps whose columns are n apart."""
    pieces, units = 3, 4
    x = np.random.default_rng(0).standard_normal((7, 5)).astype(np.float32)
    layer = nn.Dense(pieces * units, bias_init=nn.initializers.normal(1.0))
    params = layer.init(jax.random.key(0), jnp.asarray(x))["params"]
    weights, bias = np.asarray(params["kernel"]), np.asarray(params["bias"])
    maps = [x @ weights[:, i * units : (i + 1) * units] + bias[i * units : (i + 1) * units] for i in range(pieces)]
    found = maxout(layer.apply({"params": params}, jnp.asarray(x)), pieces)
    np.testing.assert_allclose(found, np.maximum.reduce(maps), atol=1e-6)
    chosen = np.argmax(maps, axis=0)
    assert set(chosen.ravel()) == {0, 1, 2}


def test_one_piece_is_the_linear_map():
    """With k = 1 nothing is chosen."""
    h = jnp.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(maxout(h, 1), h)
