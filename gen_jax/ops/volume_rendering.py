"""Volume rendering of one ray: where to look, and what is seen there. Without parameters; mapped over rays by `vmap`.

Distances along a ray r(t) = o + t d are in units of t. Densities are a unit of length: where d is not of length 1, the
optical thickness of an interval is σ δ ‖d‖, and `composite` is told ‖d‖.

Symbols:
  t_i      [N] where the ray is looked at, increasing, from t_n (near) to t_f (far)
  σ_i      [N] density there, ≥ 0
  c_i      [N, C] colour there
  δ_i      [N] lengths of the intervals between samples, t_{i+1} − t_i
  α_i      [N] opacity of an interval, 1 − exp(−σ_i δ_i)
  T_i      [N] transmittance up to sample i, exp(−Σ_{j<i} σ_j δ_j)
  w_i      [N] weights, T_i α_i

See "NeRF: Representing Scenes as Neural Radiance Fields for View Synthesis", Mildenhall et al., 2020
(arXiv:2003.08934), Sections 4 and 5.2.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.contracts import Array, Key
from gen_jax.ops.cameras import exact_product

# What stands for the infinite length of the last interval; σ = 0 there must give σ δ = 0, which ∞ does not.
FAR_AWAY = 1e10


class Rendered(NamedTuple):
    """What one ray sees.

    Attributes:
      color: [C], over the background if there is one.
      opacity: [], Σ w_i, in [0, 1]: what is not background.
      depth: [], Σ w_i t_i / Σ w_i, the expected distance of what is seen, in units of t; the last t_i where nothing is.
      median_depth: [], the first t_i by which half of what is seen is seen; the last t_i where nothing is.
      weights: [N].
    """

    color: Array
    opacity: Array
    depth: Array
    median_depth: Array
    weights: Array


def stratified_depths(
    key: Key | None,
    near: Array | float,
    far: Array | float,
    num: int,
    *,
    spacing: str = "depth",
    with_ends: bool = False,
) -> Array:
    """One sample in each of N equal parts of a ray: t_i ~ U[t_n + (i − 1)/N (t_f − t_n), t_n + i/N (t_f − t_n)].

    See "NeRF", Mildenhall et al., 2020 (arXiv:2003.08934), Eq. 2.

    Args:
      key: of this ray's noise; None for the middle of each part.
      near: t_n.
      far: t_f > t_n.
      num: N, at least 2 with ends.
      spacing: "depth" for parts equal in t, "disparity" for parts equal in 1/t, which needs t_n > 0.
      with_ends: as in the paper's code: N points from t_n to t_f, both among them, or anywhere between half way to the
        point before and half way to the point after.

    Returns:
      [N], increasing, in [near, far].

    Raises:
      ValueError: where the spacing is not known.
    """
    offset = jnp.full(num, 0.5) if key is None else jax.random.uniform(key, (num,))
    if with_ends:
        points = jnp.linspace(0.0, 1.0, num)
        middles = 0.5 * (points[1:] + points[:-1])
        low, high = jnp.concatenate([points[:1], middles]), jnp.concatenate([middles, points[-1:]])
        part = points if key is None else low + offset * (high - low)
    else:
        part = (jnp.arange(num) + offset) / num
    if spacing == "depth":
        return near + part * (far - near)
    if spacing == "disparity":
        return 1.0 / ((1.0 - part) / near + part / far)
    raise ValueError(f"spacing={spacing!r} is not known; expected 'depth' or 'disparity'.")


def inverse_cdf(edges: Array, weights: Array, u: Array) -> Array:
    """Maps uniform numbers to the piecewise constant density that is proportional to weights: F⁻¹(u).

    Nothing is added to the weights, so no sample lies where the weight is 0.

    See "NeRF", Mildenhall et al., 2020 (arXiv:2003.08934), Section 5.2.

    Args:
      edges: [M + 1], increasing.
      weights: [M], ≥ 0; all zero stands for all equal.
      u: [...] in [0, 1].

    Returns:
      [...] in [edges[0], edges[M]], in the order of u.
    """
    weights = jnp.where(jnp.any(weights > 0), weights, jnp.ones_like(weights))
    cdf = jnp.concatenate([jnp.zeros_like(weights[:1]), jnp.cumsum(weights)])
    cdf = cdf / cdf[-1]
    # Below 1, so that the part found is one of positive weight: cdf[part] ≤ u < cdf[part + 1].
    u = jnp.clip(u, 0.0, 1.0 - jnp.finfo(cdf.dtype).epsneg)
    part = jnp.clip(jnp.searchsorted(cdf, u, side="right") - 1, 0, len(weights) - 1)
    fraction = (u - cdf[part]) / (cdf[part + 1] - cdf[part])
    return edges[part] + fraction * (edges[part + 1] - edges[part])


def importance_depths(
    key: Key | None, depths: Array, weights: Array, num: int, *, padding: float = 0.0, with_ends: bool = False
) -> Array:
    """New samples of a ray where the coarse samples' weights are large, by inverse transform sampling.

    As in the paper's code, the weight of a sample is spread from half way to the sample before to half way to the
    sample after; the first and the last sample have no such part, and are left out.

    See "NeRF", Mildenhall et al., 2020 (arXiv:2003.08934), Section 5.2.

    Args:
      key: of this ray's noise; None for the middles of as many equal parts of the distribution.
      depths: [N] the coarse t_i, N ≥ 3.
      weights: [N] w_i of the coarse samples; no gradient flows to them.
      num: how many.
      padding: what is added to every weight; 1e-5 in the paper's code.
      with_ends: as in the paper's code: quantiles from 0 to 1, both among them, or independent ones with a key.

    Returns:
      [num], increasing, in [depths[0], depths[N − 1]].
    """
    if with_ends:
        u = jnp.linspace(0.0, 1.0, num) if key is None else jnp.sort(jax.random.uniform(key, (num,)))
    else:
        offset = jnp.full(num, 0.5) if key is None else jax.random.uniform(key, (num,))
        u = (jnp.arange(num) + offset) / num
    edges = 0.5 * (depths[1:] + depths[:-1])
    return jax.lax.stop_gradient(inverse_cdf(edges, weights[1:-1] + padding, u))


def intervals(depths: Array, *, far: Array | float | None = None) -> Array:
    """The lengths of the intervals between samples: δ_i = t_{i+1} − t_i.

    See "NeRF", Mildenhall et al., 2020 (arXiv:2003.08934), Section 4, after Eq. 3.

    Args:
      depths: [N] t_i, increasing.
      far: where the last interval ends. None for infinitely far away, as in the paper's code: then any density at the
        last sample is opaque.

    Returns:
      [N].
    """
    last = jnp.full_like(depths[:1], FAR_AWAY) if far is None else far - depths[-1:]
    return jnp.concatenate([depths[1:] - depths[:-1], last])


def render_weights(density: Array, delta: Array) -> Array:
    """How much each sample adds to what a ray sees: w_i = T_i (1 − exp(−σ_i δ_i)), T_i = exp(−Σ_{j<i} σ_j δ_j).

    See "NeRF", Mildenhall et al., 2020 (arXiv:2003.08934), Eq. 3 and 5.

    Args:
      density: [N] σ_i ≥ 0, a unit of the length that delta is in.
      delta: [N] δ_i ≥ 0.

    Returns:
      [N] in [0, 1]; their sum is 1 − T_{N+1}.
    """
    thickness = density * delta
    before = jnp.concatenate([jnp.zeros_like(thickness[:1]), jnp.cumsum(thickness[:-1])])
    return jnp.exp(-before) * -jnp.expm1(-thickness)


def composite(
    color: Array,
    density: Array,
    depths: Array,
    *,
    norm: Array | float = 1.0,
    far: Array | float | None = None,
    background: Array | None = None,
) -> Rendered:
    """What a ray sees of the samples on it: Ĉ(r) = Σ w_i c_i, and (1 − Σ w_i) of the background.

    See "NeRF", Mildenhall et al., 2020 (arXiv:2003.08934), Eq. 3 and 5.

    Args:
      color: [N, C] c_i.
      density: [N] σ_i ≥ 0, a unit of length.
      depths: [N] t_i, increasing.
      norm: ‖d‖, the length of a unit of t.
      far: where the last interval ends, in units of t; None for infinitely far away.
      background: [C]; None for none, which is black.

    Returns:
      What is seen.
    """
    weights = render_weights(density, intervals(depths, far=far) * norm)
    seen = exact_product(weights, color)
    opacity = jnp.sum(weights)
    if background is not None:
        seen = seen + (1.0 - opacity) * background
    empty = opacity <= 0
    # What stands in for an opacity of 0 keeps the gradient finite as well.
    expected = jnp.clip(exact_product(weights, depths) / jnp.where(empty, 1.0, opacity), depths[0], depths[-1])
    depth = jnp.where(empty, depths[-1], expected)
    passed = jnp.cumsum(weights) >= 0.5 * opacity
    median = jnp.where(empty, depths[-1], depths[jnp.argmax(passed)])
    return Rendered(seen, opacity, depth, median, weights)


def over(image: np.ndarray, background: np.ndarray, *, premultiplied: bool = False) -> np.ndarray:
    """An image with transparency laid over a background.

    Straight alpha: α c + (1 − α) b. Premultiplied alpha, where the colours are multiplied by α already: c + (1 − α) b.

    See "Compositing Digital Images", Porter and Duff, 1984 (Computer Graphics 18), pages 253 to 259.

    Args:
      image: [..., 4] red, green, blue and α in [0, 1].
      background: [3] or [..., 3], in [0, 1].
      premultiplied: whether the colours are multiplied by α already.

    Returns:
      [..., 3] in [0, 1].
    """
    color, alpha = image[..., :3], image[..., 3:]
    return (color if premultiplied else alpha * color) + (1.0 - alpha) * background
