"""The paper's comparison on MNIST, shortened; the README has the figures of the whole runs."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[3]
MNIST = ROOT.parent / "shared" / "data" / "mnist"
NO_PROBE = ("eval.probe_examples=0",)
needs_mnist = pytest.mark.skipif(not (MNIST / "mnist.npz").is_file(), reason="needs MNIST beside the checkout")


def results(workdir: pathlib.Path, experiment: str, *changes: str) -> dict[str, float]:
    """The final numbers of a run, in a process of its own: this session's eight simulated devices are slow."""
    command = [sys.executable, "-m", f"experiments.{experiment}", "--preset=mnist", f"--data_dir={MNIST}"]
    arguments = [f"--workdir={workdir}", *(f"--config.{change}" for change in changes)]
    subprocess.run([*command, *arguments], check=True, capture_output=True, cwd=ROOT)
    return json.loads((workdir / "results.json").read_text())


@pytest.mark.slow
@needs_mnist
def test_thirty_numbers_beat_thirty_principal_components(tmp_path):
    """Hinton and Salakhutdinov's 13.87 an image for PCA; two epochs already need half of it."""
    found = results(tmp_path, "autoencoder", "train.duration=2 epochs", "optim.learning_rate=1e-3", *NO_PROBE)
    assert found["pca_squared_error"] == pytest.approx(13.87, abs=0.005)
    assert found["squared_error"] < 0.6 * 13.87


@pytest.mark.slow
@needs_mnist
def test_twenty_epochs_come_near_the_papers_three(tmp_path):
    """The paper has 3.00; sixty epochs, in the README, have less."""
    found = results(tmp_path, "autoencoder", "train.duration=20 epochs", *NO_PROBE)
    assert found["squared_error"] < 3.5


@pytest.mark.slow
@needs_mnist
@pytest.mark.parametrize(
    ("experiment", "code"), [("sparse_autoencoder", "sparse"), ("contractive_autoencoder", "contractive")]
)
def test_a_linear_classifier_reads_more_from_the_code_than_from_the_plain_one_or_the_pixels(experiment, code, tmp_path):
    """With 10,000 labels and the preset's epochs."""
    found = results(tmp_path, experiment, "eval.probe_examples=10000")
    assert found[f"{code}_probe_error_percent"] < found["plain_probe_error_percent"] - 1
    assert found[f"{code}_probe_error_percent"] < found["pixels_probe_error_percent"] - 3
