"""The benchmarks of the adversarial games on images."""

from __future__ import annotations

import functools

import jax

from experiments import dcgan, wgan_gp
from gen_jax import rng
from gen_jax.contracts import Experiment

from . import timing
from .timing import Contest

# The experiment, its preset and the width of its networks.
_ROUNDS = (
    ("dcgan", "default", 32),
    ("dcgan", "default", 64),
    ("wgan_gp", "default", 32),
    ("wgan_gp", "default", 64),
    ("wgan_gp", "resnet", 32),
)


def contests() -> list[Contest]:
    """A round of both players against the same networks in PyTorch."""
    return [
        Contest(
            f"{name} ({preset}, {channels} channels), a round of both players",
            functools.partial(_ours, name, preset, channels),
            functools.partial(_peers, name, preset, channels),
            bound=1.0,
        )
        for name, preset, channels in _ROUNDS
    ]


def _experiment(name: str, preset: str, channels: int) -> Experiment:
    module = {"dcgan": dcgan, "wgan_gp": wgan_gp}[name]
    config = module.get_config(preset)
    config.model.channels = channels
    config.eval.num_samples = 0  # The features that samples are judged by are not needed.
    return module.build(config)


def _ours(name: str, preset: str, channels: int) -> timing.Call:
    return timing.bare_step(_experiment(name, preset, channels))


def _peers(name: str, preset: str, channels: int) -> dict[str, timing.Call]:
    import torch

    from . import torch_gan

    config = {"dcgan": dcgan, "wgan_gp": wgan_gp}[name].get_config(preset)
    experiment = _experiment(name, preset, channels)
    images = experiment.train_source.batch(0)["image"]
    torch.manual_seed(0)
    _, side, _, colours = images.shape
    sizes = (side, colours, config.model.latent_dim, channels)
    networks = torch_gan.resnet(*sizes) if preset == "resnet" else torch_gan.dcgan(*sizes, norm=name == "dcgan")
    ours = sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(experiment.init, rng.root(0)).params))
    if ours != torch_gan.num_parameters(networks):
        raise RuntimeError(f"The networks of {name} ({preset}) differ: they are no measure of each other.")
    step = torch_gan.make_round(
        networks,
        images,
        latent_dim=config.model.latent_dim,
        updates=config.game.discriminator_updates,
        penalty_weight=config.objective.penalty_weight if config.objective.penalty != "none" else 0.0,
        betas=(config.optim.b1, config.optim.b2),
    )
    return {"eager": step}
