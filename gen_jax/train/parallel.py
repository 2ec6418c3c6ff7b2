"""Many devices: the only file that says pmap, Mesh or NamedSharding.

A `Layout` wraps the pure steps and knows how arrays get to the devices and back. Two backends run the same step:

  pmap  one program a device, its part of the batch mapped over the axis "batch"; the state stays unstacked
        (in_axes=None), so that a checkpoint needs no unreplicating.
  jit   one program over a one-dimensional mesh, the batch sharded; the road to sharded parameters.

On one device both are plain `jit`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from gen_jax.contracts import Batch, UserError

AXIS = "batch"
T = TypeVar("T")


class Layout:
    """Where the state and the batches live.

    Attributes:
      backend: "pmap" or "jit".
      devices: all devices of all processes.
      num_devices: how many there are.
    """

    def __init__(self, backend: str = "auto", devices: Sequence[jax.Device] | None = None):
        """Chooses the devices.

        Args:
          backend: "pmap", "jit", or "auto": pmap on several devices, jit on one.
          devices: which to use; all of them by default.
        """
        self.devices = list(jax.devices() if devices is None else devices)
        self.num_devices = len(self.devices)
        self.backend = "jit" if backend == "auto" and self.num_devices == 1 else backend.replace("auto", "pmap")
        self._local = [d for d in self.devices if d.process_index == jax.process_index()]
        self._mesh = Mesh(np.asarray(self.devices), (AXIS,))
        self._everywhere = NamedSharding(self._mesh, PartitionSpec())

    def check_batch_size(self, name: str, batch_size: int) -> None:
        """Refuses a batch that the devices do not divide.

        Args:
          name: the config key, for the message.
          batch_size: the global one.

        Raises:
          UserError: where some device would get more than another.
        """
        if batch_size % self.num_devices:
            below = batch_size // self.num_devices * self.num_devices
            near = f"{below} or {below + self.num_devices}" if below else str(self.num_devices)
            raise UserError(
                f"{name}={batch_size} cannot be divided equally among {self.num_devices} devices; try {near}."
            )

    def wrap_train(self, step: Callable[..., Any], steps_per_call: int = 1) -> Callable[[Any, Batch], Any]:
        """Compiles a train step for these devices, its state donated.

        Args:
          step: `(state, batch, *, axis_name=None) -> (state, metrics)`.
          steps_per_call: k; for k > 1 the batch's arrays have a leading axis [k].

        Returns:
          `(state, batch) -> (state, metrics)` on what `put_state` and `put_batch` return.
        """
        return self._wrap(step, 0 if steps_per_call == 1 else 1, donate=True)

    def wrap_eval(self, step: Callable[..., Any]) -> Callable[[Any, Batch], Any]:
        """Compiles an evaluation step `(state, batch, *, axis_name=None) -> sums` for these devices."""
        return self._wrap(step, 0, donate=False)

    def _wrap(self, step: Callable[..., Any], batch_axis: int, donate: bool) -> Callable[[Any, Batch], Any]:
        donated = (0,) if donate else ()
        if self.backend == "pmap":
            return jax.pmap(
                functools.partial(step, axis_name=AXIS),
                axis_name=AXIS,
                in_axes=(None, batch_axis),
                # Every output is a mean or a sum over the axis, the same on each device; one copy is taken.
                out_axes=None if not donate else (None, None),
                donate_argnums=donated,
                devices=None if jax.process_count() > 1 else self.devices,
            )
        return jax.jit(step, donate_argnums=donated, out_shardings=self._everywhere)

    def put_state(self, state: Any) -> Any:
        """Copies a state to every device.

        Args:
          state: a pytree of arrays, numpy or JAX; every process passes the same.

        Returns:
          The state as the wrapped steps take it and return it, in buffers of its own.
        """
        if self.backend == "pmap" and jax.process_count() > 1:
            # Under pmap a process sees its own devices only; the state is host-local, alike on every host.
            sharding = NamedSharding(Mesh(np.asarray(self._local), (AXIS,)), PartitionSpec())
        else:
            sharding = self._everywhere

        def put(leaf: Any) -> Any:
            if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                return jax.random.wrap_key_data(put(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
            value = np.array(leaf)
            return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])

        return jax.tree.map(put, state)

    def put_batch(self, batch: Batch, steps_per_call: int = 1) -> Batch:
        """Splits this process's part of a batch among its devices.

        Args:
          batch: numpy arrays [b, ...], or [k, b, ...] for k steps a call.
          steps_per_call: k.

        Returns:
          The batch as the wrapped steps take it.
        """
        axis = 0 if steps_per_call == 1 else 1
        if self.backend == "pmap":
            count = len(self._local)

            def split(array: np.ndarray) -> np.ndarray:
                shape = array.shape
                return array.reshape(*shape[:axis], count, shape[axis] // count, *shape[axis + 1 :])

            return {name: split(array) for name, array in batch.items()}
        sharding = NamedSharding(self._mesh, PartitionSpec(*(None,) * axis, AXIS))
        return {name: jax.make_array_from_process_local_data(sharding, array) for name, array in batch.items()}


def stream_options(config: ConfigDict) -> dict[str, int]:
    """What a source of a run's batches must know: their sizes, the seed of their order, and this process's part.

    Args:
      config: with the sections of `config.base_config`.

    Returns:
      `batch_size`, `evaluation_batch_size`, `seed`, `process_index` and `process_count`.
    """
    return {
        "batch_size": config.train.batch_size,
        "evaluation_batch_size": config.eval.batch_size,
        "seed": config.seed,
        "process_index": jax.process_index(),
        "process_count": jax.process_count(),
    }


def to_host(tree: Any) -> Any:
    """Fetches arrays that are alike on every device.

    Args:
      tree: any pytree of arrays.

    Returns:
      The same tree of numpy arrays; typed keys stay typed keys, on the default device.
    """

    def fetch(leaf: Any) -> Any:
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(
                jnp.asarray(np.asarray(jax.random.key_data(leaf))), impl=jax.random.key_impl(leaf)
            )
        return np.asarray(leaf)

    return jax.tree.map(fetch, tree)


def together(action: Callable[[], T]) -> T:
    """Runs an action on every process, and stops all of them where it fails on one.

    Args:
      action: what may raise a `UserError` or an `OSError`.

    Returns:
      What it returns here.

    Raises:
      UserError: where it failed on another process. Where it failed here, its own error is raised.
    """
    failure: Exception | None = None
    try:
        result = action()
    except (UserError, OSError) as error:
        failure = error
    if any_process(failure is not None) and failure is None:
        raise UserError("Another process of this pod has stopped with an error; its output says why.")
    if failure is not None:
        raise failure
    return result


def check_same(name: str, value: int) -> None:
    """Refuses to go on where processes disagree on a number that all must share.

    Args:
      name: what it is, for the message.
      value: this process's.

    Raises:
      UserError: where another process has another value.
    """
    if jax.process_count() == 1:
        return
    values = multihost_utils.process_allgather(np.asarray(value))
    if np.any(values != value):
        raise UserError(
            f"The processes disagree on the {name} ({', '.join(map(str, np.ravel(values)))}); the workdir must be on a "
            "file system that all of them share."
        )


def any_process(flag: bool) -> bool:
    """Whether any process raises a flag; every process must ask at the same point.

    Args:
      flag: this process's.

    Returns:
      True where at least one is raised.
    """
    if jax.process_count() == 1:
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))
