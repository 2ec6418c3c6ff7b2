"""The benchmarks of the spine and of the VAE on it."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np

from experiments import vae
from gen_jax.train import loop

from . import timing
from .timing import Row


class _Clocked:
    """A source that notes when each call's batches were asked for."""

    def __init__(self, source: Any):
        self._source = source
        self.times: dict[int, float] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def batches(self, step: int, count: int) -> Any:
        self.times[step] = time.perf_counter()
        return self._source.batches(step, count)


def loop_overhead(turns: int) -> Row:
    """The whole loop, with loading, logging, progress and checkpoints, against the bare step."""
    config = vae.get_config()
    per_call, calls = config.train.steps_per_call, 60
    config.train.duration = f"{per_call * (calls + 20)} steps"
    config.train.eval_every = "1000000 steps"
    config.train.checkpoint_every = "300 steps"  # Two of them in the time that is measured.
    experiment = vae.build(config)
    bare, ratios = timing.bare_step(experiment), []
    bare()
    for _ in range(max(3, turns // 4)):
        source = _Clocked(experiment.train_source)
        clocked = dataclasses.replace(experiment, train_source=source)
        with tempfile.TemporaryDirectory() as folder:
            loop.train(clocked, config, folder, say=lambda line: None)
        first, last = 10 * per_call, (10 + calls) * per_call  # Past compilation, before the last evaluation.
        whole = (source.times[last] - source.times[first]) / calls
        start = time.perf_counter()
        for _ in range(calls):
            bare()
        ratios.append(whole / ((time.perf_counter() - start) / calls))
    low, median, high = np.percentile(ratios, [10, 50, 90])
    measured = f"{100 * (median - 1):+.1f} % ({100 * (low - 1):+.1f} to {100 * (high - 1):+.1f})"
    return "whole loop against the bare step, VAE, 10 steps a call", measured, "≤ +5 %"


def launch() -> list[Row]:
    """From `python -m experiments.vae` to the first ten steps, without and with a warm compilation cache."""
    with tempfile.TemporaryDirectory() as folder:
        cold = _first_row(pathlib.Path(folder), "cold")
        warm = _first_row(pathlib.Path(folder), "warm")
    return [
        ("launch to the first step, cold cache", f"{cold:.1f} s", ""),
        ("the same, warm cache", f"{warm:.1f} s", ""),
    ]


def _first_row(folder: pathlib.Path, name: str) -> float:
    workdir = folder / name
    start = time.perf_counter()
    with _train_process(workdir, folder / "cache", "1000000 steps") as process:
        while not (workdir / "metrics.jsonl").is_file() or not (workdir / "metrics.jsonl").stat().st_size:
            if process.poll() is not None:
                raise RuntimeError("The training process ended before its first step.")
            time.sleep(0.01)
        elapsed = time.perf_counter() - start
        process.kill()
    return elapsed


def _train_process(workdir: pathlib.Path, cache: pathlib.Path, duration: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "experiments.vae", f"--workdir={workdir}", f"--config.train.duration={duration}"]
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache)}
    quiet = subprocess.DEVNULL
    return subprocess.Popen(
        [*command, "--config.train.log_every=10 steps"], env=environment, stdout=quiet, stderr=quiet
    )


def loader() -> Row:
    """Images a second that the loader makes, against those that the fastest experiment eats."""
    experiment = vae.build(vae.get_config())
    source, per_call = experiment.train_source, experiment.steps_per_call
    size = source.batches(0, per_call)["image"].shape[1] * per_call
    bare = timing.bare_step(experiment)
    ratio = timing.interleave(bare, _Calls(source, per_call), turns=10, calls=10)
    made, eaten = size / ratio.reference, size / ratio.seconds
    return "loader against the VAE's appetite", f"{made:,.0f} images/s, {made / eaten:.0f}x", "≥ 5x"


class _Calls:
    """Makes the batches of one call after another."""

    def __init__(self, source: Any, per_call: int):
        self._source, self._per_call, self._step = source, per_call, 0

    def __call__(self) -> None:
        self._source.batches(self._step, self._per_call)
        self._step += self._per_call


def peak_memory() -> Row:
    """The largest resident size of a whole default run, shortened."""
    with (
        tempfile.TemporaryDirectory() as folder,
        _train_process(pathlib.Path(folder) / "run", pathlib.Path(folder) / "cache", "200 steps") as process,
    ):
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    scale = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes on macOS and in KiB on Linux.
    return "peak memory of a run, data and pictures included", f"{usage.ru_maxrss * scale / 2**20:,.0f} MiB", ""


def against_torch(turns: int) -> list[Row]:
    """A training step against the same model in PyTorch, in turns."""
    import torch

    from . import torch_vae

    rows = []
    for preset, make in (("default", torch_vae.mlp), ("conv", torch_vae.conv)):
        experiment = vae.build(vae.get_config(preset))
        per_call = experiment.steps_per_call
        torch.manual_seed(0)
        peer = torch_vae.make_step(make(), experiment.train_source.batch(0)["image"])
        name = f"VAE step ({preset}) against PyTorch {torch.__version__}"
        rows.append(timing.against(name, timing.bare_step(experiment), peer, per_call, turns))
    return rows
