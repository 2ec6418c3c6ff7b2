"""Saving and restoring a state: Orbax, atomic, arrays and JSON only, verified by a digest.

A state is stored as a flat dict of numpy arrays by their path in the tree ("params/decoder/Dense_0/kernel"), so a
checkpoint knows no class and no device: what eight devices wrote, one reads.
"""

from __future__ import annotations

import hashlib
import pathlib
import re
import shutil
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from gen_jax.contracts import UserError

# What Orbax and TensorStore raise on files that are missing, cut short or garbled.
_BROKEN = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, EOFError)


class Checkpoints:
    """The checkpoints of one workdir, written in the background.

    Orbax is imported where it is first needed: it takes seconds.
    """

    def __init__(self, directory: pathlib.Path, keep: int = 3, say: Callable[[str], None] = print):
        """Opens a folder of checkpoints; it need not exist.

        Args:
          directory: the folder; one sub-folder a step.
          keep: how many of the newest to keep.
          say: prints one line for a person.
        """
        self.directory = pathlib.Path(directory).absolute()
        self._keep = keep
        self._say = say
        self._manager: Any = None

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, whole or broken, oldest first."""
        if not self.directory.is_dir():
            return []
        return sorted(int(p.name) for p in self.directory.iterdir() if re.fullmatch(r"\d+", p.name) and p.is_dir())

    def save(self, step: int, state: Any) -> None:
        """Starts writing a checkpoint; it is there, whole, once the next `save` or `wait` has returned.

        Args:
          step: its number.
          state: a pytree of numpy arrays (`train.parallel.to_host`).

        Raises:
          UserError: where this or the previous one could not be written; the earlier ones are untouched.
        """
        import orbax.checkpoint as ocp

        arrays = to_arrays(state)
        items = ocp.args.Composite(state=ocp.args.StandardSave(arrays), meta=ocp.args.JsonSave(_meta(step, arrays)))
        try:
            if self._manager is None:
                options = ocp.CheckpointManagerOptions(max_to_keep=self._keep, create=True)
                self._manager = ocp.CheckpointManager(self.directory, options=options)
            self._manager.save(step, args=items, force=True)
        except _BROKEN as error:
            raise self._cannot_write(error) from error

    def wait(self) -> None:
        """Waits until the last checkpoint is on disk.

        Raises:
          UserError: where it could not be written.
        """
        if self._manager is None:
            return
        try:
            self._manager.wait_until_finished()
        except _BROKEN as error:
            raise self._cannot_write(error) from error

    def close(self) -> None:
        """Waits, and lets go of the background threads."""
        self.wait()
        if self._manager is not None:
            self._manager.close()
            self._manager = None

    def _cannot_write(self, error: BaseException) -> UserError:
        manager, self._manager = self._manager, None
        if manager is not None:
            manager.close()
        whole = self.steps()
        kept = f"the checkpoint of step {whole[-1]} is whole" if whole else "no earlier checkpoint exists"
        reason = "no space left on the device" if "No space left" in str(error) else str(error).splitlines()[0][:200]
        return UserError(
            f"A checkpoint could not be written to {self.directory} ({reason}); {kept}. Make room or permission there "
            "and run the same command again."
        )

    def restore(self, step: int, target: Any) -> Any:
        """Reads one checkpoint.

        Args:
          step: its number.
          target: a state with the structure, shapes and types to be read, such as a freshly initialised one.

        Returns:
          A pytree like `target`, of numpy arrays; typed keys are typed keys again.

        Raises:
          UserError: where a file is missing or broken, or the state is another model's.
        """
        import orbax.checkpoint as ocp

        folder = self.directory / str(step)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(), meta=ocp.args.JsonRestore())
        try:
            with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader:
                items = reader.restore(folder, args=args)
            arrays, digest = dict(items.state), items.meta["digest"]
        except _BROKEN as error:
            raise UserError(f"The checkpoint {folder} cannot be read: a file is missing or broken.") from error
        if _meta(step, arrays)["digest"] != digest:
            raise UserError(f"The checkpoint {folder} cannot be read: its content does not match its digest.")
        return from_arrays(arrays, target)

    def restore_latest(self, target: Any) -> tuple[Any, int] | None:
        """Reads the newest checkpoint that is whole, saying what is lost where that is not the newest.

        Args:
          target: as in `restore`.

        Returns:
          The state and its step; None where there is no checkpoint at all.

        Raises:
          UserError: where there are checkpoints and none can be read, or the state is another model's.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                state = self.restore(step, target)
            except UserError as error:
                if isinstance(error, StateMismatchError):
                    raise
                self._say(str(error))
                continue
            if step != steps[-1]:
                self._say(f"Falling back to step {step}: the work of steps {step + 1} to {steps[-1]} is lost.")
            return state, step
        if steps:
            raise UserError(f"None of the checkpoints in {self.directory} can be read; start again in a new workdir.")
        return None

    def set_aside_after(self, step: int) -> None:
        """Moves what lies after a step out of the way: broken checkpoints, and what a kill left unfinished.

        Args:
          step: the step that a run continues from; -1 for all.
        """
        if not self.directory.is_dir():
            return
        for path in sorted(self.directory.iterdir()):
            if ".orbax-checkpoint-tmp" in path.name:
                shutil.rmtree(path, ignore_errors=True)
            elif re.fullmatch(r"\d+", path.name) and int(path.name) > step:
                aside = self.directory.with_name("broken_checkpoints") / path.name
                shutil.rmtree(aside, ignore_errors=True)
                aside.parent.mkdir(exist_ok=True)
                path.rename(aside)


class StateMismatchError(UserError):
    """A checkpoint that is whole, but of another model."""


def to_arrays(state: Any) -> dict[str, np.ndarray]:
    """A state as a flat dict by path.

    Args:
      state: a pytree of arrays; typed keys become the numbers they are made of.

    Returns:
      {"params/encoder/...": array, ...}.
    """

    def numbers(leaf: Any) -> np.ndarray:
        is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(leaf) if is_key else leaf)

    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): numbers(leaf) for path, leaf in leaves}


def from_arrays(arrays: dict[str, np.ndarray], target: Any) -> Any:
    """The inverse of `to_arrays`.

    Args:
      arrays: by path.
      target: a pytree with the structure, shapes and types wanted.

    Returns:
      A pytree like `target`.

    Raises:
      StateMismatchError: where a path, shape or type differs, naming the first.
    """
    expected = to_arrays(target)
    for name in sorted(expected.keys() | arrays.keys()):
        if name not in arrays or name not in expected:
            where = "the model but not in the checkpoint" if name not in arrays else "the checkpoint but not in the model"
            raise StateMismatchError(f"The checkpoint is another model's: '{name}' is in {where}.")
        have, want = arrays[name], expected[name]
        if have.shape != want.shape or have.dtype != want.dtype:
            raise StateMismatchError(
                f"The checkpoint is another model's: '{name}' is {have.dtype}{list(have.shape)} in the checkpoint and "
                f"{want.dtype}{list(want.shape)} in the model."
            )

    def place(path: Any, leaf: Any) -> Any:
        value = arrays[jax.tree_util.keystr(path, simple=True, separator="/")]
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(value, impl=jax.random.key_impl(leaf))
        return value

    return jax.tree_util.tree_map_with_path(place, target)


def _meta(step: int, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    digest = hashlib.blake2b(digest_size=16)
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return {"step": step, "digest": digest.hexdigest()}
