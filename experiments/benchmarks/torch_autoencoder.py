"""The deep autoencoder's training step in PyTorch, eager, as its users write it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional


def deep(widths: tuple[int, ...] = (784, 1000, 500, 250, 30)) -> nn.Module:
    """784-1000-500-250-30 and back, with GELU units between and a linear code."""
    layers: list[nn.Module] = [nn.Flatten()]
    for half in (widths, widths[::-1]):
        for into, out in pairwise(half):
            layers += [nn.Linear(into, out), nn.GELU(approximate="tanh")]
        layers.pop()
    return nn.Sequential(*layers)


def make_step(network: nn.Module, images: np.ndarray) -> Callable[[], Any]:
    """A training step on one batch: the cross-entropy, its gradient and its norm, Adam.

    Args:
      network: to the logits [B, 784].
      images: [B, 28, 28, 1] uint8.

    Returns:
      A function that makes one step and returns when it is done.
    """
    parameters = list(network.parameters())
    optimizer = torch.optim.Adam(parameters, 1e-3, fused=True)
    stored = torch.from_numpy(images.reshape(-1, 784))

    def step() -> float:
        x = stored.float() / 255
        loss = functional.binary_cross_entropy_with_logits(network(x), x, reduction="sum") / len(x)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        optimizer.step()
        return loss.item()

    return step
