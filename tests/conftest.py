"""The strict session: eight simulated devices, no rank promotion, no key used twice, warnings are errors."""

from __future__ import annotations

import gc
import os
import pathlib
import tempfile

import jax
import pytest

from gen_jax import runtime

# LLVM's whole optimisation takes about half of the time of compiling a small U-Net; without any, what is compiled runs at
# a third of its speed. Rounding depends on the level. Whoever gives $XLA_FLAGS a level of their own has it. And where
# several workers compile at once, to compile each program in parts, in parallel, costs a tenth more.
for flag in ("--xla_backend_optimization_level=1", "--xla_cpu_parallel_codegen_split_count=1"):
    if flag.partition("=")[0] not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
gc.set_threshold(50_000, 20, 50)  # Tracing makes many small objects: looking through them so often costs a tenth as well.
runtime.configure(str(pathlib.Path(tempfile.gettempdir()) / "gen_jax_test_cache"))
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)


@pytest.fixture(autouse=True)
def _drop_programs():
    """Drops compiled programs when they are many: Linux allows 65,530 pieces of memory, a U-Net's step takes 1,200."""
    yield
    maps = pathlib.Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > 20_000:
        jax.clear_caches()
