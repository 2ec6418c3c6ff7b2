"""Public fields and what their own code made of them: raw outputs, and renders of Blender scenes.

The fields are those of github.com/krrish94/nerf-pytorch (MIT): four layers of 128, no skip, no ReLU after the
first layer and one after the feature vector.
"""

from __future__ import annotations

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax.families.nerf.models import RadianceField
from gen_jax.families.nerf.rendering import Sampling, render_ray
from gen_jax.ops import cameras

STORED = pathlib.Path(__file__).parents[4] / "shared" / "data" / "weights"
NAMES = {"density": "fc_alpha", "feature": "fc_feat", "view": "layers_dir.0", "color": "fc_rgb", "place0": "layer1"}
NAMES |= {f"place{i}": f"layers_xyz.{i - 1}" for i in (1, 2, 3)}
pytestmark = pytest.mark.skipif(not STORED.is_dir(), reason="needs the stored fields beside the checkout")


def stored(scene):
    with np.load(STORED / f"nerf_krrish94_{scene}.npz") as file:
        return dict(file)


def field_of(file, level, position_frequencies=10):
    net = RadianceField(
        depth=4,
        width=128,
        skip=None,
        color_width=64,
        position_frequencies=position_frequencies,
        first_relu=False,
        feature_relu=True,
    )
    params = {
        ours: {
            "kernel": jnp.asarray(file[f"{level}/{name}.weight"].T),
            "bias": jnp.asarray(file[f"{level}/{name}.bias"]),
        }
        for ours, name in NAMES.items()
    }
    return lambda position, direction: net.apply({"params": params}, position, direction)


@pytest.mark.parametrize("scene", ["lego", "chair", "drums", "hotdog", "materials", "ship", "fern"])
@pytest.mark.parametrize("level", ["coarse", "fine"])
def test_raw_outputs(scene, level):
    file = stored(scene)
    frequencies = (file[f"{level}/layer1.weight"].shape[1] - 3) // 6
    color, density = field_of(file, level, frequencies)(jnp.asarray(file["io/points"]), jnp.asarray(file["io/dirs"]))
    expected = file[f"io/{level}_raw"]
    # They go up to thousands, of which float32 has seven digits: relative to a column's largest; then what is seen.
    scale = np.abs(expected).max(axis=0)
    np.testing.assert_allclose(np.concatenate([color, density[:, None]], 1) / scale, expected / scale, atol=5e-6)
    np.testing.assert_allclose(jax.nn.sigmoid(color), jax.nn.sigmoid(expected[:, :3]), rtol=0, atol=1e-4)


@pytest.mark.parametrize("scene", ["lego", "ship"])
def test_renders(scene):
    file = stored(scene)
    coarse, fine = field_of(file, "coarse"), field_of(file, "fine")
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
