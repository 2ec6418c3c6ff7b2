"""What the devices of a mapped axis say together; without an axis each function gives back what it is given."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


def mean_over_devices(tree: Any, axis_name: str | None) -> Any:
    """The mean of every leaf over the devices of a mapped axis.

    Args:
      tree: any pytree of arrays. Integers, such as counters, must be alike on all devices and are left as they are.
      axis_name: the axis, or None outside of any.

    Returns:
      The means; `tree` itself where there is no axis.
    """
    if axis_name is None:
        return tree
    return jax.tree.map(lambda x: jax.lax.pmean(x, axis_name) if jnp.issubdtype(x.dtype, jnp.inexact) else x, tree)


def sum_over_devices(tree: Any, axis_name: str | None) -> Any:
    """The sum of every leaf over the devices of a mapped axis.

    Args:
      tree: any pytree of arrays.
      axis_name: the axis, or None outside of any.

    Returns:
      The sums; `tree` itself where there is no axis.
    """
    return tree if axis_name is None else jax.lax.psum(tree, axis_name)


def all_devices(tree: Any, axis_name: str | None) -> Any:
    """The batches of all devices of a mapped axis as one, in the axis's order, alike on each.

    Args:
      tree: any pytree of arrays [B, ...], this device's part.
      axis_name: the axis, or None outside of any.

    Returns:
      Arrays [n B, ...] for n devices; `tree` itself where there is no axis.
    """
    return tree if axis_name is None else jax.lax.all_gather(tree, axis_name, tiled=True)
