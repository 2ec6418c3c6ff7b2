"""The strict session: eight simulated devices, no rank promotion, no key used twice, warnings are errors."""

from __future__ import annotations

import pathlib
import tempfile

import jax

from gen_jax import runtime

runtime.configure(str(pathlib.Path(tempfile.gettempdir()) / "gen_jax_test_cache"))
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)
