"""The U-Net of DDPM in PyTorch, for the benchmarks and as an independent copy for the tests.

Its parameters have the names of the public port of DDPM's CIFAR-10 model.
"""

from __future__ import annotations

import copy
import math
import shutil
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


def _runs(*functions: Callable[[], None]) -> bool:
    """Whether compiled functions can be called, which PyTorch's compiler does not manage for every network."""
    try:
        for function in functions:
            function()
    except RuntimeError as error:
        print(f"PyTorch's compiler fails, and its network is left out: {str(error).splitlines()[0]}")
        return False
    return True


def contestants(net: UNet, images: np.ndarray) -> dict[str, tuple[Callable[[], None], Callable[[], None]]]:
    """A training step of L_simple and a step of DDIM, as PyTorch's users have them.

    Args:
      net: the network; it is trained.
      images: [B, H, W, C] uint8.

    Returns:
      By how it is run (memory layout; eager or compiled), the two functions.
    """
    betas = torch.linspace(1e-4, 0.02, 1000)
    alphas_bar = torch.cumprod(1 - betas, 0)
    signal, noise = alphas_bar.sqrt(), (1 - alphas_bar).sqrt()
    found: dict[str, tuple[Callable[[], None], Callable[[], None]]] = {}
    can_compile = shutil.which("g++") is not None  # What PyTorch compiles with on a CPU.
    for layout in (torch.contiguous_format, torch.channels_last):
        for compiled in (False, True) if can_compile else (False,):
            model = copy.deepcopy(net)
            cast(Any, model).to(memory_format=layout)
            run = torch.compile(model) if compiled else model
            levels = torch.tensor(images).permute(0, 3, 1, 2).contiguous(memory_format=layout)
            optimizer = torch.optim.Adam(model.parameters(), 2e-4, fused=True)

            def train(run: Any = run, levels: Tensor = levels, optimizer: Any = optimizer) -> None:
                x0 = levels.float() / 127.5 - 1
                t = torch.randint(0, 1000, (len(x0),))
                epsilon = torch.randn_like(x0)
                x_t = signal[t][:, None, None, None] * x0 + noise[t][:, None, None, None] * epsilon
                optimizer.zero_grad()
                ((run(x_t, t) - epsilon) ** 2).mean().backward()
                optimizer.step()

            def sample(run: Any = run, levels: Tensor = levels) -> None:
                with torch.inference_mode():
                    x = levels.float() / 127.5 - 1
                    epsilon = run(x, torch.full((len(x),), 500))
                    x0 = (x - noise[500] * epsilon) / signal[500]
                    signal[499] * x0 + noise[499] * epsilon

            name = "channels last" if layout == torch.channels_last else "NCHW"
            if compiled and not _runs(train, sample):
                continue
            found[f"{name}, {'compiled' if compiled else 'eager'}"] = train, sample
    return found
