"""A round of the adversarial games on images in PyTorch, eager, as its users write it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

# For each side of an image: the side at the coarse end and the number of factors 2.
_PLANS = {28: (7, 2), 32: (4, 3)}


def dcgan(side: int, colours: int, latent_dim: int, channels: int, *, norm: bool) -> tuple[nn.Module, nn.Module]:
    """DCGAN's generator, and its discriminator with or without batch norm."""
    coarse, stages = _PLANS[side]
    widths = [channels * 2**stage for stage in range(stages)]
    last = widths[-1]
    up: list[nn.Module] = [
        nn.Linear(latent_dim, coarse * coarse * last, bias=False),
        nn.Unflatten(1, (last, coarse, coarse)),
    ]
    for into, out in zip(reversed(widths), [*reversed(widths[:-1]), 0], strict=True):
        up += [nn.BatchNorm2d(into), nn.ReLU(), nn.ConvTranspose2d(into, out or colours, 4, 2, 1, bias=not out)]
    down: list[nn.Module] = [nn.Conv2d(colours, channels, 4, 2, 1), nn.LeakyReLU(0.2)]
    for into, out in pairwise(widths):
        down += [nn.Conv2d(into, out, 4, 2, 1, bias=not norm)]
        down += [nn.BatchNorm2d(out), nn.LeakyReLU(0.2)] if norm else [nn.LeakyReLU(0.2)]
    down += [nn.Flatten(), nn.Linear(last * coarse * coarse, 1)]
    return nn.Sequential(*up, nn.Tanh()), nn.Sequential(*down)


class _Up(nn.Module):
    """A block of the generator: twice the resolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.first = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(), nn.Upsample(scale_factor=2))
        self.second = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )  # fmt: skip
        self.shortcut = nn.Sequential(nn.Conv2d(channels, channels, 1), nn.Upsample(scale_factor=2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.shortcut(x) + self.second(self.first(x))


class _Down(nn.Module):
    """A block of the critic: half the resolution, or the same."""

    def __init__(self, into: int, channels: int, *, halve: bool, first: bool):
        super().__init__()
        pool = nn.AvgPool2d(2) if halve else nn.Identity()
        self.path = nn.Sequential(
            nn.Identity() if first else nn.ReLU(), nn.Conv2d(into, channels, 3, padding=1),
            nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1), pool,
        )  # fmt: skip
        self.shortcut = nn.Sequential(pool, nn.Conv2d(into, channels, 1)) if halve else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.shortcut(x) + self.path(x)


def resnet(side: int, colours: int, latent_dim: int, channels: int) -> tuple[nn.Module, nn.Module]:
    """The residual networks of WGAN-GP."""
    coarse, blocks = _PLANS[side]
    generator = nn.Sequential(
        nn.Linear(latent_dim, coarse * coarse * channels), nn.Unflatten(1, (channels, coarse, coarse)),
        *(_Up(channels) for _ in range(blocks)), nn.BatchNorm2d(channels), nn.ReLU(),
        nn.Conv2d(channels, colours, 3, padding=1), nn.Tanh(),
    )  # fmt: skip
    critic = nn.Sequential(
        *(_Down(channels if n else colours, channels, halve=n < 2, first=n == 0) for n in range(4)),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1),
    )  # fmt: skip
    return generator, critic


def make_round(
    networks: tuple[nn.Module, nn.Module],
    images: np.ndarray,
    *,
    latent_dim: int,
    updates: int = 1,
    penalty_weight: float = 0.0,
    betas: tuple[float, float] = (0.5, 0.999),
) -> Callable[[], Any]:
    """A round on one batch: the discriminator's updates, the generator's, and its moving average.

    Args:
      networks: the generator and the discriminator.
      images: [updates · B, H, W, C] uint8.
      latent_dim: of z, which is normal.
      updates: of the discriminator, each on B of the images.
      penalty_weight: λ of the gradient penalty, with the Wasserstein losses; 0 for the non-saturating ones.
      betas: Adam's.

    Returns:
      A function that plays one round and returns when it is done.
    """
    generator, discriminator = networks
    adams = [torch.optim.Adam(network.parameters(), 2e-4, betas=betas, fused=True) for network in networks]
    stored = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    size = len(stored) // updates
    average = [p.detach().clone() for p in generator.parameters()]

    def minimise(loss: torch.Tensor, player: int) -> float:
        adams[player].zero_grad()
        loss.backward()
        torch.nn.utils.get_total_norm([p.grad for p in networks[player].parameters() if p.grad is not None])
        adams[player].step()
        return loss.item()

    def penalty(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
        epsilon = torch.rand(size, 1, 1, 1)
        between = (epsilon * real + (1 - epsilon) * fake).requires_grad_()
        (slope,) = torch.autograd.grad(discriminator(between).sum(), between, create_graph=True)
        return penalty_weight * ((slope.flatten(1).norm(dim=1) - 1) ** 2).mean()

    def step() -> float:
        for part in stored.split(size):
            real = part.float() / 127.5 - 1
            with torch.no_grad():
                fake = generator(torch.randn(size, latent_dim))
            if penalty_weight:
                of_real, of_fake = discriminator(torch.cat([real, fake])).chunk(2)
                loss = (of_fake - of_real).mean() + penalty(real, fake)
            else:
                loss = functional.softplus(-discriminator(real)).mean()
                loss = loss + functional.softplus(discriminator(fake)).mean()
            minimise(loss, 1)
        discriminator.requires_grad_(False)
        logits = discriminator(generator(torch.randn(size, latent_dim)))
        value = minimise(-logits.mean() if penalty_weight else functional.softplus(-logits).mean(), 0)
        discriminator.requires_grad_(True)
        with torch.no_grad():
            for mean, new in zip(average, generator.parameters(), strict=True):
                mean.lerp_(new, 0.001)
        return value

    return step


def num_parameters(networks: tuple[nn.Module, nn.Module]) -> int:
    """How many numbers both networks learn."""
    parameters: Iterator[torch.Tensor] = (p for network in networks for p in network.parameters())
    return sum(p.numel() for p in parameters)
