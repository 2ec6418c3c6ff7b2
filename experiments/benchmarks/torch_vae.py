"""The VAE's training step in PyTorch, eager, as its users write it: the peer that the benchmark measures against."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional


def mlp(latent_dim: int = 20, hidden: int = 500) -> tuple[nn.Module, nn.Module]:
    """The paper's encoder and decoder for 28x28."""
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(784, hidden), nn.Tanh(), nn.Linear(hidden, 2 * latent_dim))
    decoder = nn.Sequential(
        nn.Linear(latent_dim, hidden), nn.Tanh(), nn.Linear(hidden, 784), nn.Unflatten(1, (1, 28, 28))
    )
    return encoder, decoder


def conv(latent_dim: int = 20, channels: tuple[int, int] = (32, 64), dense: int = 256) -> tuple[nn.Module, nn.Module]:
    """The convolutional encoder and decoder for 28x28."""
    first, second = channels
    encoder = nn.Sequential(
        nn.Conv2d(1, first, 4, 2, 1), nn.ReLU(), nn.Conv2d(first, second, 4, 2, 1), nn.ReLU(), nn.Flatten(),
        nn.Linear(second * 49, dense), nn.ReLU(), nn.Linear(dense, 2 * latent_dim),
    )  # fmt: skip
    decoder = nn.Sequential(
        nn.Linear(latent_dim, dense), nn.ReLU(), nn.Linear(dense, second * 49), nn.ReLU(),
        nn.Unflatten(1, (second, 7, 7)), nn.ConvTranspose2d(second, first, 4, 2, 1), nn.ReLU(),
        nn.ConvTranspose2d(first, 1, 4, 2, 1),
    )  # fmt: skip
    return encoder, decoder


def make_step(networks: tuple[nn.Module, nn.Module], images: np.ndarray) -> Callable[[], Any]:
    """A training step on one batch: dynamic binarisation, the ELBO, its gradient and its norm, Adam.

    Args:
      networks: the encoder, to [B, 2d], and the decoder.
      images: [B, 28, 28, 1] uint8.

    Returns:
      A function that makes one step and returns when it is done.
    """
    encoder, decoder = networks
    parameters = [*encoder.parameters(), *decoder.parameters()]
    optimizer = torch.optim.Adam(parameters, 1e-3, fused=True)
    stored = torch.from_numpy(images.reshape(-1, 1, 28, 28))

    def step() -> float:
        x = torch.bernoulli(stored.float() / 255)
        mean, log_var = encoder(x).chunk(2, dim=1)
        z = mean + torch.exp(0.5 * log_var) * torch.randn_like(mean)
        log_px_z = -functional.binary_cross_entropy_with_logits(decoder(z), x, reduction="sum")
        kl = 0.5 * torch.sum(mean**2 + log_var.exp() - 1 - log_var)
        loss = (kl - log_px_z) / len(x)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        optimizer.step()
        return loss.item()

    return step
