"""The pictures of a diffusion model: samples, how they come out of the noise, and where along it the loss is."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.contracts import Curves, Field, Film, Grid, Panels, Picture, Terms
from gen_jax.ops import pixels
from gen_jax.ops.distributions import mixture_log_density

# Compiled once for all frames of a film.
_log_density = jax.jit(jax.vmap(functools.partial(mixture_log_density, std=1.0), in_axes=(0, None)))


def sample_grid(images: np.ndarray, columns: int, title: str = "Samples") -> Grid:
    """Images in rows.

    Args:
      images: [n, H, W, C] in [0, 1]; n is a multiple of the columns.
      columns: how many a row has.
      title: what they are.

    Returns:
      A grid.
    """
    return Grid(title, images.reshape(-1, columns, *images.shape[1:]))


def shown_steps(count: int, most: int) -> np.ndarray:
    """Which steps of a sampler are shown: the first and the last, and more of the late ones, where most can be seen.

    Args:
      count: S, how many there are.
      most: at most so many are shown.

    Returns:
      [n] int, rising from 0 to S − 1.
    """
    if count <= most:
        return np.arange(count)
    left = np.linspace(1, 0, most)  # How much of the way is left, by its root.
    return np.unique(((count - 1) * (1 - left**2)).round().astype(int))


def image_chain(xs: np.ndarray, x0s: np.ndarray, times: np.ndarray) -> dict[str, Picture]:
    """How images come out of the noise: strips of x_t and of the x_0 believed in, and both as a film.

    Args:
      xs: [S, n, H, W, C] after each step, n a square number of 4 or more.
      x0s: [S, n, H, W, C] the x_0 believed in at each step.
      times: [S] what the network was told at each.

    Returns:
      `chain`, `x0_predictions` and `denoising`.
    """
    xs, x0s = (np.asarray(pixels.to_unit(jnp.asarray(x))) for x in (xs, x0s))
    chosen, frames = shown_steps(len(xs), 10), shown_steps(len(xs), 60)
    side = int(np.sqrt(xs.shape[1]))

    def strip(images: np.ndarray, title: str) -> Grid:
        told = ", ".join(f"{time:g}" for time in times[chosen])
        return Grid(f"{title} (times {told})", np.moveaxis(images[chosen, :6], 0, 1))

    def frame(i: int) -> Panels:
        square = (side, side, *xs.shape[2:])
        return Panels((Grid("x", xs[i, : side**2].reshape(square)), Grid("x0 believed in", x0s[i].reshape(square))))

    film = Film("Out of the noise: x after each step, and the x0 believed in at it", tuple(map(frame, frames)), 12)
    return {
        "chain": strip(xs, "After the step: out of the noise"),
        "x0_predictions": strip(x0s, "The x0 believed in at each step"),
        "denoising": film,
    }


def loss_curves(steps: np.ndarray, terms: Terms, num_steps: int) -> dict[str, Picture]:
    """Where along the process the loss is, and where the bits are.

    Args:
      steps: [S] at which the terms were taken.
      terms: `simple` and `vlb` (bits/dim), [B, S] each, of test examples; `best`, where the least L_simple is known.
      num_steps: T.

    Returns:
      `loss_by_step` and `bits_by_step`.
    """
    means = {name: np.asarray(terms[name]).mean(axis=0) for name in ("simple", "vlb", "best") if name in terms}
    lines = {"L_simple": (steps, means["simple"])}
    if "best" in means:
        lines["the least possible"] = steps, means["best"]
    # Of a density L_0 may be below 0, and in float32 so may what is very small.
    shown = means["vlb"] > 0
    first = "the first is L_0" if shown[0] else "without L_0"
    return {
        "loss_by_step": Curves(f"L_simple of test examples by the step t of {num_steps}", lines, ("t", "L_simple")),
        "bits_by_step": Curves(
            f"Terms of the bound by the step t of {num_steps}; {first}",
            {"bits/dim": (steps[shown], means["vlb"][shown])},
            ("t", "bits/dim"),
            log_y=True,
        ),
    }


def curve_steps(num_steps: int) -> np.ndarray:
    """The steps that `loss_curves` are drawn at: all of the first few, then ever farther apart.

    Args:
      num_steps: T.

    Returns:
      [S] int, rising from 0 to T − 1, 64 at most.
    """
    spread = np.concatenate([np.geomspace(1, num_steps, 32), np.linspace(1, num_steps, 32)]) - 1
    return np.unique(spread.round().astype(int))


def point_frame(
    points: np.ndarray, centres: np.ndarray, std: float, title: str, signal: float = 1.0, noise: float = 0.0
) -> Field:
    """Points over the density that they should have: that of a mixture of Gaussians after a step of the process.

    Args:
      points: [n, 2].
      centres: [K, 2] of the data's mixture.
      std: of each of its modes.
      title: what is seen.
      signal: √ᾱ of the step.
      noise: √(1 − ᾱ) of the step.

    Returns:
      The picture.
    """
    reach = max(1.35 * np.abs(centres).max() + 4 * std, 3.0)
    axis = np.linspace(-reach, reach, 150)
    plane = np.stack(np.meshgrid(axis, axis), axis=-1)
    # A mode narrower than the grid would vanish between its points.
    shown = max(math.hypot(signal * std, noise), 0.75 * (axis[1] - axis[0]))
    # In units of `shown`, which takes a constant away.
    log_density = np.asarray(_log_density(plane.reshape(-1, 2) / shown, signal * centres / shown))
    log_density = log_density.reshape(plane.shape[:2])
    # By its root, so that what is rare can be seen as well.
    values = np.exp(0.5 * (log_density - log_density.max()))
    return Field(title, values, (-reach, reach, -reach, reach), np.asarray(points), value_name="√ (q(x_t) / largest)")
