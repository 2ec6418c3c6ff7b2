"""The strict session: eight simulated devices, no rank promotion, no key used twice, warnings are errors."""

from __future__ import annotations

import gc
import os
import pathlib
import tempfile

import jax
import pytest

from gen_jax import runtime

# LLVM's whole optimisation takes about half the time of compiling a small U-Net; without any, programs run at a third
# of their speed. To compile a program in parts, in parallel, costs a tenth more where several workers compile at once.
# Without the newer emitters a program of one operation is compiled in two thirds of the time. Rounding depends on the
# first and the last. Whoever gives $XLA_FLAGS these flags has their own.
_FLAGS = {
    "xla_backend_optimization_level": 1,
    "xla_cpu_parallel_codegen_split_count": 1,
    "xla_cpu_use_fusion_emitters": "false",
}
for flag, value in _FLAGS.items():
    if flag not in os.environ.get("XLA_FLAGS", "") and runtime.flag_is_known(flag):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --{flag}={value}".strip()
# Two workers and the processes that they start share the cores: threads of BLAS that wait for each other take twice the
# time of one. What has loaded NumPy already, as this process has, keeps its own.
for threads in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(threads, "1")
# The runs that tests start by the command line have the level above, for they train; what is computed in this process
# is compiled for longer than it runs, and does without any.
if "JAX_DISABLE_MOST_OPTIMIZATIONS" not in os.environ:
    jax.config.update("jax_disable_most_optimizations", True)
gc.set_threshold(50_000, 20, 50)  # Tracing makes many small objects; by default looking through them costs a tenth too.
runtime.configure(str(pathlib.Path(tempfile.gettempdir()) / "gen_jax_test_cache"))
# What is compiled in less is not worth its way to the disk and back, a twenty-fifth of the tests' time.
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole runs first: what is long is not left for the end, and one worker keeps the runs that several tests read."""
    items.sort(key=lambda item: item.path.parent.name != "spine")


@pytest.fixture(autouse=True)
def _drop_programs():
    """Drops compiled programs when they are many: Linux allows 65,530 pieces of memory, a U-Net's step takes 1,200."""
    yield
    maps = pathlib.Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > 12_000:
        jax.clear_caches()
