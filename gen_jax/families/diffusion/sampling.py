"""From keys to samples: the start, and a sampler's steps in one compiled program or in a Python loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax import rng
from gen_jax.contracts import Array, Key
from gen_jax.families.diffusion.samplers import Sampler

LOOPS = ("scan", "python")


def start_noise(keys: Key, shape: tuple[int, ...]) -> Array:
    """Where sampling starts: x_T ~ N(0, I), example i from key i alone.

    Args:
      keys: [B].
      shape: of one example.

    Returns:
      [B, *shape] float32.
    """
    return jax.vmap(lambda key: jax.random.normal(rng.stream(key, "start"), shape, jnp.float32))(keys)


def run(
    sampler: Sampler,
    x: Array,
    keys: Key,
    *,
    intermediates: bool = False,
    loop: str = "scan",
) -> tuple[Array, tuple[Array, Array] | None]:
    """Takes all steps of a sampler: (x, memory, x̂_0) ← step(x, memory, i).

    See "Denoising Diffusion Probabilistic Models", Ho et al., 2020 (arXiv:2006.11239), Algorithm 2, lines 2 to 5.
    Example i of the result depends on x_i and on key i alone.

    One program of all steps is as quick on a CPU as a loop in Python: what XLA runs slowly in a loop of its own are the
    gradients of convolutions. A Python loop compiles one step only, where the step is jitted by itself:

      `step = jax.jit(lambda params, *args: samplers.ddim(process, functools.partial(apply, params)).step(*args))`
      `run(sampler._replace(step=functools.partial(step, params)), x, keys, loop="python")`

    Args:
      sampler: of `samplers`.
      x: [B, ...] where it starts: `start_noise`, or data for an inversion.
      keys: [B].
      intermediates: whether to keep what each step gave; without, memory does not grow with the steps.
      loop: "scan" for `lax.scan`, "python" for calls of `sampler.step` from Python.

    Returns:
      The result [B, ...], and None or the pair of x after each step and the x_0 believed in at it, [S, B, ...] each.

    Raises:
      ValueError: where the loop is another one.
    """
    if loop not in LOOPS:
        raise ValueError(f"loop='{loop}' is unknown; expected one of {LOOPS}.")

    def body(carry: tuple[Array, Any], i: Array) -> tuple[tuple[Array, Any], tuple[Array, Array] | None]:
        x, memory, x0 = sampler.step(*carry, i, keys)
        return (x, memory), (x, x0) if intermediates else None

    carry = (x, sampler.init(x))
    steps = jnp.asarray(np.asarray(sampler.steps), jnp.int32)
    if loop == "scan":
        (x, _), kept = jax.lax.scan(body, carry, steps)
        return x, kept
    chain = []
    for i in steps:
        carry, kept = body(carry, i)
        chain.append(kept)
    return carry[0], jax.tree.map(lambda *xs: jnp.stack(xs), *chain) if intermediates else None


def sample(
    sampler: Sampler,
    keys: Key,
    shape: tuple[int, ...],
    *,
    finish: Callable[[Array], Array] = lambda x: x,
    loop: str = "scan",
) -> Array:
    """Draws examples: x_T ~ N(0, I), then all steps; example i from key i alone, whatever the number of them.

    See "Denoising Diffusion Probabilistic Models", Ho et al., 2020 (arXiv:2006.11239), Algorithm 2.

    Args:
      sampler: of `samplers`.
      keys: [B].
      shape: of one example.
      finish: what is done to the result, such as the way from [−1, 1] to [0, 1].
      loop: as in `run`.

    Returns:
      [B, *shape].

    Raises:
      ValueError: where the loop is another one.
    """
    x, _ = run(sampler, start_noise(keys, shape), keys, loop=loop)
    return finish(x)
