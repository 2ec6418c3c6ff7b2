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
        text = listing.entry(name)
        assert text.startswith(name) and "Expected: " in text and "Time: " in text and "TBD" not in text
    listing.main([])
    printed = capsys.readouterr().out
    assert all(f"Command: python -m experiments.{name} " in printed for name in run.experiment_names())


def test_the_list_says_all_of_an_experiment_that_is_named(capsys):
    listing.main(["vae"])
    assert str(run.find_experiment("vae").__doc__).strip() in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["vaee"], "There is no experiment 'vaee' (did you mean vae?)"),
        (["--preset=tiny"], "`python -m experiments.NAME --preset=tiny`"),
        (["nothing_like_it"], "`python -m experiments` lists them"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_the_list_refuses_what_is_not_in_it(arguments, expected):
    done = subprocess.run([sys.executable, "-m", "experiments", *arguments], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("error: ") and expected in done.stderr
    assert "Traceback" not in done.stderr and not done.stdout


def test_dry_run_prints_the_config_and_the_parameters_and_writes_nothing(tmp_path, capsys):
    cli.main("vae", ["--dry_run", f"--workdir={tmp_path / 'run'}", "--config.optim.learning_rate=3e-4"])
    printed = capsys.readouterr().out
    assert "learning_rate: 0.0003" in printed
    assert "815,824" in printed and "decoder/Dense_1/kernel" in printed
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", run.experiment_names())
def test_help_says_what_matters_on_one_screen(name, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(name, ["--help"])
    assert stopped.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 60 and max(map(len, lines)) <= 100
    module = run.find_experiment(name)
    words = " ".join(" ".join(lines).split())
    assert all(" ".join(part.split()) in words for part in str(module.__doc__).split("\n\n"))  # Folded, but whole.
    beginnings = [line.split("=")[0].split()[0] for line in lines if line.startswith("  ")]
    presets, modes = set(module._PRESETS), set(cli.MODES)
    assert presets | modes <= set(beginnings)
    flags = {"workdir", "preset", "mode", "data_dir", "dry_run", "seed", "num", "path", "frames", "config.KEY"}
    flags |= {"distributed", "coordinator", "num_processes", "process_id"}
    assert {f"--{flag}" for flag in flags} <= set(beginnings)


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
    # A key may be changed for one call.
    cli.main("vae", ["--mode=sample", workdir, "--num=1", "--config.eval.importance_samples=40"])
    assert (tmp_path / "run" / "samples" / "seed0_num1_eval.importance_samples=40.png").is_file()


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
