"""The benchmarks of the spine and of the VAE on it."""

from __future__ import annotations

import dataclasses
import functools
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
from .timing import Contest, Row


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


def loop_overhead(seconds: float) -> Row:
    """The whole loop, with loading, logging, progress and checkpoints, against the bare step."""
    config = vae.get_config()
    per_call, calls = config.train.steps_per_call, 60
    config.train.duration = f"{per_call * (calls + 20)} steps"
    config.train.eval_every = "1000000 steps"
    config.train.checkpoint_every = "300 steps"  # Two of them in the time that is measured.
    experiment = vae.build(config)
    bare = timing.bare_step(experiment)
    ratios: list[float] = []
    bare()
    begin = time.perf_counter()
    while len(ratios) < 3 or time.perf_counter() - begin < 2 * seconds:
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


def loader(seconds: float) -> Row:
    """Images a second that the loader makes, against those that the fastest experiment eats."""
    experiment = vae.build(vae.get_config())
    source, per_call = experiment.train_source, experiment.steps_per_call
    size = source.batches(0, per_call)["image"].shape[1] * per_call
    bare = timing.bare_step(experiment)
    ratio = timing.ratio(bare, _Calls(source, per_call), seconds)
    made, eaten = size / ratio.reference, size / ratio.seconds
    return "loader against the VAE's appetite", f"{made:,.0f} images/s, {made / eaten:.0f}x", "≥ 5x"


class _Calls:
    """Makes the batches of one call after another."""

    def __init__(self, source: Any, per_call: int):
        self._source, self._per_call, self._step = source, per_call, 0

    def __call__(self) -> None:
        self._source.batches(self._step, self._per_call)
        self._step += self._per_call


def contests() -> list[Contest]:
    """A training step against the same model in PyTorch."""
    return [
        Contest(
            f"VAE, training step ({preset})",
            functools.partial(_ours, preset),
            functools.partial(_peers, preset),
            vae.get_config(preset).train.steps_per_call,
        )
        for preset in ("default", "conv")
    ]


def _ours(preset: str) -> timing.Call:
    return timing.bare_step(vae.build(vae.get_config(preset)))


def _peers(preset: str) -> dict[str, timing.Call]:
    import torch

    from . import torch_vae

    torch.manual_seed(0)
    networks = torch_vae.mlp() if preset == "default" else torch_vae.conv()
    experiment = vae.build(vae.get_config(preset))
    step = torch_vae.make_step(networks, experiment.train_source.batch(0)["image"])
    return {"eager": timing.repeat(step, experiment.steps_per_call)}
