"""The U-Net of DDPM in PyTorch, for the benchmarks and as an independent copy for the tests.

Its parameters have the names of the public port of DDPM's CIFAR-10 model.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional


def _norm(channels: int, groups: int) -> nn.GroupNorm:
    return nn.GroupNorm(groups, channels, eps=1e-6)


class _Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int, time: int, dropout: float, groups: Callable[[int], int]) -> None:
        super().__init__()
        self.norm1, self.norm2 = _norm(inputs, groups(inputs)), _norm(outputs, groups(outputs))
        self.conv1, self.conv2 = nn.Conv2d(inputs, outputs, 3, padding=1), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.temb_proj = nn.Linear(time, outputs)
        self.dropout = nn.Dropout(dropout)
        if inputs != outputs:
            self.nin_shortcut = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv1(functional.silu(self.norm1(x)))
        h = h + self.temb_proj(functional.silu(embedding))[:, :, None, None]
        h = self.conv2(self.dropout(functional.silu(self.norm2(h))))
        return (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x) + h


class _Attention(nn.Module):
    def __init__(self, channels: int, groups: Callable[[int], int]) -> None:
        super().__init__()
        self.norm = _norm(channels, groups(channels))
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        query, key, value = (layer(h).flatten(2).transpose(1, 2)[:, None] for layer in (self.q, self.k, self.v))
        h = functional.scaled_dot_product_attention(query, key, value)[:, 0].transpose(1, 2).reshape(x.shape)
        return x + self.proj_out(h)


class _Resample(nn.Module):
    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride, padding=0 if stride == 2 else 1)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == 2:
            return self.conv(functional.pad(x, (0, 1, 0, 1)))
        return self.conv(functional.interpolate(x, scale_factor=2.0, mode="nearest"))


class UNet(nn.Module):
    """The counterpart of `gen_jax.families.diffusion.unet.UNet`, on images [B, C, H, W]."""

    def __init__(
        self,
        size: int,
        colours: int,
        *,
        channels: int = 128,
        channel_mult: tuple[int, ...] = (1, 2, 2, 2),
        num_blocks: int = 2,
        attention_at: tuple[int, ...] = (16,),
        dropout: float = 0.1,
        groups: Callable[[int], int] = lambda channels: 32,
    ) -> None:
        """Makes the layers for images of a side and a number of colours."""
        super().__init__()
        self.channels, time = channels, 4 * channels
        self.temb = nn.Module()
        self.temb.dense = nn.ModuleList([nn.Linear(channels, time), nn.Linear(time, time)])
        self.conv_in = nn.Conv2d(colours, channels, 3, padding=1)
        widths, width, skips, last = [channels * m for m in channel_mult], channels, [channels], len(channel_mult) - 1

        def level(inputs: list[int], outputs: int, resolution: int) -> nn.Module:
            module = nn.Module()
            module.block = nn.ModuleList([_Residual(i, outputs, time, dropout, groups) for i in inputs])
            attended = resolution in attention_at
            module.attn = nn.ModuleList([_Attention(outputs, groups) for _ in inputs] if attended else [])
            return module

        self.down = nn.ModuleList()
        for i, outputs in enumerate(widths):
            module = level([width, *[outputs] * (num_blocks - 1)], outputs, size // 2**i)
            width = outputs
            skips += [width] * num_blocks
            if i != last:
                module.downsample = _Resample(width, 2)
                skips.append(width)
            self.down.append(module)
        self.mid = nn.Module()
        self.mid.block_1, self.mid.block_2 = (_Residual(width, width, time, dropout, groups) for _ in range(2))
        self.mid.attn_1 = _Attention(width, groups)
        up = []
        for i in reversed(range(last + 1)):
            ins = []
            for _ in range(num_blocks + 1):
                ins.append(width + skips.pop())
                width = widths[i]
            module = level(ins, width, size // 2**i)
            if i:
                module.upsample = _Resample(width, 1)
            up.append(module)
        self.up = nn.ModuleList(reversed(up))
        self.norm_out = _norm(width, groups(width))
        self.conv_out = nn.Conv2d(width, colours, 3, padding=1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Predicts from noisy images [B, C, H, W] at times [B]."""
        half = self.channels // 2
        frequencies = torch.exp(-math.log(10_000) / (half - 1) * torch.arange(half))
        angles = time[:, None] * frequencies
        dense: Any = self.temb.dense
        down, mid, up = cast(Any, self.down), cast(Any, self.mid), cast(Any, self.up)
        embedding = dense[1](functional.silu(dense[0](torch.cat([angles.sin(), angles.cos()], dim=1))))

        def block(module: Any, i: int, h: Tensor) -> Tensor:
            h = module.block[i](h, embedding)
            return module.attn[i](h) if len(module.attn) else h

        skips = [self.conv_in(x)]
        for module in down:
            for i in range(len(module.block)):
                skips.append(block(module, i, skips[-1]))
            if hasattr(module, "downsample"):
                skips.append(module.downsample(skips[-1]))
        h = mid.attn_1(mid.block_1(skips[-1], embedding))
        h = mid.block_2(h, embedding)
        for module in reversed(up):
            for i in range(len(module.block)):
                h = block(module, i, torch.cat([h, skips.pop()], dim=1))
            if hasattr(module, "upsample"):
                h = module.upsample(h)
        return self.conv_out(functional.silu(self.norm_out(h)))


def train_step(run: Any, parameters: list[nn.Parameter], levels: Tensor) -> Callable[[], None]:
    """A training step of L_simple with Adam, as PyTorch's users have it.

    Args:
      run: the network, compiled or not.
      parameters: its own; they are trained.
      levels: [B, C, H, W] uint8.

    Returns:
      A function that makes one step.
    """
    signal, noise = _levels()
    optimizer = torch.optim.Adam(parameters, 2e-4, fused=True)

    def train() -> None:
        x0 = levels.float() / 127.5 - 1
        t = torch.randint(0, 1000, (len(x0),))
        epsilon = torch.randn_like(x0)
        x_t = signal[t][:, None, None, None] * x0 + noise[t][:, None, None, None] * epsilon
        optimizer.zero_grad()
        ((run(x_t, t) - epsilon) ** 2).mean().backward()
        optimizer.step()

    return train


def sample_step(run: Any, parameters: list[nn.Parameter], levels: Tensor) -> Callable[[], None]:
    """A step of DDIM from 500 to 499; the arguments are those of `train_step`, the parameters stay."""
    signal, noise = _levels()

    @torch.inference_mode()
    def sample() -> None:
        x = levels.float() / 127.5 - 1
        epsilon = run(x, torch.full((len(x),), 500))
        x0 = (x - noise[500] * epsilon) / signal[500]
        signal[499] * x0 + noise[499] * epsilon

    return sample


def _levels() -> tuple[Tensor, Tensor]:
    alphas_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)
    return alphas_bar.sqrt(), (1 - alphas_bar).sqrt()


def layouts(make: Callable[..., Callable[[], None]], net: UNet, images: np.ndarray) -> dict[str, Callable[[], object]]:
    """A step in both memory layouts, eager.

    Args:
      make: `train_step` or `sample_step`.
      net: the network; copies of it are used.
      images: [B, H, W, C] uint8.

    Returns:
      The functions by the name of the layout.
    """
    found: dict[str, Callable[[], object]] = {}
    for name, layout in (("NCHW", torch.contiguous_format), ("channels last", torch.channels_last)):
        model = copy.deepcopy(net)
        cast(Any, model).to(memory_format=layout)
        levels = torch.tensor(images).permute(0, 3, 1, 2).contiguous(memory_format=layout)
        found[f"eager, {name}"] = make(model, list(model.parameters()), levels)
    return found
