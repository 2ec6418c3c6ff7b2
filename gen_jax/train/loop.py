"""The loop: resume, step, log, checkpoint, evaluate, stop cleanly."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
import tqdm
from ml_collections import ConfigDict

from gen_jax import config as config_lib
from gen_jax import rng
from gen_jax.checkpoint import Checkpoints
from gen_jax.contracts import Experiment, Terms, UserError
from gen_jax.files import absolute, replace_text
from gen_jax.train import card, parallel, workdir
from gen_jax.train.evaluation import evaluate
from gen_jax.train.prefetch import prefetch
from gen_jax.train.writer import Writer, progress, read_metrics


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a call of `train` ended.

    Attributes:
      step: how many steps the run has made.
      finished: whether that is all of them.
      results: the test numbers at that step, where it is finished.
      pictures: the paths of the pictures and videos, where it is finished.
    """

    step: int
    finished: bool
    results: dict[str, float]
    pictures: list[pathlib.Path]


@dataclasses.dataclass(frozen=True)
class _Plan:
    """The run's length and intervals in steps, all multiples of the steps per call."""

    total: int
    log: int
    evaluate: int
    checkpoint: int

    @classmethod
    def of(cls, config: ConfigDict, num_examples: int) -> _Plan:
        train = config.train
        durations = (train.duration, train.log_every, train.eval_every, train.checkpoint_every)
        return cls(*(config_lib.interval(text, config, num_examples) for text in durations))


def train(
    experiment: Experiment,
    config: ConfigDict,
    path: str | pathlib.Path,
    say: Callable[[str], None] = tqdm.tqdm.write,
    show_progress: bool = True,
    command: str = "",
) -> Outcome:
    """Runs an experiment in a workdir, from where the workdir stands.

    Args:
      experiment: what to run.
      config: its resolved config.
      path: the workdir. A new one is made; one that holds this run is continued.
      say: prints one line for a person.
      show_progress: whether to draw a progress bar.
      command: what a person typed, for the run card; "" where nobody did.

    Returns:
      How it ended: all steps made, or stopped by SIGTERM or Ctrl-C with a checkpoint.

    Raises:
      UserError: for a workdir that cannot be used, a value that is not finite, a full disk.
    """
    is_main = jax.process_index() == 0
    layout = parallel.Layout(config.parallel.backend)
    layout.check_batch_size("train.batch_size", config.train.batch_size)
    layout.check_batch_size("eval.batch_size", config.eval.batch_size)
    folder = parallel.together(lambda: workdir.open_workdir(path))
    facts = card.provenance(experiment) | {"command": command}
    with contextlib.ExitStack() as stack:

        def claim() -> None:
            if is_main:
                stack.enter_context(workdir.lock(folder))
                workdir.claim(folder, config)
                workdir.check_data(folder, facts)

        try:
            parallel.together(claim)
            run = _Run(experiment, config, folder, layout, facts, say if is_main else lambda line: None)
            return run.train(show_progress and is_main)
        except OSError as error:  # A full disk may show in any of the files that a run writes.
            raise Checkpoints(folder / "checkpoints").cannot_write(error) from error


class _Run:
    """One call of `train`: what its stages share."""

    def __init__(
        self,
        experiment: Experiment,
        config: ConfigDict,
        folder: pathlib.Path,
        layout: parallel.Layout,
        facts: dict[str, Any],
        say: Callable[[str], None],
    ):
        self.experiment, self.config, self.folder, self.layout = experiment, config, folder, layout
        self.facts, self.say = facts, say
        self.is_main = jax.process_index() == 0
        self.plan = _Plan.of(config, experiment.train_source.num_examples)
        self.checkpoints = Checkpoints(folder / "checkpoints", config.train.keep_checkpoints, say)
        self.train_step = layout.wrap_train(experiment.train_step, experiment.steps_per_call)
        self.eval_step = layout.wrap_eval(experiment.eval_step)
        self.settle = jax.jit(experiment.settle)
        self.warnings = _Warnings(experiment.warnings, say)

    def train(self, show_progress: bool) -> Outcome:
        """Makes the remaining steps."""
        host_state, start = self.initial_state()
        if start >= self.plan.total and (self.folder / "README.md").is_file():  # The card is written last.
            self.say(f"This run is finished: {start} steps in {self.folder}. See its README.md; nothing was done.")
            changed = workdir.differences(self.folder, self.config)
            if changed:
                self.say(f"These changes had no effect: {'; '.join(changed)}. Give them with --mode=eval.")
            return Outcome(start, True, self.final_results(), card.drawn(self.folder))
        if self.is_main:
            workdir.write_config(self.folder, self.config)
            workdir.write_provenance(self.folder, self.facts)
        state = self.layout.put_state(host_state)
        writer = Writer(self.folder, start, self.is_main, self.say)
        try:
            if start == 0:
                self.show(state, 0, writer)
            with _stop_signals() as stopping, progress(self.plan.total, start, show_progress) as bar:
                state, step = self.steps(state, start, writer, bar, stopping)
            if step < self.plan.total:
                return Outcome(step, False, {}, [])
            # Past the signals' handler: Ctrl-C interrupts what takes long here, and the same command does it again.
            return self.finish(state, step, writer)
        finally:
            self.checkpoints.close()
            writer.close()

    def initial_state(self) -> tuple[Any, int]:
        """The state to go on from, on the host, by the first of these that is there.

        1. the newest whole checkpoint in the workdir;
        2. the parameters of the run that `config.init_from` names, with everything else new;
        3. scratch.
        """
        target = jax.jit(self.experiment.init)(rng.root(self.config.seed))
        restored = self.checkpoints.restore_latest(target)
        parallel.check_same("step to continue from", 0 if restored is None else restored[1])
        if self.is_main:
            self.checkpoints.set_aside_after(-1 if restored is None else restored[1])
        if restored is not None:
            if restored[1] < self.plan.total:
                self.say(f"Continuing {self.folder} from step {restored[1]} of {self.plan.total}.")
            return restored
        if self.config.init_from:
            source = absolute(self.config.init_from)
            learned = {"params": target.params, "model_state": target.model_state}
            other = Checkpoints(source / "checkpoints", say=self.say).restore_latest(learned, partial=True)
            if other is None:
                raise UserError(f"config.init_from={str(source)!r} has no checkpoint; give the workdir of a run.")
            self.say(f"Starting from the parameters of {source}, step {other[1]}.")
            ema_params = None if target.ema_params is None else other[0]["params"]
            return dataclasses.replace(target, **other[0], ema_params=ema_params), 0
        return target, 0

    def steps(self, state: Any, start: int, writer: Writer, bar: tqdm.tqdm, stopping: list[str]) -> tuple[Any, int]:
        """The loop itself; returns the state and the step it stands at, all made or stopped before."""
        per_call, plan = self.experiment.steps_per_call, self.plan
        firsts = range(start, plan.total, per_call)
        unchecked: list[tuple[int, Terms]] = []  # Metrics of the last call, still being computed.
        clock, clock_step = time.monotonic(), start
        with contextlib.closing(prefetch(self.load, firsts)) as batches:
            for first, batch in zip(firsts, batches, strict=True):
                state, metrics = self.train_step(state, batch)
                now = first + per_call
                # The call before this one is done or nearly so: looking at its numbers does not hold up the device.
                self.check_finite(unchecked)
                unchecked = [(first, metrics)]
                bar.update(per_call)

                log, test, save = (
                    now % every == 0 or now == plan.total for every in (plan.log, plan.evaluate, plan.checkpoint)
                )
                # On a pod all processes must ask together, and asking costs a round trip.
                asks = log or save or jax.process_count() == 1
                stop = parallel.any_process(bool(stopping)) if asks else False
                if log or test or save or stop:
                    values = self.check_finite(unchecked)
                    unchecked = []
                if log:
                    writer.scalars(now, "train", values)
                    self.warnings.tell(now)
                    bar.set_postfix(loss=f"{values['loss']:.4g}", refresh=False)
                    writer.speed(now, (now - clock_step) / (time.monotonic() - clock))
                if test:
                    self.test(state, now, writer)
                    self.show(state, now, writer)
                if save or stop:
                    self.save(now, parallel.to_host(state))
                if stop and now < plan.total:
                    self.checkpoints.wait()
                    bar.close()
                    by = stopping[0] if stopping else "another process"
                    self.say(f"Stopped by {by} at step {now} of {plan.total}, saved. The same command continues.")
                    return state, now
                if log or test:
                    clock, clock_step = time.monotonic(), now  # The speed is that of training alone.
        return state, plan.total

    def save(self, step: int, host_state: Any) -> None:
        """Starts writing a checkpoint, once every process knows that there is room for it."""
        parallel.together(lambda: self.checkpoints.reserve(host_state) if self.is_main else None)
        self.checkpoints.save(step, host_state)

    def load(self, first: int) -> Any:
        """The batch or batches of one call, laid out for the devices."""
        per_call, source = self.experiment.steps_per_call, self.experiment.train_source
        batch = source.batch(first) if per_call == 1 else source.batches(first, per_call)
        return self.layout.put_batch(batch, per_call)

    def check_finite(self, calls: list[tuple[int, Terms]]) -> dict[str, float]:
        """Fetches the metrics of calls and returns the last one's, each averaged over its steps.

        Raises:
          UserError: for the first step with a value that is not finite.
        """
        values: dict[str, float] = {}
        for first, metrics in calls:
            host = {name: np.atleast_1d(np.asarray(value)) for name, value in metrics.items()}
            finite = {name: np.isfinite(value) for name, value in host.items()}
            bad_steps = np.flatnonzero(~np.all(list(finite.values()), axis=0))
            if bad_steps.size:
                self.report_not_finite(first, int(bad_steps[0]), host, finite)
            self.warnings.note(host)
            values = {name: float(np.mean(value, dtype=np.float64)) for name, value in host.items()}
        return values

    def report_not_finite(self, first: int, offset: int, host: dict[str, Any], finite: dict[str, Any]) -> None:
        """Raises the sentence for a value that is not finite; terms come before the loss that is made of them.

        In a game what is not finite spreads to the players after the one who began it; they go by their names, which
        is their order in that the critic and the discriminator have their turn before the generator.
        """

        def order(name: str) -> tuple[bool, str, bool, bool]:
            player, _, term = name.rpartition("/")
            return not player, player, term.endswith("_norm"), term == "loss"

        name = next(name for name in sorted(host, key=order) if not finite[name][offset])
        self.checkpoints.wait()
        whole = self.checkpoints.steps()
        kept = f"The last good checkpoint is step {whole[-1]}" if whole else "There is no checkpoint yet"
        raise UserError(
            f"Training stopped at step {first + offset + 1}: '{name}' is {host[name][offset]}. {kept}. Look at the "
            "data, or try a lower config.optim.learning_rate or a config.optim.clip_norm in a new --workdir, where "
            f"--config.init_from={self.folder} keeps what was learned."
        )

    def test(self, state: Any, step: int, writer: Writer) -> None:
        """Evaluates the state as it is, not settled, on the test set and writes the numbers down."""
        means = evaluate(self.eval_step, state, self.experiment.test_source, self.layout)
        writer.scalars(step, "test", self.experiment.report(means))

    def show(self, state: Any, step: int, writer: Writer) -> None:
        """Draws what the run looks like now, where the experiment says how."""
        if self.is_main and self.experiment.frame is not None:
            writer.frame(step, self.experiment.frame(self.settled(state)))

    def settled(self, state: Any) -> Any:
        """The state as it is shown and judged, on the host."""
        return parallel.to_host(self.settle(parallel.to_host(state)))

    def finish(self, state: Any, step: int, writer: Writer) -> Outcome:
        """Judges the state on whole sets, draws the pictures and writes the card, which says that all is done."""
        self.checkpoints.wait()
        settled = self.settled(state)
        assessed: dict[str, float] = {}
        if self.experiment.assess is not None:
            self.say("All steps are made and saved; judging and drawing.")
            # Every process, so that none has left while another is still at it.
            assessed = self.experiment.assess(settled)
        if not self.is_main:
            return Outcome(step, True, {}, [])
        results = self.last_results() | assessed
        replace_text(self.folder / "results.json", json.dumps({"step": step} | results, indent=2) + "\n")
        writer.pictures(step, self.experiment.pictures(settled))
        writer.film(step)
        paths = card.drawn(self.folder)
        text = card.run_card(self.config, self.folder, step, self.facts, results, paths)
        replace_text(self.folder / "README.md", text)
        return Outcome(step, True, results, paths)

    def final_results(self) -> dict[str, float]:
        """What `finish` wrote down; the newest test row where that file is gone."""
        try:
            results = json.loads((self.folder / "results.json").read_text())
        except (OSError, ValueError):
            return self.last_results()
        return {key: value for key, value in results.items() if key != "step"}

    def last_results(self) -> dict[str, float]:
        """The newest test row of `metrics.jsonl`."""
        rows = [row for row in read_metrics(self.folder / "metrics.jsonl") if row["split"] == "test"]
        return {k: v for k, v in rows[-1].items() if k not in ("step", "split")} if rows else {}


class _Warnings:
    """Says once what has gone wrong: the metrics whose last part begins with "warning_" are shares of steps."""

    def __init__(self, texts: Mapping[str, str], say: Callable[[str], None]):
        self.texts, self.say = texts, say
        self.since_log: dict[str, list[np.ndarray]] = {}
        self.said: set[str] = set()

    def note(self, metrics: Mapping[str, np.ndarray]) -> None:
        """Remembers the warnings among a call's metrics."""
        for name, value in metrics.items():
            if name.rpartition("/")[2].startswith("warning_"):
                self.since_log.setdefault(name, []).append(value)

    def tell(self, step: int) -> None:
        """Says a sentence for every warning of more than half of the steps since the last call that has none yet."""
        for name, values in self.since_log.items():
            share = float(np.mean(np.concatenate(values)))
            if share > 0.5 and name not in self.said:
                self.said.add(name)
                text = self.texts.get(name, f"true at {share:.0%} of the steps since the last logged one.")
                self.say(f"Warning at step {step}: {name}: {text}")
        self.since_log.clear()


@contextlib.contextmanager
def _stop_signals() -> Iterator[list[str]]:
    """Collects the first SIGTERM or Ctrl-C instead of dying of it; a second Ctrl-C interrupts at once."""
    received: list[str] = []

    def note(number: int, frame: Any) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(signal.Signals(number).name)

    try:
        old = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:  # Not the main thread, as in some notebooks: signals stay as they are.
        yield received
        return
    try:
        yield received
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
