"""What must be set before JAX starts its backend: XLA flags, the allocator, the compilation cache, the pod.

The experiment entry point calls `configure` once; importing this module changes nothing. What the user has set in the
environment is kept.
"""

from __future__ import annotations

import ctypes
import importlib.util
import logging
import mmap
import os
import pathlib
import sys

import jax

from gen_jax.contracts import UserError

# jaxlib's default fusion list runs each convolution on one core, its weight gradient some ten times slower than the
# threaded path that this brings back.
_CPU_FLAGS = {"xla_cpu_experimental_ynn_fusion_type": "-individual_convolution"}

# glibc's mallopt parameters (malloc.h).
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3


def configure(compilation_cache: str | None = None) -> None:
    """Applies the process-level settings, before the first JAX computation.

    Args:
      compilation_cache: the folder of the persistent compilation cache; None for `$JAX_COMPILATION_CACHE_DIR`, or
        `gen_jax/xla` in the user's cache folder; "" for no cache.
    """
    set_xla_flags()
    keep_large_buffers()
    # Orbax logs pages through absl, whole stack traces of its threads among them, of errors that it raises as well and
    # that `checkpoint` says in a sentence.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    if compilation_cache is None:
        compilation_cache = os.environ.get("JAX_COMPILATION_CACHE_DIR") or user_cache()
    if compilation_cache:
        jax.config.update("jax_compilation_cache_dir", compilation_cache)
        if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def user_cache() -> str:
    """The folder of the compilation cache in the user's cache folder; "" where the user has no home."""
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        folder = pathlib.Path(base) if base else pathlib.Path.home() / ".cache"
    except RuntimeError:  # As in containers that run under a number without a name.
        return ""
    return str(folder / "gen_jax" / "xla")


def set_xla_flags() -> None:
    """Adds the flags that matter on CPU to `$XLA_FLAGS`, leaving out those that are set already or not known.

    An unknown flag would abort the process when the backend starts, so each is looked for in the library first.
    """
    given = os.environ.get("XLA_FLAGS", "")
    added = [f"--{flag}={value}" for flag, value in _CPU_FLAGS.items() if flag not in given and flag_is_known(flag)]
    if added:
        os.environ["XLA_FLAGS"] = " ".join([given, *added]).strip()


def flag_is_known(flag: str) -> bool:
    """Whether the installed jaxlib has an XLA flag.

    Args:
      flag: its name, without dashes.

    Returns:
      True where the name stands as a whole word in jaxlib's shared library.
    """
    spec = importlib.util.find_spec("jaxlib")
    if spec is None or not spec.submodule_search_locations:
        return False
    folder = pathlib.Path(next(iter(spec.submodule_search_locations)))
    for library in (folder / "libjax_common.so", folder / "libjax_common.dylib", folder / "jax_common.dll"):
        if not library.is_file():
            continue
        with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if data.find(b"\0" + flag.encode() + b"\0") >= 0:
                return True
    return False


def keep_large_buffers() -> None:
    """Makes glibc keep large freed buffers instead of giving them back to the system at every step.

    It does nothing where the C library is another one, or where the user tunes it by `MALLOC_*` or `GLIBC_TUNABLES`.
    """
    if not sys.platform.startswith("linux"):
        return
    if any((name.startswith("MALLOC_") and name.endswith("_")) or name == "GLIBC_TUNABLES" for name in os.environ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    mallopt(_M_MMAP_THRESHOLD, 2**30)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(_M_TOP_PAD, 2**26)


def initialize_distributed(
    coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
    """Joins the processes of a pod, before anything else touches JAX's devices.

    On a TPU pod and under Slurm everything is found by itself. Elsewhere give all three arguments.

    Args:
      coordinator: "host:port" of process 0.
      num_processes: how many there are.
      process_id: this one's number.

    Raises:
      UserError: where the processes cannot find one another.
    """
    try:
        jax.distributed.initialize(coordinator, num_processes, process_id)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"The processes could not be joined ({str(error).splitlines()[0]}); outside of a TPU pod or Slurm give "
            "--coordinator=HOST:PORT, --num_processes=N and --process_id=0..N-1 to every process."
        ) from error
