"""What devices say together, on eight of them."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from gen_jax.collectives import all_devices, mean_over_devices, sum_over_devices

PARTS = np.random.default_rng(0).standard_normal((8, 3, 2)).astype(np.float32)


def on_all(function):
    """What each of eight devices gets of a function of its part and the axis."""
    return np.asarray(jax.pmap(lambda part: function(part, "batch"), axis_name="batch")(PARTS))


@pytest.mark.parametrize(("function", "expected"), [(mean_over_devices, np.mean), (sum_over_devices, np.sum)])
def test_every_device_has_that_of_all(function, expected):
    whole = expected(PARTS.astype(np.float64), axis=0)
    np.testing.assert_allclose(on_all(function), np.broadcast_to(whole, PARTS.shape), rtol=1e-5, atol=1e-6)


def test_every_device_has_the_whole_batch_in_order():
    whole = PARTS.reshape(-1, 2)
    np.testing.assert_array_equal(on_all(all_devices), np.broadcast_to(whole, (8, *whole.shape)))


def test_counters_are_not_averaged():
    counts = np.arange(8, dtype=np.int32)
    kept = jax.pmap(lambda count: mean_over_devices(count, "batch"), axis_name="batch")(counts)
    assert kept.dtype == np.int32
    np.testing.assert_array_equal(kept, counts)


@pytest.mark.parametrize("function", [mean_over_devices, sum_over_devices, all_devices])
def test_without_an_axis_nothing_changes(function):
    tree = {"a": np.ones(3)}
    assert function(tree, None) is tree
