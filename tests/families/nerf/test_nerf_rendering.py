"""What one ray sees against a pipeline of its own in PyTorch, and against closed forms."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from experiments.benchmarks import torch_nerf
from gen_jax import rng
from gen_jax.families.nerf import models, objectives, torch_weights, views
from gen_jax.families.nerf.rendering import RaySampling, render_ray
from gen_jax.ops.cameras import Camera, ray
from gen_jax.ops.volume_rendering import stratified_depths

ORIGIN, DIRECTION = jnp.array([0.3, -0.2, 4.0]), jnp.array([0.1, 0.2, -1.3])
NORM = float(np.linalg.norm(DIRECTION))


def constant(density: float, color: float = 0.0):
    """A field that is the same everywhere."""
    return lambda position, view: (jnp.full_like(position, color), jnp.full(len(position), density))


def pair_of_fields():
    """Two networks in PyTorch, the field that they are of, and their parameters in ours."""
    torch.manual_seed(3)
    nets = [torch_nerf.NeRF(depth=3, width=32, skip=1) for _ in range(2)]
    for net in nets:
        torch.nn.init.normal_(net.alpha_linear.weight, std=0.2)  # Dense here and empty there, opaque nowhere at once.
    states = [{name: value.detach().numpy() for name, value in net.state_dict().items()} for net in nets]
    params = [torch_weights.field_params(state) for state in states]
    return tuple(nets), torch_weights.field_of(states[0]), dict(zip(("coarse", "fine"), params, strict=True))


def test_both_levels_are_those_of_the_pipeline_in_pytorch():
    """Random weights, many rays; the fine samples, their number and their place all count."""
    nets, field, params = pair_of_fields()
    coarse, fine = (functools.partial(models.ask_field, one, field=field) for one in params.values())
    random = np.random.default_rng(0)
    origin = random.normal([0, 0, 4], 0.3, (64, 3)).astype(np.float32)
    direction = random.normal([0, 0, -1], 0.2, (64, 3)).astype(np.float32)
    with torch.no_grad():
        expected = torch_nerf.render(nets, *map(torch.from_numpy, (origin, direction)), 16, 24, noise=False)
    see = functools.partial(render_ray, None, coarse=coarse, fine=fine, sampling=RaySampling(2.0, 6.0, 16, 24))
    found = jax.jit(jax.vmap(lambda o, d: see(o, d, background=jnp.ones(3))))(origin, direction)
    for level, truth in zip(found, expected, strict=True):
        assert level.color.shape == (64, 3) and truth.std() > 0.05
        np.testing.assert_allclose(level.color, truth.numpy(), atol=2e-4)
    assert found[1].weights.shape == (64, 40)


def test_a_view_is_that_of_the_pipeline_in_pytorch_from_rays_by_hand():
    """A camera turned and moved, its pixels not square and its axis off the middle, over white."""
    nets, field, params = pair_of_fields()
    nerf = objectives.NeRF(field, RaySampling(2.0, 6.0, 16, 24))
    turn = Rotation.from_euler("xyz", [0.1, -0.2, 0.3]).as_matrix()
    pose = np.concatenate([turn, [[0.3], [-0.2], [4.0]]], axis=1).astype(np.float32)
    camera = Camera(jnp.array([12.0, 10.0]), jnp.array([3.1, 2.4]), jnp.zeros(4))
    x, y = np.arange(7) + 0.5, np.arange(5) + 0.5
    direction = np.array([[turn @ [(i - 3.1) / 12, -(j - 2.4) / 10, -1] for i in x] for j in y], np.float32)
    with torch.no_grad():
        rays = torch.from_numpy(np.tile(pose[:, 3], (35, 1))), torch.from_numpy(direction.reshape(-1, 3))
        coarse, fine = (part.numpy().reshape(5, 7, 3) for part in torch_nerf.render(nets, *rays, 16, 24, noise=False))
    assert min(coarse.std(), fine.std(), np.abs(coarse - fine).max()) > 0.05

    pose = jnp.asarray(pose)
    view = jax.jit(lambda: views.render_view(params, camera, pose, 5, 7, nerf=nerf))()
    np.testing.assert_allclose(view.color, fine, atol=2e-4)
    np.testing.assert_allclose(view.coarse_color, coarse, atol=2e-4)
    some = jnp.array([[6.5, 0.5], [2.5, 4.5]])
    pixels = jax.jit(lambda: views.render_pixels(params, camera, pose, some, nerf=nerf))()
    see = jax.jit(lambda pixel: objectives.see(params, None, camera, pose, pixel, jnp.ones(3), nerf=nerf))
    np.testing.assert_allclose(pixels.color, [fine[0, 6], fine[4, 2]], atol=2e-4)
    for i, (row, column) in enumerate([(0, 6), (4, 2)]):
        first, second = see(some[i])
        assert second is not None
        np.testing.assert_allclose(first.color, coarse[row, column], atol=2e-4)
        np.testing.assert_allclose(second.color, fine[row, column], atol=2e-4)
        for seen in (view.depth[row, column], pixels.depth[i]):
            np.testing.assert_allclose(seen, second.median_depth, rtol=1e-4)
        np.testing.assert_allclose(view.opacity[row, column], second.opacity, atol=2e-4)


def test_the_noise_of_densities_has_its_size():
    """The mean thickness of an empty field whose densities are max(noise, 0): s / √(2π) a unit of length."""
    sampling = RaySampling(2.0, 6.0, 50, 0, density_noise=0.1, bounded=True)
    see = functools.partial(render_ray, coarse=constant(0.0), fine=None, sampling=sampling)
    keys = rng.per_example(rng.root(0), np.arange(400))
    opacity = np.asarray(jax.jit(jax.vmap(lambda key: see(key, ORIGIN, DIRECTION)[0].opacity))(keys), np.float64)
    # From the first sample, a half of a fiftieth in, to the end.
    expected = 0.1 / np.sqrt(2 * np.pi) * 4.0 * (1 - 0.5 / 50) * NORM
    thickness = -np.log(1 - opacity)
    assert abs(thickness.mean() - expected) < 4 * thickness.std() / np.sqrt(400) + 0.002
    assert jax.jit(lambda: see(None, ORIGIN, DIRECTION)[0].opacity)() == 0


def test_a_bounded_ray_ends_at_the_far_depth():
    sampling = RaySampling(2.0, 6.0, 10, 0, bounded=True)
    see = functools.partial(render_ray, None, ORIGIN, DIRECTION, coarse=constant(0.05), fine=None)
    ends, endless = (jax.jit(lambda b=b: see(sampling=sampling._replace(bounded=b)))()[0] for b in (True, False))
    np.testing.assert_allclose(ends.opacity, 1 - np.exp(-0.05 * (6.0 - 2.2) * NORM), rtol=1e-5)
    np.testing.assert_allclose(endless.opacity, 1, rtol=1e-6)


def test_fields_are_told_the_direction_of_view_of_length_one():
    """That of the ray, or the one that is given, whatever the ray's own is."""

    def field(position, view):
        return jnp.broadcast_to(view[None], position.shape), jnp.full(len(position), 1e3)

    sampling = RaySampling(2.0, 6.0, 4, 0)
    see = functools.partial(render_ray, None, ORIGIN, DIRECTION, coarse=field, fine=None, sampling=sampling)
    see = jax.jit(see)
    np.testing.assert_allclose(see()[0].color, jax.nn.sigmoid(DIRECTION / NORM), rtol=1e-5)
    other = jnp.array([3.0, 0.0, 4.0])
    np.testing.assert_allclose(see(view=other)[0].color, jax.nn.sigmoid(other / 5.0), rtol=1e-5)


def test_in_device_coordinates_fields_are_told_the_direction_in_the_world():
    seen = []

    class Recorder(models.RadianceField):
        def ask(self, place, view):
            seen.append((place, view))
            return jnp.zeros((*place.shape[:-1], 3)), jnp.ones(place.shape[:-1])

    field = Recorder(position_frequencies=0, direction_frequencies=0)
    nerf = objectives.NeRF(field, RaySampling(0.0, 1.0, 4, 0), size=(16, 12))
    camera = Camera(jnp.array([14.0, 14.0]), jnp.array([8.0, 6.0]), jnp.zeros(4))
    params = {"coarse": {"w": jnp.zeros(1)}}
    see = lambda: objectives.see(params, None, camera, jnp.eye(3, 4), jnp.array([1.0, 6.0]), jnp.ones(3), nerf=nerf)  # noqa: E731
    (place, view), = jax.jit(lambda: (see(), seen)[1])()  # fmt: skip
    np.testing.assert_allclose(view, np.array([-0.5, 0, -1]) / np.sqrt(1.25), atol=1e-6)
    # On the near plane, z' = −1, and a quarter of the way at each sample: z' = −1 + 2 t'.
    np.testing.assert_allclose(place[:, 2], -1 + 2 * (np.arange(4) + 0.5) / 4, atol=1e-6)
    np.testing.assert_allclose(place[:, 0], -7 / 8, atol=1e-6)  # The pixel's own column, from the middle.


def test_with_ends_each_sample_stays_between_its_neighbours_middles():
    keys = rng.per_example(rng.root(1), np.arange(300))
    depths = np.asarray(jax.jit(jax.vmap(lambda key: stratified_depths(key, 2.0, 6.0, 9, with_ends=True)))(keys))
    points = np.linspace(2, 6, 9)
    edges = np.concatenate([[2.0], 0.5 * (points[1:] + points[:-1]), [6.0]])
    assert np.all((depths >= edges[:-1] - 1e-6) & (depths <= edges[1:] + 1e-6))
    spread = (depths - edges[:-1]) / np.diff(edges)
    np.testing.assert_allclose(spread.mean(axis=0), 0.5, atol=4 * 0.29 / np.sqrt(300))
    assert np.all(spread.max(axis=0) > 0.95) and np.all(spread.min(axis=0) < 0.05)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_places_are_encoded_in_all_their_digits(dtype):
    """In bfloat16 parameters the field differs by rounding of its layers, not by the waves that it sees."""
    field = models.RadianceField(depth=2, width=16, skip=None, color_width=8, position_frequencies=10)
    random = np.random.default_rng(0)
    position = jnp.asarray(random.uniform(-1, 1, (200, 3)), jnp.float32)
    direction = jnp.asarray(random.normal(size=(200, 3)), jnp.float32)
    params = jax.jit(field.init)(rng.root(0), position, direction)["params"]
    exact = jax.jit(field.apply)({"params": params}, position, direction)
    rounded = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
    found = jax.jit(functools.partial(models.ask_field, field=field))(rounded, position, direction)
    for one, other in zip(found, exact, strict=True):
        assert one.dtype == jnp.float32
        tolerance = 1e-6 if dtype == jnp.float32 else 0.03
        np.testing.assert_allclose(one, other, atol=tolerance * float(np.abs(other).max() + 1))


def test_geometry_and_quadrature_are_multiplied_in_all_digits():
    """Accelerators multiply in fewer by default: 0.3 to 2 pixels off."""
    see = functools.partial(render_ray, None, coarse=constant(0.1), fine=None, sampling=RaySampling(2.0, 6.0, 8, 0))

    def look(camera, pose, pixel):
        return see(*ray(camera, pose, pixel))[0].color

    camera = Camera(jnp.ones(2), jnp.ones(2), jnp.zeros(4))
    text = jax.jit(jax.vmap(look, in_axes=(None, None, 0))).lower(camera, jnp.eye(3, 4), jnp.ones((5, 2))).as_text()
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert products and all("HIGHEST" in line for line in products), products
