"""A workdir is a run: who may write in it, which config it holds, and whether that is the one asked for."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

from ml_collections import ConfigDict

from gen_jax import config as config_lib
from gen_jax.contracts import UserError
from gen_jax.files import absolute, replace_text

# What a run writes over, and what is therefore a stranger's where there is no config beside it.
_WRITTEN = ("README.md", "checkpoints", "frames", "metrics.jsonl", "pictures", "provenance.json", "results.json")


def open_workdir(path: str | os.PathLike[str]) -> pathlib.Path:
    """Makes a workdir, or finds it.

    Args:
      path: the folder.

    Returns:
      Its absolute path.

    Raises:
      UserError: where it cannot be named, made or written.
    """
    workdir = absolute(path)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        probe = workdir / f".writable-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"The workdir {workdir} cannot be written ({error.strerror}); give a folder of yours by --workdir=..."
        ) from error
    return workdir


@contextlib.contextmanager
def lock(workdir: pathlib.Path) -> Iterator[None]:
    """Keeps a second process from training in the same workdir; the system frees the lock even after a kill -9.

    Args:
      workdir: the folder.

    Raises:
      UserError: where another process holds it.
    """
    with (workdir / ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"Another process is training in {workdir}; wait for it, stop it, or give another --workdir."
            ) from error
        yield


def read_config_text(workdir: pathlib.Path) -> str | None:
    """The text of a workdir's config.json; None where there is none.

    Raises:
      UserError: where it cannot be read as text.
    """
    path = workdir / "config.json"
    try:
        return path.read_text() if path.is_file() else None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as text; restore it, or give another --workdir.") from error


def claim(workdir: pathlib.Path, config: ConfigDict) -> None:
    """Writes the config into a new workdir, or checks that the workdir's is the same but for what is free to change.

    Args:
      workdir: the folder.
      config: the resolved config.

    Raises:
      UserError: where the workdir holds another experiment or an incompatible config, naming what differs.
    """
    text = read_config_text(workdir)
    if text is None:
        there = [name for name in _WRITTEN if (workdir / name).exists()]
        if there:
            raise UserError(
                f"{workdir} is not empty ({', '.join(there)}) and has no config.json, so it is not a run's; give a new "
                "folder by --workdir=..."
            )
        write_config(workdir, config)
    else:
        check_experiment(workdir, text, config.experiment)
        # What lies there is read against the new config's keys: both are of the same experiment.
        changed = differences(workdir, config, config_lib.is_free_to_change)
        if changed:
            raise UserError(
                f"The workdir {workdir} holds a run with another config: {'; '.join(changed)}. Give the same values to "
                "continue it, or another --workdir."
            )


def differences(
    workdir: pathlib.Path, config: ConfigDict, ignore: Callable[[str], bool] = lambda key: False
) -> list[str]:
    """The keys in which a workdir's config and another one of its experiment differ, as `config.differences` has it.

    Args:
      workdir: the folder.
      config: the other one.
      ignore: whether a dotted key may differ.

    Returns:
      One text a key; none where the workdir has no config yet.

    Raises:
      UserError: where the workdir's cannot be read.
    """
    text = read_config_text(workdir)
    return [] if text is None else config_lib.differences(config_lib.from_json(text, config), config, ignore)


def write_config(workdir: pathlib.Path, config: ConfigDict) -> None:
    """Records the config that the run is made with, as it starts or goes on."""
    replace_text(workdir / "config.json", config_lib.to_json(config))


def check_experiment(workdir: pathlib.Path, text: str, name: str) -> None:
    """Refuses a workdir of another experiment.

    Args:
      workdir: the folder, for the message.
      text: of its config.json.
      name: of the experiment wanted.

    Raises:
      UserError: where the workdir's is another, or none.
    """
    found = experiment_name(workdir, text)
    if found != name:
        raise UserError(f"The workdir {workdir} holds a run of '{found}', not of '{name}'; give another --workdir.")


def experiment_name(workdir: pathlib.Path, text: str) -> str:
    """The experiment that a workdir's config.json names.

    Args:
      workdir: the folder, for the message.
      text: of its config.json.

    Returns:
      The name; it may be anything.

    Raises:
      UserError: where the text names none.
    """
    try:
        return str(json.loads(text)["experiment"])
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise UserError(
            f"{workdir / 'config.json'} is not a run's config; restore it, or give another --workdir."
        ) from error


def check_data(workdir: pathlib.Path, facts: dict[str, Any]) -> None:
    """Refuses to continue a run on other data than it began with.

    Args:
      workdir: the folder.
      facts: what `card.provenance` returned.

    Raises:
      UserError: where a data set's fingerprint differs from the recorded one.
    """
    old = recorded_data(workdir)
    for split, data in facts["data"].items():
        before = old.get(split, data)["fingerprint"]
        if before != data["fingerprint"]:
            raise UserError(
                f"The {split} data have changed since the run in {workdir} began (fingerprint {before[:16]}, now "
                f"{data['fingerprint'][:16]}, from {data['origin']}); bring the old ones back, or give another "
                "--workdir."
            )


def write_provenance(workdir: pathlib.Path, facts: dict[str, Any]) -> None:
    """Records what the run is made with, as it starts or goes on."""
    replace_text(workdir / "provenance.json", json.dumps(facts, indent=2, sort_keys=True) + "\n")


def recorded_data(workdir: pathlib.Path) -> dict[str, dict[str, Any]]:
    """What is recorded of a run's data, by split; {} where nothing is, or nothing readable."""
    data = read_provenance(workdir).get("data")
    keys = {"num_examples", "example_shape", "fingerprint", "origin"}
    if not isinstance(data, dict) or not all(isinstance(d, dict) and keys <= d.keys() for d in data.values()):
        return {}
    return data


def read_provenance(workdir: pathlib.Path) -> dict[str, Any]:
    """What is recorded of how a run was made; {} where nothing is, or nothing readable."""
    try:
        facts = json.loads((workdir / "provenance.json").read_text())
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}
