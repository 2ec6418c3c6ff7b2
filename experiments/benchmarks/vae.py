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
            check=functools.partial(_check, preset),
        )
        for preset in ("default", "conv")
    ]


def _ours(preset: str) -> timing.Call:
    return timing.bare_step(vae.build(vae.get_config(preset)))


def _networks(preset: str) -> Any:
    """Encoder and decoder in PyTorch, the same each time."""
    import torch

    from . import torch_vae

    torch.manual_seed(0)
    return torch_vae.mlp() if preset == "default" else torch_vae.conv()


def _peers(preset: str) -> dict[str, timing.Call]:
    from . import torch_vae

    experiment = vae.build(vae.get_config(preset))
    step = torch_vae.make_step(_networks(preset), experiment.train_source.batch(0)["image"])
    return {"eager": timing.repeat(step, experiment.steps_per_call)}


def _check(preset: str) -> None:
    """Refuses to compare networks that do not give the same from the same weights."""
    import torch

    from . import torch_vae

    networks = _networks(preset)
    encoder, decoder = (torch_vae.flax_params(network) for network in networks)
    last = encoder.pop(f"Dense_{sum(name.startswith('Dense') for name in encoder) - 1}")
    for name, half in (("mean", np.s_[..., :20]), ("log_var", np.s_[..., 20:])):
        encoder[name] = {key: array[half] for key, array in last.items()}
    model = vae.build_model(vae.get_config(preset), (28, 28, 1))
    params = {"params": {"encoder": encoder, "decoder": decoder}}
    x = np.random.default_rng(0).random((4, 28, 28, 1), np.float32)
    mean, log_var = model.apply(params, x, method="encode")
    outputs: Any = model.apply(params, mean, method="decode")
    with torch.inference_mode():
        code = networks[0](torch.from_numpy(x).permute(0, 3, 1, 2))
        theirs = networks[1](code[:, :20]).permute(0, 2, 3, 1)
    for ours, peer in ((np.concatenate([mean, log_var], axis=1), code), (outputs["logits"], theirs)):
        if np.abs(np.asarray(ours) - peer.numpy()).max() > 1e-4:
            raise RuntimeError(f"The networks of the VAE ({preset}) differ: they are no measure of each other.")
