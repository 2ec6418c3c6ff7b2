"""Running a Linen module in the precision of its parameters."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from gen_jax.contracts import Array, Params


def param_dtype(params: Params) -> jnp.dtype:
    """The floating-point type of a network's parameters, of which scalars stay in float32 where the rest is cast.

    Args:
      params: with at least one array that is no scalar.

    Returns:
      The type.
    """
    return next(leaf.dtype for leaf in jax.tree.leaves(params) if leaf.ndim)


def apply_in_param_dtype(
    model: nn.Module, params: Params, x: Array, *args: Any, method: str = "__call__", **kwargs: Any
) -> Any:
    """Applies a module with its input cast to the parameters' type and its outputs to at least float32.

    A train step with mixed precision hands the objective bfloat16 parameters; without this the float32 input would
    promote every product back to float32, and without the cast of the outputs the loss would be summed in bfloat16.

    Args:
      model: a module without mutable collections.
      params: its parameters, all but the scalars of one floating-point type.
      x: [...] the input.
      *args: further arguments, passed on as they are.
      method: the name of the module's method.
      **kwargs: likewise.

    Returns:
      What the method returns, every array of it in float32 (float64 where the parameters are).
    """
    outputs = model.apply({"params": params}, jnp.asarray(x, param_dtype(params)), *args, method=method, **kwargs)
    return jax.tree.map(lambda a: jnp.asarray(a, jnp.promote_types(a.dtype, jnp.float32)), outputs)
