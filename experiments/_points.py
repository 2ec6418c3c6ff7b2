"""What the experiments on points in the plane share: a mixture of Gaussians, and which of its modes samples reach."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from ml_collections import ConfigDict

from gen_jax import config as config_lib
from gen_jax import rng
from gen_jax.contracts import Array, Key, Source, UserError
from gen_jax.data import Mixture, point_sources
from gen_jax.eval.modes import mode_coverage_numbers
from gen_jax.train import parallel
from gen_jax.train.state import TrainState


def add_keys(config: ConfigDict) -> None:
    """Adds the keys of the mixture, and of what makes a mode covered, to the sections `data` and `eval`."""
    config.data.name = "ring"  # ring | grid
    config.data.num_modes = 8  # ring: on a circle of radius `scale`.
    config.data.side = 5  # grid: side x side modes, `scale` apart.
    config.data.scale = 2.0
    config.data.std = 0.02  # Of each mode.
    config.data.num_test = 5000

    config.eval.mode_radius = 3.0  # Of a mode, in its standard deviations.
    config.eval.mode_count = 20  # So many of `data.num_test` samples make a mode covered.


def rules() -> dict[str, config_lib.Rule]:
    """What the keys of `add_keys` must satisfy."""
    at_least = config_lib.at_least
    return {
        "data.name": config_lib.one_of("ring", "grid"),
        "data.num_modes": at_least(1),
        "data.side": at_least(1),
        "data.scale": config_lib.positive,
        "data.std": config_lib.positive,
        "data.num_test": at_least(4),
        "eval.mode_radius": config_lib.positive,
        "eval.mode_count": at_least(1),
    }


def check(config: ConfigDict) -> None:
    """Refuses more samples a mode than are drawn.

    Args:
      config: whose keys' values are in range.

    Raises:
      UserError: naming the keys.
    """
    if config.eval.mode_count > config.data.num_test:
        raise UserError(
            f"config.eval.mode_count={config.eval.mode_count} samples are more than the {config.data.num_test} of "
            "config.data.num_test, so no mode could be covered; choose fewer."
        )


def mixture_of(config: ConfigDict) -> Mixture:
    """The mixture of Gaussians of a config."""
    d = config.data
    if d.name == "ring":
        return Mixture.ring(d.num_modes, radius=d.scale, std=d.std)
    return Mixture.grid(d.side, spacing=d.scale, std=d.std)


def sources_of(config: ConfigDict, sources: tuple[Source, Source] | None) -> tuple[Source, Source]:
    """The training and the test points.

    Args:
      config: the resolved config.
      sources: given ones, or None to draw them.

    Returns:
      Both sources.
    """
    return sources or point_sources(
        mixture_of(config), num_examples=100_000, num_test=config.data.num_test, **parallel.stream_options(config)
    )


def assess(state: TrainState, *, sample: Callable[[TrainState, Key], Array], config: ConfigDict) -> dict[str, float]:
    """Which modes `data.num_test` samples reach, how many of them are near one, and how they are shared out.

    Args:
      state: of the run.
      sample: draws from it, compiled.
      config: of the run.

    Returns:
      The numbers of `eval.modes.mode_coverage_numbers`.
    """
    mixture = mixture_of(config)
    points = np.asarray(sample(state, rng.numbered(state.key, "assess", config.data.num_test)))
    radius = config.eval.mode_radius * mixture.std
    return mode_coverage_numbers(points, mixture.centres, radius, seed=config.seed, min_count=config.eval.mode_count)
