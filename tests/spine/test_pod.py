"""Two processes on loopback are one run: the same losses, one writer, a checkpoint that one process can read."""

from __future__ import annotations

import json
import os
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np

from gen_jax import run
from gen_jax.train import loop

WORKER = pathlib.Path(__file__).with_name("pod_worker.py")
NEVER = -1


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def start(process_id, count, port, folder, stop_at=NEVER):
    arguments = [str(a) for a in (process_id, count, port, folder, stop_at)]
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "2",
        "JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir),
        "PYTHONPATH": str(WORKER.parents[2]),
    }
    return subprocess.Popen(
        [sys.executable, str(WORKER), *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(processes):
    outputs = [process.communicate(timeout=240)[0] for process in processes]
    assert all(process.returncode == 0 for process in processes), "\n".join(outputs)
    return outputs


def numbers(folder, name):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def test_two_processes_train_stop_save_restore_and_give_the_losses_of_one(tmp_path):
    module = run.find_experiment("vae")
    config = module.get_config("tiny")
    loop.train(module.build(config), config, tmp_path / "run-1", say=lambda line: None, show_progress=False)
    port = free_port()
    # Only process 1 is told to stop, as when a scheduler takes one host away; both must save the same step.
    stopped = finish([start(0, 2, port, tmp_path), start(1, 2, port, tmp_path, stop_at=14)])
    assert all("step 20, finished False" in output for output in stopped), stopped
    port = free_port()
    resumed = finish([start(i, 2, port, tmp_path) for i in range(2)])
    assert all("step 40, finished True" in output for output in resumed), resumed

    one = numbers(tmp_path, "run-1/metrics.jsonl")
    for name in ("numbers-0-of-2.jsonl", "numbers-1-of-2.jsonl"):
        both = numbers(tmp_path, name)
        assert [(r["step"], r["split"]) for r in both] == [(r["step"], r["split"]) for r in one]
        for mine, theirs in zip(both, one, strict=True):
            for key in theirs.keys() - {"step", "split"}:
                np.testing.assert_allclose(mine[key], theirs[key], rtol=1e-4, err_msg=f"{key} at {mine['step']}")
    written = numbers(tmp_path, "run-2/metrics.jsonl")
    assert written == numbers(tmp_path, "numbers-0-of-2.jsonl"), "the file is not process 0's, once"
    assert len(list((tmp_path / "run-2").glob("events.out.tfevents*"))) == 2  # One a start, of process 0 alone.

    first, second = run.load(tmp_path / "run-1"), run.load(tmp_path / "run-2")
    assert second.step == 40
    np.testing.assert_allclose(first.sample(num=8), second.sample(num=8), atol=1e-4)
