"""A run that was interrupted, in any way, is to the bit the run that was not."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import chex
import jax
import numpy as np
import pytest

from gen_jax import rng, run
from gen_jax.checkpoint import Checkpoints
from gen_jax.train import loop

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def experiment():
    return run.find_experiment("vae").build(config())


def config():
    return run.find_experiment("vae").get_config("tiny")


def final_state(workdir, experiment):
    checkpoints = Checkpoints(workdir / "checkpoints")
    return checkpoints.restore_latest(experiment.init(rng.root(0)))


def assert_same_run(first, second, experiment):
    (a, step_a), (b, step_b) = final_state(first, experiment), final_state(second, experiment)
    assert step_a == step_b
    chex.assert_trees_all_equal(dataclasses.replace(a, key=None), dataclasses.replace(b, key=None))
    assert (first / "metrics.jsonl").read_bytes() == (second / "metrics.jsonl").read_bytes()
    for picture in ("samples", "reconstructions", "interpolation"):
        name = f"pictures/{picture}.png"
        assert (first / name).read_bytes() == (second / name).read_bytes()


def start(workdir, *arguments):
    command = [sys.executable, "-m", "experiments.vae", "--preset=tiny", f"--workdir={workdir}", *arguments]
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir)}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


STEPS = 80
LONG = (f"--config.train.duration={STEPS} steps", "--config.train.checkpoint_every=4 steps")


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """A run of `STEPS` steps with a checkpoint every 4, never interrupted."""
    workdir = tmp_path_factory.mktemp("unbroken") / "run"
    process = start(workdir, *LONG)
    output, _ = process.communicate(timeout=180)
    assert process.returncode == 0, output
    return workdir


def wait_for(condition, process, timeout=120.0):
    end = time.monotonic() + timeout
    while not condition():
        assert process.poll() is None, f"the process ended by itself: {process.communicate()[0]}"
        assert time.monotonic() < end, "timeout"
        time.sleep(0.0005)


def has_checkpoint(workdir):
    return lambda: any(p.name.isdigit() for p in (workdir / "checkpoints").glob("*"))


def is_saving(workdir):
    return lambda: any("tmp" in p.name for p in (workdir / "checkpoints").glob("*"))


def test_kill_9_at_random_moments_and_while_a_checkpoint_is_written(tmp_path, unbroken, experiment):
    workdir, moments = tmp_path / "run", random.Random(0)
    for attempt in range(2):
        process = start(workdir, *LONG)
        wait_for(has_checkpoint(workdir), process)
        before = set((workdir / "checkpoints").glob("*"))
        if attempt == 0:
            wait_for(is_saving(workdir), process)
        else:
            # A new checkpoint says that this attempt trains; then some moment of the next half second.
            wait_for(lambda before=before: set((workdir / "checkpoints").glob("*")) - before, process)
            time.sleep(moments.uniform(0.0, 0.5))
        process.kill()
        process.communicate()
    process = start(workdir, *LONG)
    output, _ = process.communicate(timeout=180)
    assert process.returncode == 0, output
    assert "Continuing" in output or "finished" in output
    assert_same_run(workdir, unbroken, experiment)
    assert not list((workdir / "checkpoints").glob("*tmp*")), "what the kill left unfinished is still there"


def test_sigterm_finishes_the_step_saves_and_says_how_to_continue(tmp_path, unbroken, experiment):
    workdir = tmp_path / "run"
    process = start(workdir, *LONG)
    wait_for(has_checkpoint(workdir), process)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert "Stopped by SIGTERM at step" in output and "The same command continues" in output
    process = start(workdir, *LONG)
    output, _ = process.communicate(timeout=180)
    assert process.returncode == 0, output
    assert_same_run(workdir, unbroken, experiment)


def test_a_finished_run_says_so_and_changes_nothing(unbroken):
    before = {p: p.read_bytes() for p in unbroken.rglob("*") if p.is_file()}
    process = start(unbroken, *LONG)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0 and f"This run is finished: {STEPS} steps" in output
    assert {p: p.read_bytes() for p in unbroken.rglob("*") if p.is_file()} == before


def test_the_workdir_holds_all_that_it_should(unbroken):
    names = {p.relative_to(unbroken).as_posix() for p in unbroken.rglob("*")}
    expected = {"config.json", "provenance.json", "metrics.jsonl", "README.md", f"checkpoints/{STEPS}"}
    expected |= {
        f"pictures/{name}.png" for name in ("samples", "reconstructions", "interpolation", "manifold", "codes")
    }
    assert expected <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    card = (unbroken / "README.md").read_text()
    for fact in ("elbo_nats", "jax", "commit", "fingerprint", "gen_jax.load"):
        assert fact in card


def test_load_gives_the_same_samples_to_the_bit_from_any_directory(unbroken, tmp_path, monkeypatch):
    first = run.load(unbroken)
    samples = first.sample(seed=5, num=20)
    monkeypatch.chdir(tmp_path)
    second = run.load(str(unbroken))
    assert second.step == STEPS and second.config == first.config
    assert np.array_equal(second.sample(seed=5, num=20, batch_size=3), samples)
    assert np.array_equal(second.sample(seed=5, num=3), samples[:3])
    numbers = second.evaluate()
    assert {"elbo_nats", "log_px_nats", "bits_per_dim"} <= numbers.keys()
    assert numbers == first.evaluate()


def test_init_from_starts_from_another_runs_parameters(tmp_path, unbroken, experiment):
    cfg = config()
    cfg.init_from = str(unbroken)
    said = []
    loop.train(experiment, cfg, tmp_path / "run", say=said.append, show_progress=False)
    assert any("Starting from the parameters" in line for line in said)
    first = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0]
    scratch = (unbroken / "metrics.jsonl").read_text().splitlines()[0]
    assert float(first.split('"loss": ')[1].split(",")[0]) < 0.8 * float(scratch.split('"loss": ')[1].split(",")[0])
