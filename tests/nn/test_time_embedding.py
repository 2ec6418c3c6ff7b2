"""The waves of a time against numpy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax.nn.time_embedding import sinusoidal_embedding

_TIMES = np.array([0, 1, 17, 500, 999])


def _waves(frequencies: np.ndarray) -> np.ndarray:
    angles = _TIMES[:, None] * frequencies
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


@pytest.mark.parametrize("reaches_end", [True, False])
def test_is_numpys(reaches_end: bool):
    """Sines before cosines; the slowest has the frequency 1 / P where the end is reached, else one factor more."""
    frequencies = np.geomspace(1, 1e-4, 8) if reaches_end else np.geomspace(1, 1e-4, 9)[:-1]
    with jax.enable_x64(True):
        found = sinusoidal_embedding(jnp.asarray(_TIMES, jnp.float64), 16, reaches_end=reaches_end)
        np.testing.assert_allclose(found, _waves(frequencies), atol=1e-10)
    single = sinusoidal_embedding(jnp.asarray(_TIMES, jnp.int32), 16, reaches_end=reaches_end)
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single, _waves(frequencies), atol=3e-4)


def test_another_period():
    """The slowest wave of P = 100."""
    found = sinusoidal_embedding(jnp.asarray(_TIMES, jnp.float32), 6, max_period=100.0)
    np.testing.assert_allclose(found, _waves(np.array([1, 0.1, 0.01])), atol=1e-4)


@pytest.mark.parametrize("reaches_end", [True, False])
def test_every_time_differs_in_half_precision(reaches_end: bool):
    """No two of 1000 times are one after rounding to bfloat16; the times themselves would be."""
    times = jnp.arange(1000)
    waves = sinusoidal_embedding(times, 32, reaches_end=reaches_end).astype(jnp.bfloat16)
    assert len(np.unique(np.asarray(waves, np.float32), axis=0)) == 1000
    assert len(np.unique(np.asarray(times.astype(jnp.bfloat16), np.float32))) < 1000


def test_half_precision_times_are_embedded_in_single():
    """A bfloat16 time is a number like any other and loses nothing more."""
    found = sinusoidal_embedding(jnp.asarray([3.0, 64.0], jnp.bfloat16), 8)
    np.testing.assert_array_equal(found, sinusoidal_embedding(jnp.asarray([3.0, 64.0]), 8))
