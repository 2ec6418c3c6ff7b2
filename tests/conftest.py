"""The strict session: eight simulated devices, no rank promotion, no key used twice, warnings are errors."""

from __future__ import annotations

import os
import pathlib
import tempfile

import jax
import pytest

from gen_jax import runtime

# LLVM's optimisation takes about half of the time of compiling a small U-Net. Rounding depends on the level: sums that
# are not vectorised are less exact. Whoever gives $XLA_FLAGS a level of their own has it.
if "xla_backend_optimization_level" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0".strip()
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
