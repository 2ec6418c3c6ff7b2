"""Saving and restoring a state: Orbax, atomic, arrays and JSON only, its files verified before they are read.

A state is stored as a flat dict of numpy arrays by their path in the tree ("params/decoder/Dense_0/kernel"), so a
checkpoint knows no class and no device: what eight devices wrote, one reads.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import shutil
import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.contracts import UserError
from gen_jax.files import replace_text

# What Orbax and TensorStore raise on files that are missing, cut short or garbled.
_BROKEN = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, EOFError)

_SEAL = "files.json"


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
        self._unsealed: int | None = None  # The step whose checkpoint was begun last.

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
        self.wait()
        try:
            if self._manager is None:
                options = ocp.CheckpointManagerOptions(max_to_keep=self._keep, create=True)
                self._manager = ocp.CheckpointManager(self.directory, options=options)
            self._manager.save(step, args=ocp.args.StandardSave(arrays), force=True)
        except _BROKEN as error:
            raise self.cannot_write(error) from error
        self._unsealed = step

    def reserve(self, state: Any) -> None:
        """Finds out whether a checkpoint will fit, before Orbax begins one: its threads fail on a full disk with noise.

        Args:
          state: as in `save`.

        Raises:
          UserError: where it will not.
        """
        size = sum(array.nbytes for array in to_arrays(state).values()) + 2**16  # The files' own frame takes some.
        space = self.directory / ".space"
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            if hasattr(os, "posix_fallocate"):
                with space.open("wb") as file:
                    os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            raise self.cannot_write(error) from error
        finally:
            with contextlib.suppress(OSError):
                space.unlink(missing_ok=True)

    def wait(self) -> None:
        """Waits until the last checkpoint is on disk.

        Raises:
          UserError: where it could not be written.
        """
        if self._manager is None:
            return
        try:
            self._manager.wait_until_finished()
            if self._unsealed is not None and jax.process_index() == 0:
                _seal(self.directory / str(self._unsealed))
        except _BROKEN as error:
            raise self.cannot_write(error) from error
        self._unsealed = None

    def close(self) -> None:
        """Lets go of the background threads; what `wait` did not report of them is lost here."""
        manager, self._manager = self._manager, None
        if manager is not None:
            with contextlib.suppress(*_BROKEN):
                manager.close()

    def cannot_write(self, error: BaseException) -> UserError:
        """The sentence for a workdir that cannot be written, naming what is safe.

        Args:
          error: what the system, Orbax or TensorStore raised.

        Returns:
          The error to raise.
        """
        there = self.steps()
        kept = f"the last checkpoint is that of step {there[-1]}" if there else "there is no checkpoint yet"
        found = re.findall(r"os_error_code='(\d+)'", str(error))  # As TensorStore writes it.
        code = getattr(error, "errno", None) or int(found[-1] if found else 0)
        reason = os.strerror(code) if code else str(error).splitlines()[0][:200]
        return UserError(
            f"{self.directory.parent} cannot be written ({reason}); {kept}. Make room or give permission there, and "
            "run the same command again."
        )

    def restore(self, step: int, target: Any, partial: bool = False) -> Any:
        """Reads one checkpoint.

        Args:
          step: its number.
          target: a state with the structure, shapes and types to be read, such as a freshly initialised one.
          partial: whether the checkpoint may hold more than the target asks for.

        Returns:
          A pytree like `target`, of numpy arrays; typed keys are typed keys again.

        Raises:
          UserError: where a file is missing or broken, or the state is another model's.
        """
        import orbax.checkpoint as ocp

        folder = self.directory / str(step)
        _check_seal(folder)
        try:
            with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as reader:
                arrays = dict(reader.restore(folder / "default", args=ocp.args.StandardRestore()))
        except _BROKEN as error:
            raise UserError(f"The checkpoint {folder} cannot be read: a file is missing or broken.") from error
        return from_arrays(arrays, target, partial)

    def restore_latest(self, target: Any, partial: bool = False) -> tuple[Any, int] | None:
        """Reads the newest checkpoint that is whole, saying what is lost where that is not the newest.

        Args:
          target: as in `restore`.
          partial: as in `restore`.

        Returns:
          The state and its step; None where there is no checkpoint at all.

        Raises:
          UserError: where there are checkpoints and none can be read, or the state is another model's.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                state = self.restore(step, target, partial)
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


def from_arrays(arrays: dict[str, np.ndarray], target: Any, partial: bool = False) -> Any:
    """The inverse of `to_arrays`.

    Args:
      arrays: by path.
      target: a pytree with the structure, shapes and types wanted.
      partial: whether there may be arrays that the target does not ask for.

    Returns:
      A pytree like `target`.

    Raises:
      StateMismatchError: where a path, shape or type differs, naming the first.
    """
    expected = to_arrays(target)
    for name in sorted(expected.keys() if partial else expected.keys() | arrays.keys()):
        if name not in arrays or name not in expected:
            there, elsewhere = (
                ("the model", "the checkpoint") if name not in arrays else ("the checkpoint", "the model")
            )
            raise StateMismatchError(f"The checkpoint is another model's: {name} is in {there}, not in {elsewhere}.")
        have, want = arrays[name], expected[name]
        if have.shape != want.shape or have.dtype != want.dtype:
            raise StateMismatchError(
                f"The checkpoint is another model's: {name} is {have.dtype}{list(have.shape)} in the checkpoint and "
                f"{want.dtype}{list(want.shape)} in the model."
            )

    def place(path: Any, leaf: Any) -> Any:
        value = arrays[jax.tree_util.keystr(path, simple=True, separator="/")]
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(jnp.asarray(value), impl=jax.random.key_impl(leaf))
        return value

    return jax.tree_util.tree_map_with_path(place, target)


def _seal(folder: pathlib.Path) -> None:
    """Writes down the size and checksum of every file of a finished checkpoint, beside them."""
    files = {p.relative_to(folder).as_posix(): _size_and_crc(p) for p in sorted(folder.rglob("*")) if p.is_file()}
    replace_text(folder / _SEAL, json.dumps(files))


def _check_seal(folder: pathlib.Path) -> None:
    """Refuses a checkpoint of which a file differs from what was written.

    Orbax notices that too, but then leaves its other reads behind in threads, which fail later and noisily. A
    checkpoint that was finished just before a kill has no seal, and is read without this.

    Raises:
      UserError: naming the first file that is missing or damaged.
    """
    try:
        files = json.loads((folder / _SEAL).read_text())
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise UserError(f"The checkpoint {folder} cannot be read: {_SEAL} is damaged.") from error
    if not isinstance(files, dict):
        raise UserError(f"The checkpoint {folder} cannot be read: {_SEAL} is damaged.")
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            raise UserError(f"The checkpoint {folder} cannot be read: {name} is missing.")
        if _size_and_crc(path) != expected:
            raise UserError(f"The checkpoint {folder} cannot be read: {name} is damaged.")


def _size_and_crc(path: pathlib.Path) -> list[int]:
    crc = 0
    with path.open("rb") as file:
        while block := file.read(2**22):
            crc = zlib.crc32(block, crc)
    return [path.stat().st_size, crc]
