"""How every random key is made: root -> step -> named stream -> example.

Nothing is threaded and nothing is split in a loop, so the noise of any example at any step can be made again from
`(seed, step, stream name, example index)` alone, on any number of devices and in any order.
"""

from __future__ import annotations

import zlib

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gen_jax.contracts import Array, Key


def root(seed: int) -> Key:
    """The one key of a run.

    Args:
      seed: any integer in [0, 2^32).

    Returns:
      A typed threefry key: the same numbers on every platform.
    """
    return jax.random.key(seed, impl="threefry2x32")


def at_step(key: Key, step: Array | int) -> Key:
    """The key of one training step.

    Args:
      key: the root key.
      step: [] the number of updates made before this one.

    Returns:
      The key from which that step's streams are derived.
    """
    return jax.random.fold_in(key, step)


def stream(key: Key, name: str) -> Key:
    """The key of one named use of randomness ("posterior", "dropout", "sample", ...).

    Args:
      key: a root key or a step's key.
      name: any text; a different name gives a different, unrelated key.

    Returns:
      The stream's key. It depends on the text of the name, not on the order in which streams are asked for.
    """
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def per_example(key: Key, index: ArrayLike) -> Key:
    """One key for each example of a batch.

    Args:
      key: a stream's key.
      index: [B] the global number of each example, as in `batch["index"]`.

    Returns:
      [B] keys; key i depends on `index[i]` alone, whatever device or process holds it.
    """
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.asarray(index, jnp.uint32))


def in_evaluation(key: Key, name: str, index: ArrayLike) -> Key:
    """One key for each example of a batch that is evaluated, the same at every evaluation of a run.

    Args:
      key: the root key.
      name: of the stream.
      index: [B] the global number of each example.

    Returns:
      [B] keys, unrelated to those of training streams of the same name.
    """
    return per_example(stream(stream(key, "eval"), name), index)


def numbered(key: Key, name: str, count: int) -> Key:
    """As many keys as are wanted for one named use of randomness, where the examples are numbered from 0.

    Args:
      key: a root key or a step's key.
      name: of the stream.
      count: n.

    Returns:
      [n] keys; key i depends on the name and on i alone.
    """
    return per_example(stream(key, name), jnp.arange(count))
