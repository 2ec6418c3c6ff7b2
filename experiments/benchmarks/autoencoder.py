"""The benchmarks of the autoencoders."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

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
    return [Contest("deep autoencoder, 784-1000-500-250-30, training step", _ours, _peers, steps, check=_check)]


def _ours() -> timing.Call:
    return timing.bare_step(autoencoder.build(autoencoder.get_config()))


def _network() -> Any:
    """The network in PyTorch, the same each time."""
    import torch

    from . import torch_autoencoder

    torch.manual_seed(0)
    return torch_autoencoder.deep()


def _peers() -> dict[str, timing.Call]:
    from . import torch_autoencoder

    experiment = autoencoder.build(autoencoder.get_config())
    step = torch_autoencoder.make_step(_network(), experiment.train_source.batch(0)["image"])
    return {"eager": timing.repeat(step, experiment.steps_per_call)}


def _check() -> None:
    """Refuses to compare networks that do not give the same from the same weights."""
    import torch

    network, model = _network(), autoencoder.build_model(autoencoder.get_config(), (28, 28, 1))
    layers = [layer for layer in network if isinstance(layer, torch.nn.Linear)]
    names = [*(f"encoder_{i}" for i in range(4)), *(f"decoder_{i}" for i in reversed(range(4)))]
    params = {
        name: {"kernel": layer.weight.detach().numpy().T, "bias": layer.bias.detach().numpy()}
        for name, layer in zip(names, layers, strict=True)
    }
    x = np.random.default_rng(0).random((4, 28, 28, 1), np.float32)
    ours = np.asarray(model.apply({"params": params}, x)).reshape(4, -1)
    with torch.inference_mode():
        theirs = network(torch.from_numpy(x)).numpy()
    if np.abs(ours - theirs).max() > 1e-4:
        raise RuntimeError("The autoencoders differ: they are no measure of each other.")
