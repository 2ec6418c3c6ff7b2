"""The objective and whole views of a radiance field against one ray at a time."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax import rng
from gen_jax.data.analytic_scene import analytic_scene
from gen_jax.data.rays import ray_sources
from gen_jax.families.nerf import evaluation, losses, models, objectives, surface, views
from gen_jax.families.nerf.objectives import NeRF
from gen_jax.families.nerf.rendering import RaySampling
from gen_jax.ops.cameras import Camera, ndc_ray, ray
from gen_jax.ops.volume_rendering import over

FIELD = models.RadianceField(depth=2, width=16, skip=0, color_width=8, position_frequencies=3, direction_frequencies=1)
NERF = NeRF(FIELD, RaySampling(2.0, 6.0, 8, 8), "white")


@functools.cache
def sources():
    scene = analytic_scene(size=12, num_train=3, num_test=3)
    return ray_sources(scene, batch_size=16, evaluation_batch_size=2, seed=0, stride=3)


# By itself each operation of a ray would be compiled alone.
see = jax.jit(objectives.see, static_argnames="nerf")
objective = jax.jit(objectives.objective, static_argnames="nerf")


@functools.partial(jax.jit, static_argnames="nerf")
def init(nerf: NeRF):
    """Parameters with more density than the initial ones have."""
    params = objectives.init_params(rng.root(1), nerf=nerf)
    return jax.tree.map(lambda leaf: leaf + 0.1, params)


def camera_of(batch, i: int) -> Camera:
    return Camera(*(jnp.asarray(batch[name][i]) for name in ("focal", "center", "distortion")))


def test_the_loss_of_a_ray_is_that_of_both_fields():
    coarse, fine, color = np.random.default_rng(0).random((3, 3)).astype(np.float32)
    loss, terms = losses.photometric(jnp.asarray(coarse), jnp.asarray(fine), jnp.asarray(color))
    of_coarse, of_fine = (((seen - color) ** 2).sum() / 3 for seen in (coarse, fine))
    np.testing.assert_allclose(
        [loss, terms["coarse"], terms["fine"]], [of_coarse + of_fine, of_coarse, of_fine], rtol=1e-6
    )
    loss, terms = losses.photometric(jnp.asarray(coarse), None, jnp.asarray(color))
    np.testing.assert_allclose(loss, of_coarse, rtol=1e-6)
    assert terms.keys() == {"coarse"}


def test_the_loss_is_the_mean_of_each_rays():
    nerf = NERF._replace(background="random", sampling=NERF.sampling._replace(density_noise=0.5))
    params, key, batch = init(nerf), rng.stream(rng.root(0), "step"), sources()[0].batch(0)
    loss, (_, terms) = objective(params, {}, key, batch, nerf=nerf)
    coarse_errors, fine_errors = [], []

    @jax.jit
    def see_alone(index, camera, pose, pixel):
        one = rng.per_example(rng.stream(key, "ray"), index[None])[0]
        behind = objectives.background_color(one, nerf=nerf)
        return *objectives.see(params, one, camera, pose, pixel, behind, nerf=nerf), behind

    for i in range(len(batch["index"])):
        coarse, fine, behind = see_alone(batch["index"][i], camera_of(batch, i), batch["pose"][i], batch["pixel"][i])
        assert fine is not None
        truth = over(batch["color"][i] / 255.0, np.asarray(behind))
        coarse_errors.append(np.mean((coarse.color - truth) ** 2))
        fine_errors.append(np.mean((fine.color - truth) ** 2))
    np.testing.assert_allclose(terms["coarse"], np.mean(coarse_errors), rtol=1e-5)
    np.testing.assert_allclose(terms["fine"], np.mean(fine_errors), rtol=1e-5)
    np.testing.assert_allclose(loss, np.mean(coarse_errors) + np.mean(fine_errors), rtol=1e-5)


def test_both_fields_learn_and_no_gradient_goes_through_the_samples():
    params, batch = init(NERF), sources()[0].batch(0)
    loss = lambda params: objectives.objective(params, {}, rng.root(0), batch, nerf=NERF)[0]  # noqa: E731
    gradient = jax.jit(jax.grad(loss))(params)
    for level in ("coarse", "fine"):
        assert min(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradient[level])) > 0, level

    def fine_alone(coarse):
        return objectives.objective(params | {"coarse": coarse}, {}, rng.root(0), batch, nerf=NERF)[1][1]["fine"]

    through = jax.jit(jax.grad(fine_alone))(params["coarse"])
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(through)) == 0


def test_an_empty_field_shows_the_background():
    params = jax.tree.map(jnp.zeros_like, init(NERF))  # A density of 0.
    batch = sources()[0].batch(0)
    for background, shown in (("white", 1.0), ("black", 0.0)):
        nerf = NERF._replace(background=background)
        behind = objectives.background_color(None, nerf=nerf)
        seen, _ = see(params, None, camera_of(batch, 0), batch["pose"][0], batch["pixel"][0], behind, nerf=nerf)
        np.testing.assert_array_equal(seen.color, np.full(3, shown))
        transparent = objectives.target_color(jnp.array([9, 8, 7, 0], jnp.uint8), behind)
        np.testing.assert_array_equal(transparent, np.full(3, shown))


def test_a_pixel_with_alpha_lies_over_the_background():
    behind = np.array([0.1, 0.5, 0.9])
    for color, seen in (
        ([255, 51, 0, 102], [0.4 + 0.6 * 0.1, 0.4 * 0.2 + 0.6 * 0.5, 0.6 * 0.9]),
        ([255, 51, 0, 255], [1.0, 0.2, 0.0]),
        ([255, 51, 0], [1.0, 0.2, 0.0]),
        ([255, 51, 0, 0], behind),
    ):
        found = objectives.target_color(jnp.array(color, jnp.uint8), jnp.asarray(behind, jnp.float32))
        np.testing.assert_allclose(found, seen, atol=1e-6)


def test_random_backgrounds_differ_by_ray_and_are_white_in_evaluation():
    nerf = NERF._replace(background="random")
    keys = rng.per_example(rng.root(0), np.arange(50))
    colors = np.asarray(jax.jit(jax.vmap(lambda key: objectives.background_color(key, nerf=nerf)))(keys))
    assert colors.shape == (50, 3) and colors.std(axis=0).min() > 0.2
    np.testing.assert_array_equal(objectives.background_color(None, nerf=nerf), np.ones(3))


def test_the_values_of_views_are_those_of_their_pixels():
    params, (_, test) = init(NERF), sources()
    view_values = jax.jit(functools.partial(evaluation.view_values, nerf=NERF))
    for batch in test.evaluation():
        found = view_values(params, rng.root(0), batch)
        for i in range(2):
            errors = []
            for pixel, color in zip(batch["pixel"][i], batch["color"][i], strict=True):
                coarse, fine = see(params, None, camera_of(batch, i), batch["pose"][i], pixel, jnp.ones(3), nerf=NERF)
                assert fine is not None
                truth = over(color / 255.0, np.ones(3))
                errors.append([np.mean((level.color - truth) ** 2) for level in (coarse, fine)])
            coarse_error, fine_error = np.mean(errors, axis=0)
            np.testing.assert_allclose(found["mse"][i], fine_error, rtol=1e-4)
            np.testing.assert_allclose(found["psnr"][i], -10 * np.log10(fine_error), rtol=1e-4)
            np.testing.assert_allclose(found["psnr_coarse"][i], -10 * np.log10(coarse_error), rtol=1e-4)


def test_a_view_does_not_depend_on_how_many_rays_are_rendered_at_once(monkeypatch):
    params, batch = init(NERF), sources()[0].batch(0)

    def render():
        program = jax.jit(functools.partial(views.render_view, height=6, width=9, nerf=NERF))
        return program(params, camera_of(batch, 0), batch["pose"][0])

    whole = render()
    assert whole.color.shape == (6, 9, 3) and whole.depth.shape == (6, 9)
    monkeypatch.setattr(views, "_BUDGET", 1)
    assert views.rays_at_once(NERF) == 16
    parts = render()
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_memory_does_not_grow_with_the_view():
    """Four times the pixels need no more than their own numbers."""
    params, batch = init(NERF), sources()[0].batch(0)

    def temporary(size: int) -> int:
        render = jax.jit(functools.partial(views.render_view, height=size, width=size, nerf=NERF))
        program = render.lower(params, camera_of(batch, 0), batch["pose"][0]).compile()
        return program.memory_analysis().temp_size_in_bytes

    small, large = temporary(256), temporary(512)
    assert large - small < 3 * 256 * 256 * 4 * 16, "numbers of the pixels: 2 places, 8 values and copies of them"
    assert views.rays_at_once(NERF) < 256 * 256


def test_normalised_device_coordinates_are_asked_where_they_should_be():
    """With the size of the image the field sees NDC places, and depths come out in the world's units."""
    nerf = NERF._replace(size=(16, 12), sampling=RaySampling(0.0, 1.0, 8, 0))
    camera = Camera(jnp.array([14.0, 14.0]), jnp.array([8.0, 6.0]), jnp.zeros(4))
    pose, pixel = jnp.eye(3, 4), jnp.array([3.0, 4.0])
    params = init(nerf)
    assert params.keys() == {"coarse"}
    params["coarse"]["density"]["bias"] += 3.0
    seen = jax.jit(functools.partial(views.render_pixels, nerf=nerf))(params, camera, pose, pixel[None])
    assert 0.5 < seen.opacity[0] <= 1
    # The same by hand.
    origin, direction = jax.jit(ray)(camera, pose, pixel)
    start, along = jax.jit(ndc_ray)(origin, direction, camera.focal, jnp.array([16.0, 12.0]))
    depths = (np.arange(8, dtype=np.float32) + 0.5) / 8
    places = start[None] + depths[:, None] * along[None]
    _, density = jax.jit(FIELD.apply)({"params": params["coarse"]}, places, direction)
    thickness = np.maximum(density, 0) * np.append(np.full(7, 1 / 8), 1e10) * np.linalg.norm(along)
    weights = np.exp(-np.append(0, np.cumsum(thickness)[:-1])) * (1 - np.exp(-thickness))
    first = depths[np.argmax(np.cumsum(weights) >= 0.5 * weights.sum())]
    # z' = −1 + 2t' for a near plane at 1, and z = 2 / (z' − 1): the depth is 1 / (1 − t').
    np.testing.assert_allclose(seen.depth[0], 1.0 / (1.0 - first), rtol=1e-5)


def test_the_mesh_of_a_field_is_where_its_density_passes_the_level():
    params = init(NERF)
    one = params["fine"]
    ask = jax.jit(FIELD.apply)
    density = lambda points: ask({"params": one}, points, jnp.array([0.0, 0.0, 1.0]))[1]  # noqa: E731
    inside = np.asarray(density(jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (500, 3)))))
    level = float(np.median(inside[inside > 0]))
    mesh = surface.extract_mesh(params, -np.ones(3), np.ones(3), nerf=NERF, resolution=40, density=level)
    assert len(mesh.vertices) > 100 and mesh.colors is not None
    found = np.asarray(density(jnp.asarray(mesh.vertices)))
    assert np.abs(found - level).max() < 0.1 * inside.std()
    color, _ = ask({"params": one}, jnp.asarray(mesh.vertices), -jnp.asarray(mesh.normals))
    np.testing.assert_allclose(mesh.colors, jax.nn.sigmoid(color), atol=1e-5)


@pytest.mark.parametrize("fine", [0, 8])
def test_there_are_as_many_fields_as_levels(fine):
    nerf = NERF._replace(sampling=RaySampling(2.0, 6.0, 8, fine))
    params = jax.eval_shape(lambda: objectives.init_params(rng.root(0), nerf=nerf))
    assert params.keys() == ({"coarse", "fine"} if fine else {"coarse"})
