"""Public fields and what their own code made of them: raw outputs, and renders of Blender scenes.

The fields are those of github.com/krrish94/nerf-pytorch (MIT): four layers of 128, no skip, no ReLU after the
first layer and one after the feature vector.
"""

from __future__ import annotations

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax.data import load_scene
from gen_jax.eval.image_quality import psnr
from gen_jax.families.nerf import objectives, torch_weights, views
from gen_jax.families.nerf.models import ask_field
from gen_jax.families.nerf.rendering import Sampling, render_ray
from gen_jax.ops import cameras
from gen_jax.ops.volume_rendering import over

STORED = pathlib.Path(__file__).parents[4] / "shared" / "data" / "weights"
pytestmark = pytest.mark.skipif(not STORED.is_dir(), reason="needs the stored fields beside the checkout")


def stored(scene):
    with np.load(STORED / f"nerf_krrish94_{scene}.npz") as file:
        return dict(file)


def state_of(file, level):
    """A state dict of one network."""
    return {name.removeprefix(f"{level}/"): array for name, array in file.items() if name.startswith(f"{level}/")}


def field_of(file, level):
    state = state_of(file, level)
    return torch_weights.field_of(state), torch_weights.field_params(state)


def ask(file, level):
    return functools.partial(ask_field, *field_of(file, level))


@pytest.mark.parametrize("scene", ["lego", "chair", "drums", "hotdog", "materials", "ship", "fern"])
@pytest.mark.parametrize("level", ["coarse", "fine"])
def test_raw_outputs(scene, level):
    file = stored(scene)
    color, density = ask(file, level)(jnp.asarray(file["io/points"]), jnp.asarray(file["io/dirs"]))
    expected = file[f"io/{level}_raw"]
    # They go up to thousands, of which float32 has seven digits: relative to a column's largest; then what is seen.
    scale = np.abs(expected).max(axis=0)
    np.testing.assert_allclose(np.concatenate([color, density[:, None]], 1) / scale, expected / scale, atol=5e-6)
    np.testing.assert_allclose(jax.nn.sigmoid(color), jax.nn.sigmoid(expected[:, :3]), rtol=0, atol=1e-4)


@pytest.mark.parametrize("scene", ["lego", "ship"])
def test_renders(scene):
    file = stored(scene)
    coarse, fine = ask(file, "coarse"), ask(file, "fine")
    # Their pixel (i, j) is at (i, j).
    camera = cameras.pinhole(float(file["io/focal"]), 64, 64)
    pixels = jnp.asarray(cameras.pixel_centers(64, 64).reshape(-1, 2) - 0.5)

    @jax.jit
    def render(pose):
        def one(pixel):
            origin, direction = cameras.ray(camera, pose, pixel)
            sampling = Sampling(near=2.0, far=6.0, num_coarse=64, num_fine=64, convention="code")
            seen = render_ray(
                None, origin, direction, coarse=coarse, fine=fine, sampling=sampling, background=jnp.ones(3)
            )
            return [level.color for level in seen]

        return jax.lax.map(one, pixels, batch_size=512)

    for found, level in zip(render(jnp.asarray(file["io/c2w"][0])), ("coarse", "fine"), strict=True):
        expected = file[f"io/rgb_{level}"][0].reshape(-1, 3)
        assert expected.std() > 0.1
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)


SCENE = pathlib.Path(__file__).parents[4] / "shared" / "data" / "nerf_lego_100" / "lego_100.npz"


@pytest.mark.slow
@pytest.mark.skipif(not SCENE.is_file(), reason="needs the photographs beside the checkout")
def test_the_stored_field_shows_the_real_lego():
    """Three held-out photographs at 100x100, as near as its README says: 22.8, 25.0 and 21.7 dB."""
    scene, file = load_scene(SCENE), stored("lego")
    nerf = objectives.NeRF(field_of(file, "coarse")[0], Sampling(2.0, 6.0, 64, 64, convention="code"))
    params = {level: field_of(file, level)[1] for level in ("coarse", "fine")}
    render = jax.jit(functools.partial(views.render_view, nerf, height=100, width=100))
    found = []
    test = scene.test
    for image, pose, *lens in zip(test.images, test.poses, test.focal, test.center, test.distortion, strict=True):
        seen = render(params, cameras.Camera(*map(jnp.asarray, lens)), jnp.asarray(pose))
        found.append(psnr(np.asarray(seen.color), over(image / 255.0, np.ones(3))))
    assert min(found) > 20 and max(found) > 24.5, found
