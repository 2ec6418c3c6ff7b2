"""The VAE's training step in PyTorch, eager, as its users write it: the peer that the benchmark measures against."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

_MAPS = 64 * 49  # What the convolutional encoder flattens and the decoder begins with: 64 channels of 7x7.


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


def flax_params(network: nn.Module) -> dict[str, dict[str, np.ndarray]]:
    """The weights of an encoder or decoder by the names and in the axes of ours, maps of 7x7 with their channels last.

    Args:
      network: of `mlp` or `conv`.

    Returns:
      Arrays by layer, `Dense_0` and so on; an encoder's last layer has the mean and the log-variance side by side.
    """
    params: dict[str, dict[str, np.ndarray]] = {}
    kinds = {nn.Linear: "Dense", nn.Conv2d: "Conv", nn.ConvTranspose2d: "ConvTranspose"}
    for layer in (layer for layer in network.children() if type(layer) in kinds):
        weight, bias = (tensor.detach() for tensor in layer.parameters())
        if isinstance(layer, nn.Linear) and layer.in_features == _MAPS:
            weight = weight.unflatten(1, (-1, 49)).transpose(1, 2).flatten(1)
        if isinstance(layer, nn.Linear) and layer.out_features == _MAPS:
            weight, bias = (tensor.unflatten(0, (-1, 49)).transpose(0, 1).flatten(0, 1) for tensor in (weight, bias))
        kind = kinds[type(layer)]
        name = f"{kind}_{sum(other.startswith(f'{kind}_') for other in params)}"
        params[name] = {"kernel": weight.permute(*range(2, weight.ndim), 1, 0).numpy(), "bias": bias.numpy()}
    return params


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
