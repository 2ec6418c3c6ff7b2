"""Process-level settings: known flags are set, unknown ones never, and what the user set is kept."""

from __future__ import annotations

import os
import subprocess
import sys

import jax
import pytest

from gen_jax import runtime
from gen_jax.contracts import UserError

FLAG = "xla_cpu_experimental_ynn_fusion_type"


def test_a_flag_is_known_when_jaxlib_has_it():
    assert runtime.flag_is_known("xla_cpu_enable_fast_math")
    assert not runtime.flag_is_known("xla_cpu_no_such_flag")
    assert not runtime.flag_is_known("xla_cpu_enable_fast_mat")


def test_an_unknown_flag_is_not_set(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setattr(runtime, "_CPU_FLAGS", {"xla_cpu_no_such_flag": "1"})
    runtime.set_xla_flags()
    assert os.environ["XLA_FLAGS"] == ""


def test_the_users_flags_are_kept(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", f"--xla_dump_to=/nowhere --{FLAG}=")
    runtime.set_xla_flags()
    assert os.environ["XLA_FLAGS"] == f"--xla_dump_to=/nowhere --{FLAG}="
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=/nowhere")
    runtime.set_xla_flags()
    assert os.environ["XLA_FLAGS"].startswith("--xla_dump_to=/nowhere")
    assert (FLAG in os.environ["XLA_FLAGS"]) == runtime.flag_is_known(FLAG)


def test_configure_comes_before_jax_starts_and_jax_accepts_it(tmp_path):
    code = (
        "from gen_jax import runtime; runtime.configure()\n"
        "import jax; jax.numpy.ones(3).sum()\n"
        "print(jax.config.jax_compilation_cache_dir)"
    )
    environment = os.environ | {"XLA_FLAGS": "", "XDG_CACHE_HOME": str(tmp_path), "JAX_PLATFORMS": "cpu"}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(tmp_path / "gen_jax" / "xla")
    assert list((tmp_path / "gen_jax" / "xla").iterdir()), "nothing was cached"


def test_a_pod_that_cannot_be_joined_is_one_sentence(monkeypatch):
    def fail(*arguments):
        raise ValueError("coordinator_address should be defined.\nMore lines.")

    monkeypatch.setattr(jax.distributed, "initialize", fail)
    with pytest.raises(UserError, match=r"could not be joined \(coordinator_address.*--coordinator=HOST:PORT"):
        runtime.initialize_distributed()
