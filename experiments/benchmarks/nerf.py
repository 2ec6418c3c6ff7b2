"""The benchmarks of NeRF: a training step and a view against PyTorch, rays a second, memory against image size."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gen_jax import rng
from gen_jax.families import nerf as family
from gen_jax.families.nerf import objectives, torch_weights
from gen_jax.ops.camera_paths import Outlook, path_poses
from gen_jax.ops.cameras import pinhole, pixel_centers, ray
from gen_jax.train.state import init_state
from gen_jax.train.step import make_train_step

from . import timing
from .diffusion import PEAKS
from .timing import Contest, Row

_RAYS, _SIDE, _STEPS, _PARTS = 256, 64, 4, 32
_SAMPLING = family.RaySampling(2.0, 6.0, 64, 128)
_COUNTS = _SAMPLING.num_coarse, _SAMPLING.num_fine
_NERF = family.NeRF(family.RadianceField(), _SAMPLING)


def _pose() -> np.ndarray:
    return path_poses("orbit", Outlook(np.eye(3), np.zeros(3), np.zeros(3), 4.0, 0.5, np.zeros(3)), 1)[0]


def _batch(count: int, side: int = _SIDE) -> dict[str, np.ndarray]:
    """Rays of one camera, every pixel as likely."""
    random = np.random.default_rng(0)
    camera = jax.tree.map(np.asarray, pinhole(1.39 * side, side, side))
    alike = {"pose": _pose(), **camera._asdict()}
    return {name: np.tile(array, (count, *(1,) * array.ndim)) for name, array in alike.items()} | {
        "pixel": random.integers(0, side, (count, 2)).astype(np.float32) + 0.5,
        "color": random.integers(0, 256, (count, 3)).astype(np.uint8),
        "index": np.arange(count, dtype=np.uint32),
    }


def _train(
    count: int, compute_dtype: Any = jnp.float32, steps_per_call: int = 1, parts: int = 1
) -> tuple[Any, Any, Any]:
    """A train step, its state and the batch or batches of a call."""
    tx = optax.adam(5e-4)
    loss = functools.partial(objectives.objective, nerf=_NERF)
    step = make_train_step(loss, tx, compute_dtype=compute_dtype, steps_per_call=steps_per_call, accumulate=parts)
    params = jax.jit(functools.partial(family.init_params, nerf=_NERF))(rng.root(0))
    batch = _batch(count)
    if steps_per_call > 1:
        batch = {name: np.stack([array] * steps_per_call) for name, array in batch.items()}
    return step, init_state(params, tx, rng.root(0)), jax.tree.map(jnp.asarray, batch)


def _train_call(count: int, steps_per_call: int, parts: int) -> Callable[[], None]:
    step, state, batch = _train(count, steps_per_call=steps_per_call, parts=parts)
    compiled = jax.jit(step, donate_argnums=0)

    def call() -> None:
        nonlocal state
        state, _ = compiled(state, batch)
        jax.block_until_ready(state)

    return call


def _view(params: Any, side: int) -> Callable[[], Any]:
    """A function that renders a view."""
    camera, pose = pinhole(1.39 * side, side, side), jnp.asarray(_pose())
    compiled = jax.jit(functools.partial(family.render_view, height=side, width=side, nerf=_NERF))
    return lambda: jax.block_until_ready(compiled(params, camera, pose))


def contests() -> list[Contest]:
    """A training step and a view against the same pipeline in PyTorch, from the same weights."""
    return [
        Contest(
            f"NeRF, training step of {_RAYS} rays in {_PARTS} parts, 64 + 128 samples",
            functools.partial(_train_call, _RAYS, _STEPS, _PARTS),
            _peers_training,
            _STEPS,
            bound=0.8,
        ),
        Contest(f"NeRF, a view of {_SIDE}x{_SIDE}", _ours_view, _peers_view, bound=0.8, check=_check_views),
    ]


def _rays(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    camera = pinhole(1.39 * _SIDE, _SIDE, _SIDE)
    origin, direction = jax.vmap(lambda pixel: ray(camera, jnp.asarray(_pose()), pixel))(jnp.asarray(pixels))
    return np.array(origin), np.array(direction)


def _nets() -> tuple[Any, Any]:
    """Both networks in PyTorch, the same each time."""
    import torch

    from . import torch_nerf

    torch.manual_seed(0)
    return torch_nerf.NeRF(), torch_nerf.NeRF()


def _peers_training() -> dict[str, timing.Call]:
    from . import torch_nerf

    batch = _batch(_RAYS)
    color = batch["color"].astype(np.float32) / np.float32(255)
    return {
        f"eager, in {parts} parts" if parts > 1 else "eager, in one": timing.repeat(
            torch_nerf.make_step(_nets(), _rays(batch["pixel"]), color, _COUNTS, parts), _STEPS
        )
        for parts in (1, 16)
    }


def _ours_view() -> Callable[[], Any]:
    names = ("coarse", "fine")
    nets = zip(names, _nets(), strict=True)
    params = {
        name: torch_weights.field_params({key: value.detach().numpy() for key, value in net.state_dict().items()})
        for name, net in nets
    }
    return _view(params, _SIDE)


def _peers_view() -> dict[str, timing.Call]:
    from . import torch_nerf

    whole = _rays(pixel_centers(_SIDE, _SIDE).reshape(-1, 2))
    return {
        f"eager, {chunk} rays at once": torch_nerf.make_view(_nets(), whole, _COUNTS, chunk) for chunk in (256, 1024)
    }


def _check_views() -> None:
    ours = np.asarray(_ours_view()().color).reshape(-1, 3)
    if any(np.abs(np.asarray(theirs()) - ours).max() > 1e-3 for theirs in _peers_view().values()):
        raise RuntimeError("The views differ: they are no measure of each other.")


def view_memory() -> Row:
    """The memory that XLA plans for a view, over what the view itself takes, at two sizes."""
    params = jax.eval_shape(functools.partial(family.init_params, nerf=_NERF), rng.root(0))
    sizes = {}
    for side in (100, 800):
        render = jax.jit(functools.partial(family.render_view, height=side, width=side, nerf=_NERF))
        analysis: Any = render.lower(params, pinhole(1.0, side, side), jnp.asarray(_pose())).compile().memory_analysis()
        sizes[side] = analysis.temp_size_in_bytes / 2**20
    measured = f"{sizes[800]:.0f} MiB against {sizes[100]:.0f} MiB"
    return "temporary memory of a NeRF's view of 800x800 against one of 100x100", measured, ""


def accelerator(rays: int = 16384, calls: int = 20) -> list[Row]:
    """Rays a second of a training step on one accelerator, in both precisions, and how much of its peak that is.

    Args:
      rays: of a step.
      calls: how many steps are timed.

    Returns:
      A row for each precision.
    """
    rows = []
    for dtype in (jnp.float32, jnp.bfloat16):
        step, state, batch = _train(rays, dtype)
        compiled = jax.jit(step, donate_argnums=0).lower(state, batch).compile()
        costs: Any = compiled.cost_analysis()
        state = jax.block_until_ready(compiled(state, batch)[0])
        start = time.perf_counter()
        for _ in range(calls):
            state, _ = compiled(state, batch)
        jax.block_until_ready(state)
        rate = calls / (time.perf_counter() - start)
        kind = jax.devices()[0].device_kind
        peak = next((peak for name, peak in PEAKS.items() if name in kind), None)
        share = f", {100 * rate * costs['flops'] / peak:.0f} % of its bfloat16 peak" if peak else ""
        what = f"NeRF training step, {rays} rays, {jnp.dtype(dtype).name}, {kind}"
        rows.append((what, f"{rate * rays:,.0f} rays/s, {1e-12 * rate * costs['flops']:.1f} TFLOP/s{share}", ""))
    return rows
