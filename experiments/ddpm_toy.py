"""Diffusion of points in the plane, where the best possible loss is known (Ho et al., 2020).

Command: python -m experiments.ddpm_toy --workdir=runs/ddpm_toy
Expected: L_simple within 1 % of its least value; 8 of 8 modes, 0.99 of the samples near one
Time: under 3 min on two CPU cores, pictures included

Presets (--preset=...):
  default  eight Gaussians on a ring, the linear schedule of 1000 steps
  grid     twenty-five Gaussians in a square
  tiny     seconds; for tests
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from experiments import _diffusion, _points
from gen_jax import cli, rng
from gen_jax import config as config_lib
from gen_jax.contracts import Array, Experiment, Field, Film, Key, Panels, Picture, Source, Terms, UserError
from gen_jax.data import Mixture
from gen_jax.families import diffusion as family
from gen_jax.families.diffusion import evaluation, models, objectives, pictures
from gen_jax.families.diffusion.objectives import Diffusion
from gen_jax.train.optimizer import step_options
from gen_jax.train.state import TrainState
from gen_jax.train.step import make_eval_step, make_train_step


def get_config(preset: str = "default") -> ConfigDict:
    """The config of a preset.

    Args:
      preset: one that the module's docstring names.

    Returns:
      The config, unlocked.

    Raises:
      UserError: where there is no such preset.
    """
    config = config_lib.base_config()
    config.experiment = "ddpm_toy"
    config.preset = preset
    _points.add_keys(config)

    config.process = _diffusion.process_section()
    config.model = ConfigDict()
    config.model.hidden = (128, 128, 128)
    config.objective = ConfigDict()
    config.objective.steps = "stratified"  # uniform | antithetic | stratified | importance
    config.sampler = _diffusion.sampler_section()
    config.sampler.clip = False  # The data are not in [-1, 1].

    config.optim.learning_rate = 2e-3
    config.optim.schedule = "cosine"
    config.train.batch_size = 1024
    config.train.duration = "20000 steps"
    config.train.steps_per_call = 100
    config.train.ema_half_life = "200 steps"
    config.train.ema_ramp_up = 0.1
    config.train.log_every = "500 steps"
    config.train.eval_every = config.train.checkpoint_every = "2000 steps"
    config.eval.batch_size = 1000
    config.eval.sample_chunk = 1000
    config.eval.bound_chunk = 10  # --mode=eval: how many steps of the bound go through the network at once.
    config.eval.flow_steps = 200  # --mode=eval: steps of the probability-flow ODE.
    return config_lib.apply_preset(config, _PRESETS)


def _grid(config: ConfigDict) -> None:
    config.data.name = "grid"
    config.data.scale = 1.0
    config.data.std = 0.05


def _tiny(config: ConfigDict) -> None:
    config.data.num_test = 500
    config.process.num_steps = 20
    config.process.schedule = "cosine"
    config.model.hidden = (32, 32)
    config.sampler.num_steps = 10
    config.optim.learning_rate = 1e-2
    config.optim.schedule = "constant"
    config.train.batch_size = 64
    config.train.duration = "40 steps"
    config.train.steps_per_call = 2
    config.train.ema_half_life = "4 steps"
    config.train.log_every = "10 steps"
    config.train.eval_every = config.train.checkpoint_every = "20 steps"
    config.eval.batch_size = 64
    config.eval.sample_chunk = 16


_PRESETS = {"default": lambda config: None, "grid": _grid, "tiny": _tiny}


def validate(config: ConfigDict) -> None:
    """Checks a config's values.

    Args:
      config: the resolved config.

    Raises:
      UserError: for the first value out of range, and for keys that do not go together.
    """
    at_least = config_lib.at_least
    rules = (
        config_lib.base_rules()
        | _points.rules()
        | _diffusion.process_rules()
        | _diffusion.sampler_rules()
        | {
            "model.hidden": config_lib.each(at_least(1)),
            "objective.steps": config_lib.one_of(*objectives.STEPS),
            "eval.bound_chunk": at_least(1),
            "eval.flow_steps": at_least(1),
        }
    )
    config_lib.check(config, rules)
    config_lib.check_optimizer(config)
    _points.check(config)
    _diffusion.check_sampler(config)
    if not config.model.hidden:
        raise UserError("config.model.hidden=() leaves no layer to tell the time; give a width or more.")


def build(config: ConfigDict, sources: tuple[Source, Source] | None = None) -> Experiment:
    """Wires the experiment: source -> model -> objective -> step -> evaluation -> pictures.

    Args:
      config: the resolved config.
      sources: the training and test sources; None to draw them by `config.data`.

    Returns:
      The experiment.

    Raises:
      UserError: where the config cannot be used.
    """
    validate(config)
    mixture = _points.mixture_of(config)
    train_source, test_source = _points.sources_of(config, sources)
    model = models.MLP(2, tuple(config.model.hidden))
    diffusion = Diffusion(_diffusion.make_process(config), model)
    _diffusion.kept_steps(config, diffusion.process)  # Refuses what cannot be sampled by before it is trained.
    options = step_options(config, train_source.num_examples)
    objective = functools.partial(
        objectives.objective,
        diffusion=diffusion,
        steps=config.objective.steps,
        batch_size=config.train.batch_size,
    )
    drawn = functools.partial(sample, config=config, diffusion=diffusion)
    compiled = jax.jit(drawn)
    likelihood = {"chunk_size": config.eval.bound_chunk, "flow_steps": config.eval.flow_steps}
    known: dict[str, Any] = {"diffusion": diffusion, "centres": mixture.centres, "std": mixture.std}
    steps = pictures.curve_steps(diffusion.process.num_steps)
    return Experiment(
        train_source=train_source,
        test_source=test_source,
        init=functools.partial(
            _diffusion.init, diffusion=diffusion, example_shape=(2,), options=options, steps=config.objective.steps
        ),
        train_step=make_train_step(objective, whole_batch=True, **options),
        eval_step=make_eval_step(functools.partial(evaluation.point_values, **known)),
        likelihood_step=make_eval_step(functools.partial(evaluation.point_likelihood_values, **likelihood, **known)),
        report=evaluation.point_report,
        assess=functools.partial(_points.assess, sample=compiled, config=config),
        sample=drawn,
        pictures=functools.partial(
            draw,
            sample=compiled,
            chain=jax.jit(functools.partial(chain_of, config=config, diffusion=diffusion)),
            terms=jax.jit(functools.partial(evaluation.point_terms, steps=steps, **known)),
            test_source=test_source,
            config=config,
            diffusion=diffusion,
            mixture=mixture,
        ),
        frame=functools.partial(draw_frame, mixture=mixture, sample=compiled),
        headline=("modes_covered", "high_quality", "l_simple", "best_l_simple", "above_best_percent"),
        steps_per_call=config.train.steps_per_call,
    )


def sample(state: TrainState, keys: Key, *, config: ConfigDict, diffusion: Diffusion) -> Array:
    """Draws points by the config's sampler, [B, 2]; point i from key i alone."""
    predict = objectives.predictor(state.eval_params, diffusion=diffusion)
    return family.sample(_diffusion.make_sampler(config, diffusion, predict), keys, (2,))


def chain_of(state: TrainState, keys: Key, *, config: ConfigDict, diffusion: Diffusion) -> tuple[Array, Array]:
    """X after each step of the sampler, and the x_0 believed in at it, [S, B, 2] each."""
    sampler = _diffusion.make_sampler(config, diffusion, objectives.predictor(state.eval_params, diffusion=diffusion))
    kept = family.run(sampler, family.start_noise(keys, (2,)), keys, intermediates=True)[1]
    assert kept is not None
    return kept


def draw(
    state: TrainState,
    *,
    sample: Callable[..., Array],
    chain: Callable[..., tuple[Array, Array]],
    terms: Callable[..., Terms],
    test_source: Source,
    config: ConfigDict,
    diffusion: Diffusion,
    mixture: Mixture,
) -> dict[str, Picture]:
    """Draws the samples, how they come out of the noise, and where along the process the loss is.

    Args:
      state: of the run.
      sample: `(state, keys) -> points`, compiled.
      chain: `chain_of` of `(state, keys)`, compiled.
      terms: `(params, key, batch)` to `evaluation.point_terms` at `pictures.curve_steps`, compiled.
      test_source: of the test points.
      config: of the run.
      diffusion: the model.
      mixture: the data's.

    Returns:
      `samples`, `chain`, `x0_predictions`, `denoising`, `loss_by_step` and `bits_by_step`.
    """
    xs, x0s = (np.asarray(a) for a in chain(state, rng.numbered(state.key, "pictures", 1000)))
    process, count = diffusion.process, len(xs)
    # What the step i leaves is at the level of the step i − 1, the last at that of the data.
    kept = _diffusion.kept_steps(config, process)
    signal, noise = np.append(1.0, process.signal[kept[:-1]]), np.append(0.0, process.noise[kept[:-1]])
    point_frame = functools.partial(pictures.point_frame, centres=mixture.centres, std=mixture.std)

    def frame(i: int) -> Field:
        level = {"signal": signal[count - 1 - i], "noise": noise[count - 1 - i]}
        return point_frame(xs[i], title=f"After step {i + 1} of {count}", **level)

    few, batch = pictures.shown_steps(count, 5), next(iter(test_source.whole().evaluation()))
    steps = pictures.curve_steps(process.num_steps)
    believed = tuple(point_frame(x0s[i], title=f"x0 believed in at step {i + 1} of {count}") for i in few)
    title = "Points out of the noise, over the density that they should have"
    found: dict[str, Picture] = {
        "samples": draw_frame(state, mixture=mixture, sample=sample),
        "chain": Panels(tuple(map(frame, few))),
        "x0_predictions": Panels(believed),
        "denoising": Film(title, tuple(map(frame, pictures.shown_steps(count, 60))), 12),
    }
    return found | pictures.loss_curves(steps, terms(state.eval_params, state.key, batch), process.num_steps)


def draw_frame(state: TrainState, *, mixture: Mixture, sample: Callable[..., Array]) -> Field:
    """A thousand samples over the density of the data."""
    points = np.asarray(sample(state, rng.numbered(state.key, "pictures", 1000)))
    return pictures.point_frame(points, mixture.centres, mixture.std, "Samples over the density of the data")


if __name__ == "__main__":
    cli.main("ddpm_toy")
