"""The surface of a radiance field: where its density passes a level."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.contracts import Array, Mesh, Params
from gen_jax.families.nerf.models import ask_field
from gen_jax.families.nerf.objectives import NeRF
from gen_jax.ops.surfaces import grid_points, marching_cubes

# Points that the field is asked at once.
_CHUNK = 2**14


def extract_mesh(
    params: Params, low: np.ndarray, high: np.ndarray, *, nerf: NeRF, resolution: int, density: float
) -> Mesh:
    """The surface of a field's fine network in a box, each vertex of the colour that is seen from straight above it.

    Args:
      params: of `objectives.init_params`.
      low: [3], the box's lowest corner, in the world.
      high: [3], its highest.
      nerf: the model; not in normalised device coordinates.
      resolution: points along its longest side.
      density: the level σ, a unit of length.

    Returns:
      The mesh, in the world's coordinates and units.
    """
    one = params.get("fine", params["coarse"])

    def field(pair: tuple[Array, Array]) -> tuple[Array, Array]:
        color, sigma = ask_field(one, *pair, field=nerf.field)
        return jax.nn.sigmoid(color), jax.nn.relu(sigma)

    @jax.jit
    def densities(points: Array) -> Array:
        up = jnp.array([0.0, 0.0, 1.0])  # What a place weighs does not depend on from where it is seen.
        return jax.lax.map(lambda point: field((point, up))[1], points, batch_size=_CHUNK)

    @jax.jit
    def colors(points: Array, directions: Array) -> Array:
        return jax.lax.map(lambda pair: field(pair)[0], (points, directions), batch_size=_CHUNK)

    points = grid_points(low, high, resolution)
    # Slice by slice: all that is held of the grid is its densities and places.
    found = [np.asarray(densities(jnp.asarray(part.reshape(-1, 3), jnp.float32))) for part in points]
    mesh = marching_cubes(np.stack(found).reshape(points.shape[:3]), points, density)
    if not len(mesh.vertices):
        return mesh
    seen = colors(jnp.asarray(mesh.vertices), -jnp.asarray(mesh.normals))
    return dataclasses.replace(mesh, colors=np.asarray(seen))
