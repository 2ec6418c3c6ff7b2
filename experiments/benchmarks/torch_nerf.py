"""The pipeline of NeRF in PyTorch, eager, as its users write it: the peer that the benchmark measures against.

Rays, stratified and importance samples, positional encoding, both networks and the quadrature are as in
`gen_jax.families.nerf`; the network's layers have the names of the common ports.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn


class NeRF(nn.Module):
    """The network: `depth` layers of the place, which is seen again after layer `skip`, and one of the direction."""

    def __init__(self, depth: int = 8, width: int = 256, skip: int = 4, place: int = 63, view: int = 27) -> None:
        """Makes the layers for encodings of these sizes."""
        super().__init__()
        inputs = [place] + [width + place * (i == skip) for i in range(depth - 1)]
        self.skip = skip
        self.pts_linears = nn.ModuleList(nn.Linear(n, width) for n in inputs)
        self.views_linears = nn.ModuleList([nn.Linear(width + view, width // 2)])
        self.feature_linear = nn.Linear(width, width)
        self.alpha_linear = nn.Linear(width, 1)
        self.rgb_linear = nn.Linear(width // 2, 3)

    def forward(self, place: Tensor, view: Tensor) -> tuple[Tensor, Tensor]:
        """The colour [..., 3] and density [...] before their last nonlinearities."""
        h = place
        for i, layer in enumerate(self.pts_linears):
            h = torch.relu(layer(h))
            if i == self.skip:
                h = torch.cat([place, h], -1)
        density = self.alpha_linear(h)[..., 0]
        h = torch.cat([self.feature_linear(h), view], -1)
        return self.rgb_linear(torch.relu(self.views_linears[0](h))), density


def _encode(x: Tensor, count: int) -> Tensor:
    angles = x[..., None, :] * (2.0 ** torch.arange(count))[:, None]
    return torch.cat([x, torch.stack([angles.sin(), angles.cos()], -2).flatten(-3)], -1)


def _composite(raw: tuple[Tensor, Tensor], depths: Tensor, norm: Tensor) -> tuple[Tensor, Tensor]:
    """The colour over white [R, 3] and the weights [R, N]."""
    color, density = torch.sigmoid(raw[0]), torch.relu(raw[1])
    delta = torch.cat([depths[:, 1:] - depths[:, :-1], torch.full_like(depths[:, :1], 1e10)], 1) * norm
    thickness = density * delta
    before = torch.cumsum(torch.cat([torch.zeros_like(thickness[:, :1]), thickness[:, :-1]], 1), 1)
    weights = torch.exp(-before) * -torch.expm1(-thickness)
    return (weights[..., None] * color).sum(1) + 1.0 - weights.sum(1, keepdim=True), weights


def _importance(depths: Tensor, weights: Tensor, u: Tensor) -> Tensor:
    edges = 0.5 * (depths[:, 1:] + depths[:, :-1])
    weights = weights[:, 1:-1]
    weights = torch.where(weights.sum(1, keepdim=True) > 0, weights, torch.ones_like(weights))
    cdf = torch.cumsum(weights / weights.sum(1, keepdim=True), 1)
    cdf = torch.cat([torch.zeros_like(cdf[:, :1]), cdf], 1)
    part = (torch.searchsorted(cdf, u, right=True) - 1).clamp(0, weights.shape[1] - 1)
    low, high = torch.gather(cdf, 1, part), torch.gather(cdf, 1, part + 1)
    left, right = torch.gather(edges, 1, part), torch.gather(edges, 1, part + 1)
    return left + (u - low) / (high - low).clamp_min(1e-10) * (right - left)


def render(
    nets: tuple[NeRF, NeRF], origin: Tensor, direction: Tensor, num_coarse: int, num_fine: int, *, noise: bool
) -> tuple[Tensor, Tensor]:
    """The colours of both levels for rays [R, 3] between depths 2 and 6."""
    count, norm = len(origin), direction.norm(dim=1, keepdim=True)
    view = _encode(direction / norm, 4)[:, None]

    def ask(net: NeRF, depths: Tensor) -> tuple[Tensor, Tensor]:
        place = _encode(origin[:, None] + depths[..., None] * direction[:, None], 10)
        return net(place, view.expand(-1, depths.shape[1], -1))

    def offsets(num: int) -> Tensor:
        return torch.rand(count, num) if noise else torch.full((count, num), 0.5)

    depths = 2.0 + 4.0 * (torch.arange(num_coarse) + offsets(num_coarse)) / num_coarse
    first, weights = _composite(ask(nets[0], depths), depths, norm)
    u = (torch.arange(num_fine) + offsets(num_fine)) / num_fine
    more = _importance(depths, weights.detach(), u)
    depths = torch.cat([depths, more], 1).sort(1).values
    second, _ = _composite(ask(nets[1], depths), depths, norm)
    return first, second


def make_step(
    nets: tuple[NeRF, NeRF], rays: tuple[np.ndarray, np.ndarray], color: np.ndarray, counts: tuple[int, int], parts: int
) -> Callable[[], float]:
    """A function that makes one training step with Adam on some rays, in so many parts, and returns the loss."""
    optimizer = torch.optim.Adam([p for net in nets for p in net.parameters()], 5e-4, fused=True)
    arrays = (torch.from_numpy(array) for array in (*rays, color))
    split = list(zip(*(array.chunk(parts) for array in arrays), strict=True))

    def step() -> float:
        total = 0.0
        optimizer.zero_grad()
        for origin, direction, target in split:
            first, second = render(nets, origin, direction, *counts, noise=True)
            loss = (((first - target) ** 2).mean() + ((second - target) ** 2).mean()) / parts
            loss.backward()
            total += float(loss.detach())
        optimizer.step()
        return total

    return step


def make_view(
    nets: tuple[NeRF, NeRF], rays: tuple[np.ndarray, np.ndarray], counts: tuple[int, int], chunk: int
) -> Callable[[], np.ndarray]:
    """A function that renders the rays of a view, so many at a time."""
    origins, directions = (torch.from_numpy(array).split(chunk) for array in rays)

    @torch.inference_mode()
    def view() -> np.ndarray:
        parts = zip(origins, directions, strict=True)
        return torch.cat([render(nets, *part, *counts, noise=False)[1] for part in parts]).numpy()

    return view
