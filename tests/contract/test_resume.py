"""Every experiment: a run stopped in the middle and gone on with is, to the bit, the run that was not."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import chex
import jax
import numpy as np
import pytest

from gen_jax import rng, run
from gen_jax.checkpoint import Checkpoints, to_arrays
from gen_jax.data import ImageBatches
from gen_jax.train import loop, parallel


class StopAt:
    """A source that sends SIGTERM to this process when the batches of a step are asked for."""

    def __init__(self, source, step):
        self._source, self._step = source, step

    def __getattr__(self, name):
        return getattr(self._source, name)

    def batch(self, step):
        if step == self._step:
            os.kill(os.getpid(), signal.SIGTERM)
        return self._source.batch(step)

    def batches(self, step, count):
        if step <= self._step < step + count:
            os.kill(os.getpid(), signal.SIGTERM)
        return self._source.batches(step, count)


def train_on(devices, experiment, config, workdir, monkeypatch):
    make = parallel.Layout
    monkeypatch.setattr(parallel, "Layout", lambda backend: make(backend, jax.devices()[:devices]))
    outcome = loop.train(experiment, config, workdir, say=lambda line: None, show_progress=False)
    monkeypatch.undo()
    return outcome


def final_arrays(workdir, experiment):
    state, step = Checkpoints(workdir / "checkpoints").restore_latest(jax.jit(experiment.init)(rng.root(0)))
    return to_arrays(state), step


# The quick tests: images and one player, points and two, and rays.
QUICK = {
    ("vae", 8, 8),
    ("gan_ring", 1, 8),
    ("tiny_nerf", 1, 8),
}
CASES = [
    pytest.param(name, *devices, marks=[] if (name, *devices) in QUICK else [pytest.mark.slow])
    for name in run.experiment_names()
    for devices in ((1, 1), (8, 8), (8, 1), (1, 8))
]


@pytest.mark.parametrize(("name", "before", "after"), CASES)
def test_resume_across_numbers_of_devices(name, before, after, tmp_path, monkeypatch):
    config = run.find_experiment(name).get_config("tiny")
    if before != after:
        # Adam divides by a gradient's size, and so makes of a rounding error in a tiny one a whole step.
        config.optim.name, config.optim.learning_rate = "sgd", 1e-3
    experiment = run.find_experiment(name).build(config)
    if isinstance(test := experiment.test_source, ImageBatches):
        experiment = replace(experiment, test_source=replace(test, images=test.images[:40], labels=test.labels[:40]))
    whole = train_on(before, experiment, config, tmp_path / "whole", monkeypatch)
    stopping = replace(experiment, train_source=StopAt(experiment.train_source, whole.step // 2))
    stopped = train_on(before, stopping, config, tmp_path / "broken", monkeypatch)
    assert not stopped.finished and 0 < stopped.step < whole.step
    assert train_on(after, experiment, config, tmp_path / "broken", monkeypatch).finished

    (one, step), (other, other_step) = (final_arrays(tmp_path / run, experiment) for run in ("whole", "broken"))
    assert step == other_step == whole.step
    if before == after:
        chex.assert_trees_all_equal(one, other)
        for files in ("metrics.jsonl", "pictures/*", "frames/*"):
            written = [sorted((tmp_path / run).glob(files)) for run in ("whole", "broken")]
            assert [p.name for p in written[0]] == [p.name for p in written[1]]
            for one_file, other_file in zip(*written, strict=True):
                assert one_file.read_bytes() == other_file.read_bytes(), one_file
        assert bool(list((tmp_path / "whole").glob("frames/*"))) == (experiment.frame is not None)
    else:
        # Sums over eight parts are added in another order than over one: close, not equal.
        for key in one:
            if key.startswith("params/"):
                np.testing.assert_allclose(one[key], other[key], rtol=0, atol=1e-6, err_msg=key)
