"""What a person types first."""

from __future__ import annotations

import pathlib
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from experiments import __main__ as listing
from gen_jax import cli, run


def test_every_experiment_is_listed_with_its_number_and_time(capsys):
    for name in run.experiment_names():
        text = listing.describe(name)
        assert text.startswith(name) and "Expected: " in text and "Time: " in text and "TBD" not in text


def test_dry_run_prints_the_config_and_the_parameters_and_writes_nothing(tmp_path, capsys):
    cli.main("vae", ["--dry_run", f"--workdir={tmp_path / 'run'}", "--config.optim.learning_rate=3e-4"])
    printed = capsys.readouterr().out
    assert "learning_rate: 0.0003" in printed
    assert "815,824" in printed and "decoder/Dense_1/kernel" in printed
    assert not (tmp_path / "run").exists()


def test_help_says_what_the_experiment_is_and_lists_the_flags(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main("vae", ["--help"])
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    assert "Kingma and Welling" in printed and "--workdir" in printed and "--preset" in printed


def test_train_evaluate_and_sample(tmp_path, capsys):
    workdir = f"--workdir={tmp_path / 'run'}"
    cli.main("vae", ["--preset=tiny", workdir])
    printed = capsys.readouterr().out
    assert "elbo_nats" in printed and "bits_per_dim" in printed and "samples.png" in printed
    cli.main("vae", ["--mode=eval", workdir])
    assert "log_px_nats" in capsys.readouterr().out
    cli.main("vae", ["--mode=sample", workdir, "--seed=3", "--num=10"])
    saved = np.load(tmp_path / "run" / "samples" / "seed3_num10.npy")
    assert np.array_equal(saved, run.load(tmp_path / "run").sample(seed=3, num=10))
    assert (tmp_path / "run" / "samples" / "seed3_num10.png").is_file()
    # A sample does not depend on config keys that it does not use, and one may be changed for one call.
    cli.main("vae", ["--mode=eval", workdir, "--config.eval.importance_samples=40"])


def test_the_packages_build_and_hold_the_embedded_images(tmp_path):
    root = pathlib.Path(__file__).parents[2]
    source = tmp_path / "source"  # A build leaves files behind; the checkout is not the place for them.
    for name in ("gen_jax", "experiments"):
        shutil.copytree(root / name, source / name)
    for name in ("pyproject.toml", "requirements.txt", "README.md", "LICENSE"):
        shutil.copy(root / name, source / name)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", str(tmp_path), str(source)], check=True, capture_output=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
    embedded = "gen_jax/data/embedded/fashion_mnist_10k/"
    files = ("train-images-idx3-ubyte.bz2", "t10k-labels-idx1-ubyte.bz2", "LICENSE", "README.md")
    assert {embedded + file for file in files} <= names
    assert {"gen_jax/run.py", "experiments/vae.py", "experiments/__main__.py"} <= names
