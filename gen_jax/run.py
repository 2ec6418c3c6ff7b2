"""A workdir read back: `load(workdir)` and what can be done with the run it returns."""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib
import os
import pathlib
import pkgutil
import re
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from gen_jax import config as config_lib
from gen_jax import rng
from gen_jax.checkpoint import Checkpoints
from gen_jax.contracts import Experiment, Source, UserError
from gen_jax.files import absolute
from gen_jax.train import parallel, workdir
from gen_jax.train.evaluation import evaluate


@dataclasses.dataclass(frozen=True)
class Run:
    """A run read back from its workdir.

    Attributes:
      workdir: its folder.
      config: its config.
      state: its state at the newest whole checkpoint, on the host.
      experiment: the functions that its config builds.
    """

    workdir: pathlib.Path
    config: ConfigDict
    state: Any
    experiment: Experiment

    @property
    def step(self) -> int:
        """How many steps the state has seen."""
        return int(self.state.step)

    def sample(self, seed: int = 0, num: int = 64, batch_size: int | None = None) -> np.ndarray:
        """Draws samples; sample i depends on `(seed, i)` alone, to the bit.

        Args:
          seed: any integer in [0, 2^32).
          num: how many.
          batch_size: how many to have on the device at once, rounded up to whole chunks of `config.eval.sample_chunk`;
            None for one chunk. It changes memory and speed, not the samples.

        Returns:
          [num, H, W, C] float32 in [0, 1], or points [num, 2].

        Raises:
          UserError: where a number is out of range.
        """
        chunk = self.config.eval.sample_chunk
        batch_size = chunk if batch_size is None else batch_size
        if not 0 <= seed < 2**32 or num < 1 or batch_size < 1:
            raise UserError(
                f"seed={seed}, num={num} or batch_size={batch_size} is out of range; expected a seed from 0 to "
                "2^32 - 1, and the others at least 1."
            )
        key = rng.stream(rng.root(seed), "sample")
        # The same program on the same whole chunks always: sample i is row i mod chunk of chunk i // chunk, and a
        # product's last bit may depend on the shape it is computed in.
        starts = range(0, num, chunk)
        per_fetch = -(-batch_size // chunk)
        parts: list[np.ndarray] = []
        for first in range(0, len(starts), per_fetch):
            group = starts[first : first + per_fetch]
            on_device = [
                self._sample_chunk(self.settled, rng.per_example(key, start + jnp.arange(chunk))) for start in group
            ]
            parts += [np.asarray(part) for part in on_device]
        return np.concatenate(parts)[:num]

    @functools.cached_property
    def settled(self) -> Any:
        """The state as `Experiment.settle` makes it, by which samples are drawn and whole sets judged; on the host."""
        return parallel.to_host(jax.jit(self.experiment.settle)(self.state))

    @functools.cached_property
    def _sample_chunk(self) -> Callable[[Any, Any], Any]:
        return jax.jit(self.experiment.sample)

    def evaluate(self, on_batch: Callable[[int], None] = lambda count: None) -> dict[str, float]:
        """Evaluates the state on the whole test set, slowly and accurately where the experiment can.

        Args:
          on_batch: called after each batch with the number of examples evaluated so far.

        Returns:
          The numbers by name.

        Raises:
          UserError: where the data are not there, or a number is not finite.
        """
        layout = parallel.Layout(self.config.parallel.backend)
        layout.check_batch_size("eval.batch_size", self.config.eval.batch_size)
        step = layout.wrap_eval(self.experiment.likelihood_step or self.experiment.eval_step)
        means = evaluate(step, layout.put_state(self.state), self.experiment.test_source, layout, on_batch)
        numbers = self.experiment.report(means)
        if self.experiment.assess is not None:
            numbers |= self.experiment.assess(self.settled)
        return numbers


def load(path: str | os.PathLike[str], overrides: dict[str, Any] | None = None) -> Run:
    """Reads a run back from its workdir.

    A workdir is data. The experiment that its config names must be one of the modules of the package `experiments`;
    nothing in the workdir is executed, and nothing is written to it.

    Args:
      path: the workdir.
      overrides: config values by dotted key, for what does not change the model (how to sample, where the data are).

    Returns:
      The run, at its newest whole checkpoint. Where its data cannot be found it still samples; only what needs the
      data says so.

    Raises:
      UserError: where the folder is not a workdir, names an unknown experiment, or has no checkpoint to read, and where
        an override would change what was trained.
    """
    folder = absolute(path)
    text = workdir.read_config_text(folder)
    if text is None:
        raise UserError(f"{folder} is not the workdir of a run: it has no config.json.")
    module = find_experiment(workdir.experiment_name(folder, text))
    config = config_lib.from_json(text, module.get_config())
    config_lib.check_overrides(config, overrides or {})
    for key, value in (overrides or {}).items():
        config_lib.set_value(config, key, value)
    experiment = build(module, config, folder)
    restored = Checkpoints(folder / "checkpoints").restore_latest(jax.jit(experiment.init)(rng.root(config.seed)))
    if restored is None:
        raise UserError(f"{folder} has no checkpoint yet; train it first.")
    return Run(folder, config, restored[0], experiment)


def build(module: types.ModuleType, config: ConfigDict, folder: pathlib.Path) -> Experiment:
    """Builds a run's experiment with its data, or, where they cannot be found, with what is recorded of them."""
    recorded = workdir.recorded_data(folder)
    absent: UserError | None = None
    try:
        experiment = module.build(config)
    except UserError as error:
        if not {"train", "test"} <= recorded.keys():
            raise
        absent = error
    else:
        for split, source in (("train", experiment.train_source), ("test", experiment.test_source)):
            before = recorded.get(split, {}).get("fingerprint", source.fingerprint)
            if before != source.fingerprint:
                absent = UserError(
                    f"The {split} data found in {source.origin} are not those of the run in {folder} (fingerprint "
                    f"{source.fingerprint[:16]}, not {before[:16]}); bring the old ones back, or give config.data.dir."
                )
    if absent is None:
        return experiment
    train, test = (_AbsentSource.of(recorded[split], absent) for split in ("train", "test"))
    return module.build(config, (train, test))


@dataclasses.dataclass(frozen=True)
class _AbsentSource(Source):
    """What is recorded of data that are not here: enough to build a model, not to train or test it."""

    num_examples: int
    example_shape: tuple[int, ...]
    fingerprint: str
    origin: str
    error: UserError
    notes: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, facts: dict[str, Any], error: UserError) -> _AbsentSource:
        shape, notes = tuple(facts["example_shape"]), facts.get("notes", {})
        return cls(facts["num_examples"], shape, facts["fingerprint"], facts["origin"], error, notes)

    def batch(self, step: int) -> NoReturn:
        raise self.error

    def batches(self, step: int, count: int) -> NoReturn:
        raise self.error

    def whole(self) -> NoReturn:
        raise self.error

    def evaluation(self) -> NoReturn:
        raise self.error


def experiment_names() -> list[str]:
    """The names of all experiments: the modules of the package `experiments`."""
    package = importlib.import_module("experiments")
    found: Iterable[pkgutil.ModuleInfo] = pkgutil.iter_modules(package.__path__)
    return sorted(m.name for m in found if not m.ispkg and not m.name.startswith("_"))


class Description(NamedTuple):
    """What the docstring of an experiment's module says.

    Attributes:
      summary: its first line.
      facts: what follows "Command: ", "Expected: " and "Time: ", by those words.
      text: all of it.
    """

    summary: str
    facts: dict[str, str]
    text: str


def describe(name: str) -> Description:
    """Reads the docstring of an experiment's module, without importing it.

    Args:
      name: of a module of the package `experiments`.

    Returns:
      What it says.

    Raises:
      UserError: where there is none of that name, naming the nearest.
    """
    _check_name(name)
    [folder] = importlib.import_module("experiments").__path__
    text = ast.get_docstring(ast.parse(pathlib.Path(folder, f"{name}.py").read_text(encoding="utf-8"))) or ""
    facts = dict(re.findall(r"^(Command|Expected|Time): (.+)$", text, re.MULTILINE))
    return Description(text.split("\n", 1)[0], facts, text)


def find_experiment(name: str) -> types.ModuleType:
    """Imports an experiment's module.

    Args:
      name: of a module of the package `experiments`.

    Returns:
      The module, with `get_config(preset)`, `validate(config)` and `build(config)`.

    Raises:
      UserError: where there is none of that name, naming the nearest.
    """
    _check_name(name)
    return importlib.import_module(f"experiments.{name}")


def _check_name(name: str) -> None:
    names = experiment_names()
    if name not in names:
        raise UserError(
            f"There is no experiment '{name}'{config_lib.suggestion(name, names)}; `python -m experiments` lists them."
        )
