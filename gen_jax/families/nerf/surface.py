"""The surface of a radiance field: where its density passes a level."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.contracts import Array, Mesh, Params
from gen_jax.families.nerf.objectives import NeRF
from gen_jax.nn.precision import apply_in_param_dtype
from gen_jax.ops.surfaces import grid_points, marching_cubes

# Points that the field is asked at once.
_CHUNK = 2**14


def extract_mesh(
    nerf: NeRF, params: Params, low: np.ndarray, high: np.ndarray, *, resolution: int, density: float
) -> Mesh:
    """The surface of a field's fine network in a box, each vertex of the colour that is seen from straight above it.

    Args:
      nerf: the model; not in normalised device coordinates.
      params: of `objectives.init_params`.
      low: [3], the box's lowest corner, in the world.
      high: [3], its highest.
      resolution: points along its longest side.
      density: the level σ, a unit of length.

    Returns:
      The mesh, in the world's coordinates and units.
    """
    one = params.get("fine", params["coarse"])

    @jax.jit
    def ask(points: Array, directions: Array) -> tuple[Array, Array]:
        def field(pair: tuple[Array, Array]) -> tuple[Array, Array]:
            color, sigma = apply_in_param_dtype(nerf.field, one, *pair)
            return jax.nn.sigmoid(color), jax.nn.relu(sigma)

        return jax.lax.map(field, (points, directions), batch_size=_CHUNK)

    points = grid_points(low, high, resolution)
    flat = jnp.asarray(points.reshape(-1, 3), jnp.float32)
    up = jnp.broadcast_to(jnp.array([0.0, 0.0, 1.0]), flat.shape)
    mesh = marching_cubes(np.asarray(ask(flat, up)[1]).reshape(points.shape[:3]), points, density)
    if not len(mesh.vertices):
        return mesh
    colors, _ = ask(jnp.asarray(mesh.vertices), -jnp.asarray(mesh.normals))
    return dataclasses.replace(mesh, colors=np.asarray(colors))
