"""The run card: what was run, with which versions, commit and data, the final numbers, and how to reload it."""

from __future__ import annotations

import importlib.metadata
import pathlib
import platform
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from gen_jax.contracts import Experiment

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def provenance(experiment: Experiment) -> dict[str, Any]:
    """What a run was made with.

    Args:
      experiment: whose data are named.

    Returns:
      A JSON object: versions, the git commit where there is one, the devices, and each data set's size, shape, origin
      and fingerprint.
    """
    sources = {"train": experiment.train_source, "test": experiment.test_source}
    return {
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "commit": git_commit(),
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}, {jax.process_count()} process(es)",
        "data": {
            split: {
                "num_examples": source.num_examples,
                "example_shape": list(source.example_shape),
                "origin": source.origin,
                "fingerprint": source.fingerprint,
                "notes": dict(source.notes),
            }
            for split, source in sources.items()
        },
    }


def git_commit() -> str:
    """The commit of the checkout that this package is imported from, with "+" where files differ; else "none"."""
    here = pathlib.Path(__file__).parent

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(here), *words], capture_output=True, text=True, check=True, timeout=10)
        return done.stdout.strip()

    try:
        # Where the package is installed inside another project's checkout, that project's commit would mislead.
        git("ls-files", "--error-unmatch", str(pathlib.Path(__file__)))
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return "none"


def drawn(workdir: pathlib.Path) -> list[pathlib.Path]:
    """The pictures and videos in a workdir, sorted by name."""
    return sorted(path for path in (workdir / "pictures").glob("*") if path.suffix in (".png", ".mp4"))


def run_card(
    config: ConfigDict,
    workdir: pathlib.Path,
    step: int,
    facts: Mapping[str, Any],
    results: Mapping[str, float],
    pictures: Sequence[pathlib.Path] = (),
) -> str:
    """The text of a workdir's README.md.

    Args:
      config: of the run.
      workdir: the folder.
      step: how many steps were trained.
      facts: what `provenance` returned, and the `command`.
      results: the final numbers.
      pictures: the paths of its pictures and videos.

    Returns:
      Markdown.
    """
    images = len(facts["data"]["train"]["example_shape"]) == 3
    samples = "[64, H, W, C] in [0, 1]" if images else "[64, 2]"
    seen = ", ".join(f"[{path.name}](pictures/{path.name})" for path in pictures)
    versions = ", ".join(f"{package} {version}" for package, version in facts["versions"].items())
    numbers = "\n".join(f"| {key} | {value:.6g} |" for key, value in results.items())
    data = "\n".join(
        f"| {split} | {d['num_examples']} | {d['origin']} | `{d['fingerprint'][:16]}` |"
        for split, d in facts["data"].items()
    )
    by = f" by `{facts['command']}`" if facts["command"] else ""
    return f"""# {config.experiment}, preset {config.preset}

Trained for {step} steps{by}; the whole config is in `config.json`.

| test metric | value |
|---|---|
{numbers}

| data | examples | origin | fingerprint |
|---|---|---|---|
{data}

Made with Python {facts["python"]}, {versions}; commit {facts["commit"]}; {facts["devices"]}.

Reload it:

```python
import gen_jax

run = gen_jax.load("{workdir}")
samples = run.sample(seed=0, num=64)  # {samples}
numbers = run.evaluate()
```

Pictures and videos: {seen or "none"}. `metrics.jsonl` has every logged number; `tensorboard --logdir={workdir}` draws
them.
"""
