"""The benchmarks of diffusion: training and sampling steps against PyTorch, one program against a loop, memory."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from gen_jax import rng, runtime
from gen_jax.families import diffusion as family
from gen_jax.families.diffusion import objectives, torch_weights
from gen_jax.families.diffusion.objectives import Diffusion
from gen_jax.families.diffusion.unet import UNet
from gen_jax.nn.group_norm import GroupNorm, num_groups_of
from gen_jax.train.state import init_state
from gen_jax.train.step import make_train_step

from . import timing
from .timing import Contest, Row

# The side of the images, their colours and the channels of the network.
_SIZES = ((28, 1, 32), (32, 3, 32), (32, 3, 64))
_BATCH = 32


def _sizes(side: int, channels: int) -> dict[str, Any]:
    """A U-Net of three levels, two blocks each; at 32 pixels with attention at 16."""
    return {
        "channels": channels,
        "channel_mult": (1, 2, 2),
        "num_blocks": 2,
        "attention_at": (side // 2,),
        "dropout": 0.0,
    }


def _model(side: int, colours: int, channels: int, *, remat: bool = False) -> Diffusion:
    model = UNet(colours, **_sizes(side, channels), remat=remat)
    return Diffusion(family.make_process(family.linear_betas(1000)), model)


def _images(side: int, colours: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (_BATCH, side, side, colours), np.uint8)


def _train(diffusion: Diffusion, images: np.ndarray, compute_dtype: Any = jnp.float32) -> tuple[Any, Any, Any]:
    """A train step, its state and its batch."""
    tx = optax.adam(2e-4)
    loss = functools.partial(objectives.objective, diffusion=diffusion)
    step = make_train_step(loss, tx, compute_dtype=compute_dtype, whole_batch=True)
    key = rng.root(0)
    params = jax.jit(diffusion.model.init)(key, jnp.zeros((1, *images.shape[1:])), jnp.zeros(1, jnp.int32))["params"]
    batch = {"image": jnp.asarray(images), "index": jnp.arange(len(images))}
    return step, init_state(params, tx, key), batch


def _train_call(diffusion: Diffusion, images: np.ndarray) -> timing.Call:
    """A function that makes one training step."""
    step, state, batch = _train(diffusion, images)
    compiled = jax.jit(step, donate_argnums=0)

    def call() -> None:
        nonlocal state
        state, _ = compiled(state, batch)
        jax.block_until_ready(state)

    return call


def contests() -> list[Contest]:
    """A training step and a sampling step of DDPM's U-Net against the same network in PyTorch."""
    return [
        Contest(
            f"DDPM's U-Net, {side} pixels, {channels} channels, batch {_BATCH}, {kind} step",
            functools.partial(ours, side, colours, channels),
            functools.partial(_peers, kind, side, colours, channels),
            bound=1.0,
            check=functools.partial(_check, side, colours, channels),
        )
        for side, colours, channels in _SIZES
        for kind, ours in (("training", _ours_training), ("sampling", _ours_sampling))
    ]


def _ours_training(side: int, colours: int, channels: int) -> timing.Call:
    return _train_call(_model(side, colours, channels), _images(side, colours))


def _ours_sampling(side: int, colours: int, channels: int) -> timing.Call:
    diffusion = _model(side, colours, channels)
    _, state, _ = _train(diffusion, _images(side, colours))
    step = jax.jit(family.ddim(diffusion.process, objectives.predictor(state.params, diffusion=diffusion)).step)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((_BATCH, side, side, colours), np.float32))
    keys = rng.per_example(rng.root(0), np.arange(_BATCH))
    return lambda: jax.block_until_ready(step(x, (), jnp.int32(500), keys))


def _net(side: int, colours: int, channels: int) -> Any:
    """The network in PyTorch, the same each time."""
    import torch

    from . import torch_diffusion

    torch.manual_seed(0)
    return torch_diffusion.UNet(side, colours, groups=num_groups_of, **_sizes(side, channels))


def _peers(kind: str, side: int, colours: int, channels: int) -> dict[str, timing.Call]:
    from . import torch_diffusion

    make = {"training": torch_diffusion.train_step, "sampling": torch_diffusion.sample_step}[kind]
    return torch_diffusion.layouts(make, _net(side, colours, channels), _images(side, colours))


def _check(side: int, colours: int, channels: int) -> None:
    """Refuses to compare networks that do not give the same from the same weights, at a step of its own each image."""
    import torch

    net = _net(side, colours, channels)
    params = torch_weights.unet_params({name: weight.numpy() for name, weight in net.state_dict().items()})
    x = np.random.default_rng(0).standard_normal((4, side, side, colours)).astype(np.float32)
    t = np.array([0, 10, 500, 999])
    ours = jax.jit(_model(side, colours, channels).model.apply)({"params": params}, x, t)
    with torch.inference_mode():
        theirs = net(torch.from_numpy(x).permute(0, 3, 1, 2), torch.from_numpy(t)).permute(0, 2, 3, 1).numpy()
    if np.abs(np.asarray(ours) - theirs).max() > 1e-3 * np.abs(theirs).max():
        raise RuntimeError("The U-Nets differ: they are no measure of each other.")


def one_program(seconds: float) -> Row:
    """Sampling as one compiled program against a Python loop of compiled steps."""
    side, colours, channels = _SIZES[0]
    diffusion = _model(side, colours, channels)
    _, state, _ = _train(diffusion, _images(side, colours))
    few = family.space(diffusion.process, family.spaced_steps(diffusion.process, 10))
    keys = rng.per_example(rng.root(0), np.arange(_BATCH))
    shape = (side, side, colours)

    def sampler(params: Any) -> family.Sampler:
        return family.ddim(few, objectives.predictor(params, diffusion=diffusion))

    whole = jax.jit(lambda params: family.sample(sampler(params), keys, shape))
    step = jax.jit(lambda params, *args: sampler(params).step(*args))
    looped = sampler(state.params)._replace(step=functools.partial(step, state.params))
    ratio = timing.ratio(
        lambda: jax.block_until_ready(whole(state.params)),
        lambda: jax.block_until_ready(family.sample(looped, keys, shape, loop="python")),
        seconds,
    )
    what = (
        f"10 steps of DDIM as one program against a Python loop of compiled steps, {side} pixels, {channels} channels"
    )
    return what, str(ratio), ""


def remat_memory() -> list[Row]:
    """What JAX keeps for a gradient, and what XLA plans for a training step, with `remat` and without."""
    side, colours, channels = _SIZES[1]
    kept, planned = [], []
    for remat in (True, False):
        diffusion, images = _model(side, colours, channels, remat=remat), _images(side, colours)
        step, state, batch = _train(diffusion, images)
        kept.append(_kept_bytes(diffusion, state, batch) / 2**20)
        analysis: Any = jax.jit(step, donate_argnums=0).lower(state, batch).compile().memory_analysis()
        planned.append(analysis.temp_size_in_bytes / 2**20)
    what = f"with remat against without, {side} pixels, {channels} channels"
    return [
        (f"{name} {what}", f"{sizes[0] / sizes[1]:.2f}x; {sizes[0]:.0f} MiB against {sizes[1]:.0f} MiB", "")
        for name, sizes in (
            ("kept of the forward pass for the gradient,", kept),
            (f"temporary memory of a training step as XLA plans it for a {jax.default_backend()},", planned),
        )
    ]


def _kept_bytes(diffusion: Diffusion, state: Any, batch: Any) -> int:
    """The size of what the gradient of the loss takes from the forward pass, parameters included."""

    def residuals(params: Any) -> Any:
        def loss(params: Any) -> Any:
            return objectives.objective(params, {}, state.key, batch | {"step": state.step}, diffusion=diffusion)

        return jax.vjp(loss, params, has_aux=True)[1]

    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(jax.eval_shape(residuals, state.params)))


def group_norm(seconds: float) -> Row:
    """Group normalisation, forward and backward, in our form against Linen's."""
    x = jnp.asarray(np.random.default_rng(0).standard_normal((_BATCH, 32, 32, 64), np.float32))

    def gradient(layer: nn.Module) -> Callable[[], None]:
        params = layer.init(rng.root(0), x)
        compiled = jax.jit(jax.grad(lambda params, x: jnp.sum(jnp.asarray(layer.apply(params, x)) ** 3), (0, 1)))
        return lambda: jax.block_until_ready(compiled(params, x))

    ratio = timing.ratio(gradient(GroupNorm(16)), gradient(nn.GroupNorm(16)), seconds)
    return "group normalisation and its gradient, 32x32x64, against Linen's", str(ratio), ""


def _wait_for(function: Callable[[], Any]) -> None:
    jax.block_until_ready(function())


def convolutions(seconds: float) -> list[Row]:
    """A 3x3 convolution, on which the U-Net waits, and its gradient in its kernel, against PyTorch."""
    import torch
    from torch.nn.grad import conv2d_weight

    rows: list[Row] = []
    for side, channels in ((32, 32), (16, 64), (8, 64)):
        shapes = [(_BATCH, side, side, channels), (3, 3, channels, channels), (_BATCH, side, side, channels)]
        random = np.random.default_rng(0)
        x, kernel, cotangent = (random.standard_normal(shape).astype(np.float32) for shape in shapes)
        image, change = (torch.from_numpy(array).permute(0, 3, 1, 2) for array in (x, cotangent))  # Channels last.
        weight = torch.from_numpy(kernel).permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)
        for name, ours, theirs, order in (
            (
                "a 3x3 convolution",
                functools.partial(jax.jit(_convolve), *map(jnp.asarray, (x, kernel))),
                functools.partial(torch.nn.functional.conv2d, image, weight, padding=1),
                (0, 2, 3, 1),
            ),
            (
                "gradient of a 3x3 convolution in its kernel",
                functools.partial(jax.jit(_kernel_gradient), *map(jnp.asarray, (x, kernel, cotangent))),
                functools.partial(conv2d_weight, image, weight.shape, change, padding=1),
                (2, 3, 1, 0),
            ),
        ):
            expected = theirs().permute(order).numpy()
            if np.abs(ours() - expected).max() > 1e-3 * np.abs(expected).max():
                raise RuntimeError(f"What PyTorch has for {name} differs: it is no measure of ours.")
            ratio = timing.ratio(functools.partial(_wait_for, ours), theirs, seconds)
            what = f"{name}, {side}x{side}x{channels}, batch {_BATCH}, against PyTorch"
            rows.append((what, f"{ratio}; {1e3 * ratio.seconds:.1f} ms against {1e3 * ratio.reference:.1f} ms", ""))
    return rows


def _convolve(x: Any, kernel: Any) -> Any:
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _kernel_gradient(x: Any, kernel: Any, cotangent: Any) -> Any:
    return jax.vjp(functools.partial(_convolve, x), kernel)[1](cotangent)[0]


def flags() -> Row:
    """A training step in a process that `runtime.configure` has set up, against one with JAX's defaults."""
    script = "from experiments.benchmarks import diffusion; print(diffusion.step_seconds({}))"

    # What this process has set is not to be there for the other.
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}

    def measured(configured: bool) -> float:
        command = [sys.executable, "-c", script.format(configured)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return float(done.stdout.split()[-1])

    ratios = [measured(True) / measured(False) for _ in range(3)]
    low, median, high = np.percentile(ratios, [10, 50, 90])
    what = "training step of the U-Net, 32 pixels, 32 channels: our XLA flags and allocator against JAX's defaults"
    return what, f"{median:.2f}x ({low:.2f} to {high:.2f})", ""


def step_seconds(configured: bool) -> float:
    """The median time of a training step in this process, which nothing has been computed in yet.

    Args:
      configured: whether `runtime.configure` is called first.

    Returns:
      Seconds.
    """
    if configured:
        runtime.configure()
    side, colours, channels = _SIZES[1]
    call = _train_call(_model(side, colours, channels), _images(side, colours))
    call()
    times = []
    for _ in range(10):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def accelerator(batch: int = 128, sizes: dict[str, Any] | None = None, calls: int = 20) -> list[Row]:
    """Steps a second of the CIFAR-10 network on one accelerator, in both precisions, and how much of its peak that is.

    Args:
      batch: examples a step.
      sizes: of the network; None for the paper's.
      calls: how many steps are timed.

    Returns:
      A row for each precision.
    """
    model = UNet(3, **(sizes or {"dropout": 0.0}))
    diffusion = Diffusion(family.make_process(family.linear_betas(1000)), model)
    images = np.random.default_rng(0).integers(0, 256, (batch, 32, 32, 3), np.uint8)
    rows = []
    for dtype in (jnp.float32, jnp.bfloat16):
        step, state, data = _train(diffusion, images, compute_dtype=dtype)
        compiled = jax.jit(step, donate_argnums=0).lower(state, data).compile()
        costs: Any = compiled.cost_analysis()
        state = jax.block_until_ready(compiled(state, data)[0])
        start = time.perf_counter()
        for _ in range(calls):
            state, _ = compiled(state, data)
        jax.block_until_ready(state)
        rate = calls / (time.perf_counter() - start)
        kind = jax.devices()[0].device_kind
        peak = next((peak for name, peak in PEAKS.items() if name in kind), None)
        share = f", {100 * rate * costs['flops'] / peak:.0f} % of its bfloat16 peak" if peak else ""
        what = f"CIFAR-10 network, batch {batch}, {jnp.dtype(dtype).name}, {kind}"
        rows.append((what, f"{rate:.1f} steps/s, {1e-12 * rate * costs['flops']:.1f} TFLOP/s{share}", ""))
    return rows


# FLOP/s of dense matrix products in bfloat16, by the makers' data sheets.
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "V100": 125e12, "TPU v4": 275e12, "TPU v5 lite": 197e12}
