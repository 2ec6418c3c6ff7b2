"""The benchmarks of the autoencoders."""

from __future__ import annotations

import dataclasses
import functools

import flax.linen as nn
import jax.numpy as jnp

from experiments import autoencoder
from gen_jax import rng
from gen_jax.contracts import Objective
from gen_jax.families.autoencoder import models, objectives
from gen_jax.train.optimizer import step_options
from gen_jax.train.state import init_state
from gen_jax.train.step import make_train_step

from . import timing
from .timing import Contest, Row


def contraction(seconds: float) -> Row:
    """The contractive step against the plain one: 1000 sigmoid units on 784 pixels, tied, batches of 128."""
    config = autoencoder.get_config()
    experiment = autoencoder.build(config)
    model = models.MLPAutoencoder((28, 28, 1), (1000,), code_activation=nn.sigmoid, tied=True)
    options = step_options(config, experiment.train_source.num_examples)
    params = model.init(rng.root(0), jnp.zeros((1, 28, 28, 1)))["params"]

    def step_of(objective: Objective) -> timing.Call:
        step = make_train_step(objective, **options)
        replaced = dataclasses.replace(
            experiment, train_step=step, init=lambda key: init_state(params, options["tx"], key)
        )
        return timing.bare_step(replaced)

    contractive = functools.partial(objectives.contractive_objective, model=model, weight=0.1)
    plain = functools.partial(objectives.objective, model=model)
    ratio = timing.ratio(step_of(contractive), step_of(plain), seconds)
    return "contractive step (closed form) against the plain step, 784-1000", str(ratio), "≤ 2x"


def contests() -> list[Contest]:
    """A training step of the deep autoencoder against the same model in PyTorch."""
    steps = autoencoder.get_config().train.steps_per_call
    return [Contest("deep autoencoder, 784-1000-500-250-30, training step", _ours, _peers, steps)]


def _ours() -> timing.Call:
    return timing.bare_step(autoencoder.build(autoencoder.get_config()))


def _peers() -> dict[str, timing.Call]:
    import torch

    from . import torch_autoencoder

    torch.manual_seed(0)
    experiment = autoencoder.build(autoencoder.get_config())
    step = torch_autoencoder.make_step(torch_autoencoder.deep(), experiment.train_source.batch(0)["image"])
    return {"eager": timing.repeat(step, experiment.steps_per_call)}
