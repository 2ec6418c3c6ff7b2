"""The benchmarks of the adversarial games on images."""

from __future__ import annotations

import jax

from experiments import dcgan, wgan_gp
from gen_jax import rng

from . import timing
from .timing import Row


def against_torch(turns: int) -> list[Row]:
    """A round of both players against the same networks in PyTorch, in turns."""
    return [_row(name, preset, channels, turns) for name, preset, channels in _ROUNDS]


# The experiment, its preset and the width of its networks.
_ROUNDS = (
    ("dcgan", "default", 32),
    ("dcgan", "default", 64),
    ("wgan_gp", "default", 32),
    ("wgan_gp", "default", 64),
    ("wgan_gp", "resnet", 32),
)


def _row(name: str, preset: str, channels: int, turns: int) -> Row:
    import torch

    from . import torch_gan

    module = {"dcgan": dcgan, "wgan_gp": wgan_gp}[name]
    config = module.get_config(preset)
    config.model.channels = channels
    config.eval.num_samples = 0  # The features that samples are judged by are not needed.
    experiment = module.build(config)
    images = experiment.train_source.batch(0)["image"]

    torch.manual_seed(0)
    _, side, _, colours = images.shape
    sizes = (side, colours, config.model.latent_dim, channels)
    norm = name == "dcgan"
    peers = torch_gan.resnet(*sizes) if preset == "resnet" else torch_gan.dcgan(*sizes, norm=norm)
    ours = sum(leaf.size for leaf in jax.tree.leaves(experiment.init(rng.root(0)).params))
    if ours != torch_gan.num_parameters(peers):
        raise RuntimeError(f"The networks of {name} ({preset}) differ: they are no measure of each other.")
    peer = torch_gan.make_round(
        peers,
        images,
        latent_dim=config.model.latent_dim,
        updates=config.game.discriminator_updates,
        penalty_weight=config.game.penalty_weight if config.game.penalty != "none" else 0.0,
        betas=(config.optim.b1, config.optim.b2),
    )
    ratio = timing.interleave(timing.bare_step(experiment), peer, turns, calls=5 if norm else 1)
    what = f"{name} ({preset}, {channels} channels) round against PyTorch {torch.__version__}"
    return what, f"{ratio}; {1e3 * ratio.seconds:.0f} ms against {1e3 * ratio.reference:.0f} ms", "≤ 1.0x"
