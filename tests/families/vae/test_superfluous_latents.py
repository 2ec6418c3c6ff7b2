"""The paper's claim on a real data set, shortened; the README has the figures of the whole runs."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import pytest

FASHION = pathlib.Path("/usr/share/datasets/fashion-mnist")


def bound(workdir: pathlib.Path, latent_dim: int) -> float:
    """The test ELBO of 15 epochs, in a process of its own: this session's eight simulated devices are slow."""
    changes = [f"--config.model.latent_dim={latent_dim}", "--config.train.duration=15 epochs"]
    command = [sys.executable, "-m", "experiments.vae", "--preset=full", f"--workdir={workdir}", *changes]
    subprocess.run(command, check=True, capture_output=True, cwd=pathlib.Path(__file__).parents[3])
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [row["elbo_nats"] for row in rows if row["split"] == "test"][-1]


@pytest.mark.slow
@pytest.mark.skipif(not FASHION.is_dir(), reason="needs the Debian package dataset-fashion-mnist")
def test_superfluous_latents_do_not_overfit(tmp_path):
    """AEVB, Section 5: 200 codes give a test bound no worse than 20."""
    few, many = bound(tmp_path / "20", 20), bound(tmp_path / "200", 200)
    assert many > few - 1.0, (few, many)
