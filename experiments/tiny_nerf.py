"""The whole of NeRF on one page: encode, ask, composite; one field, no direction of view (Mildenhall et al., 2020).

Command: python -m experiments.tiny_nerf --workdir=runs/tiny_nerf
Expected: 29.5 dB and an SSIM of 0.952 on whole held-out views of the scene of our own
Time: 4 min of training on two CPU cores

Presets (--preset=...):
  default  a scene of our own, traced exactly
  lego     a folder or .npz file of NeRF's lego as --data_dir
  tiny     seconds; for tests
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from experiments import _scene_views, _scenes
from gen_jax import cli, rng
from gen_jax import config as config_lib
from gen_jax.contracts import Array, Batch, Experiment, Key, ModelState, Params, Source, Terms, UserError, Values
from gen_jax.families.nerf.evaluation import report
from gen_jax.families.nerf.objectives import target_color
from gen_jax.families.nerf.views import View
from gen_jax.nn.precision import apply_in_param_dtype
from gen_jax.ops.cameras import Camera, pixel_centers, ray
from gen_jax.ops.encodings import positional_encoding
from gen_jax.ops.image_quality import psnr
from gen_jax.ops.volume_rendering import Rendered, composite, stratified_depths
from gen_jax.train.optimizer import step_options
from gen_jax.train.state import TrainState, init_state
from gen_jax.train.step import make_eval_step, make_train_step

_CHUNK = 1024  # Rays rendered at once.

# From parameters, a key (None for no noise), a camera, its pose [3, 4] and a pixel [2] to what it sees.
See = Callable[[Params, Key | None, Camera, Array, Array], Rendered]


def get_config(preset: str = "default") -> ConfigDict:
    """The config of a preset.

    Args:
      preset: one that the module's docstring names.

    Returns:
      The config, unlocked.

    Raises:
      UserError: where there is no such preset.
    """
    config = _scenes.base_config("tiny_nerf", preset)
    config.model.hidden = (128, 128, 128)
    config.model.position_frequencies = 6

    config.rendering = ConfigDict()
    config.rendering.num_coarse = 48

    config.optim.learning_rate = 2e-3
    return config_lib.apply_preset(config, _PRESETS)


def _tiny(config: ConfigDict) -> None:
    _scenes.tiny_run(config)
    config.model.hidden = (16, 16)
    config.model.position_frequencies = 3
    config.rendering.num_coarse = 8


_PRESETS = {"default": lambda config: None, "lego": _scenes.small_run_on_files, "tiny": _tiny}


def validate(config: ConfigDict) -> None:
    """Checks a config's values.

    Args:
      config: the resolved config.

    Raises:
      UserError: for the first value out of range, and for keys that do not go together.
    """
    rules = {
        "model.hidden": config_lib.each(config_lib.at_least(1)),
        "model.position_frequencies": config_lib.at_least(0),
        "rendering.num_coarse": config_lib.at_least(2),
    }
    _scenes.check(config, rules)
    if config.data.ndc or config.data.background == "random":
        raise UserError(
            "tiny_nerf knows neither normalised device coordinates nor random backgrounds; leave config.data.ndc and "
            "config.data.background as they are, or use experiments.nerf."
        )


class Field(nn.Module):
    """F: a multilayer perceptron from an encoded place γ(x) [3 + 6 L] to its colour and density."""

    hidden: tuple[int, ...]

    @nn.compact
    def __call__(self, h: Array) -> tuple[Array, Array]:
        """The colour [3] and the density [] of a place."""
        for width in self.hidden:
            h = nn.relu(nn.Dense(width)(h))
        out = nn.Dense(4)(h)
        return nn.sigmoid(out[:3]), nn.relu(out[3])


def render_ray(
    field: Any,
    key: Key | None,
    origin: Array,
    direction: Array,
    *,
    near: float,
    far: float,
    num_samples: int,
    num_frequencies: int,
    behind: Array,
) -> Rendered:
    """What a ray r(t) = o + t d sees: Ĉ(r) = Σ T_i (1 − exp(−σ_i δ_i)) c_i (Eq. 3), and behind it the background.

    Args:
      field: `γ(x) [3 + 6 L] -> colour [3], density []`.
      key: of this ray's noise; None for none.
      origin: o [3].
      direction: d [3].
      near: the depth t_n, in units of d, before which nothing is looked for.
      far: t_f, the depth behind which nothing is.
      num_samples: N, of the ray.
      num_frequencies: L.
      behind: [3] the colour behind everything.

    Returns:
      What is seen.
    """
    depths = stratified_depths(key, near, far, num_samples)  # Eq. 2
    places = jax.vmap(lambda t: positional_encoding(origin + t * direction, num_frequencies))(depths)  # Eq. 4
    colors, densities = jax.vmap(field)(places)
    return composite(colors, densities, depths, norm=jnp.linalg.norm(direction), background=behind)


def objective(
    params: Params, model_state: ModelState, key: Key, batch: Batch, *, see: See, behind: Array
) -> tuple[Array, tuple[ModelState, Terms]]:
    """The mean squared error of a batch of rays (Eq. 6, of one field).

    Args:
      params: of the field.
      model_state: {}.
      key: of this step.
      batch: of rays, as `contracts.Batch` lists them.
      see: what a pixel sees.
      behind: [3] the colour behind everything.

    Returns:
      The loss [], and ({}, {}).
    """

    def loss(key: Key, camera: Camera, pose: Array, pixel: Array, color: Array) -> Array:
        return jnp.mean((see(params, key, camera, pose, pixel).color - target_color(color, behind)) ** 2)

    keys = rng.per_example(rng.stream(key, "ray"), batch["index"])
    cameras = Camera(batch["focal"], batch["center"], batch["distortion"])
    losses = jax.vmap(loss)(keys, cameras, batch["pose"], batch["pixel"], batch["color"])
    return jnp.mean(losses), (model_state, {})


def render_pixels(params: Params, camera: Camera, pose: Array, pixels: Array, *, see: See) -> View:
    """What some pixels of a camera see, without noise, a chunk of them at a time.

    Args:
      params: of the field.
      camera: the intrinsics.
      pose: [3, 4] camera to world, OpenGL's axes.
      pixels: [R, 2].
      see: what a pixel sees.

    Returns:
      The view, [R, ...].
    """

    def one(pixel: Array) -> View:
        seen = see(params, None, camera, pose, pixel)
        return View(jnp.clip(seen.color, 0.0, 1.0), seen.median_depth, seen.opacity, seen.color)

    return jax.lax.map(one, pixels, batch_size=_CHUNK)


def view_values(params: Params, key: Key, batch: Batch, *, see: See, behind: Array) -> Values:
    """How well held-out views are rendered.

    Args:
      params: of the field.
      key: the root key; unused.
      batch: of views, as `contracts.Batch` lists them.
      see: what a pixel sees.
      behind: [3] the colour behind everything.

    Returns:
      `mse` and `psnr` of each view, [B].
    """

    def view(row: tuple[Camera, Array, Array, Array]) -> Array:
        camera, pose, pixels, colors = row
        truth = jax.vmap(lambda color: target_color(color, behind))(colors)
        return jnp.mean((render_pixels(params, camera, pose, pixels, see=see).color - truth) ** 2)

    cameras = Camera(batch["focal"], batch["center"], batch["distortion"])
    errors = jax.lax.map(view, (cameras, batch["pose"], batch["pixel"], batch["color"]))
    return {"mse": errors, "psnr": psnr(errors)}


def build(config: ConfigDict, sources: tuple[Source, Source] | None = None) -> Experiment:
    """Wires the experiment: source -> model -> objective -> step -> evaluation -> pictures.

    Args:
      config: the resolved config.
      sources: the training and test sources; None to find them by `config.data`.

    Returns:
      The experiment.

    Raises:
      UserError: where the config or the data cannot be used.
    """
    validate(config)
    train_source, test_source = _scenes.sources_of(config, sources)
    notes, (height, width) = train_source.notes, train_source.example_shape[:2]
    model, num_frequencies = Field(tuple(config.model.hidden)), config.model.position_frequencies
    options = step_options(config, train_source.num_examples)

    behind = jnp.zeros(3) if config.data.background == "black" else jnp.ones(3)
    sampling = {"near": notes["near"], "far": notes["far"], "num_samples": config.rendering.num_coarse}
    sampling |= {"num_frequencies": num_frequencies, "behind": behind}

    def see(params: Params, key: Key | None, camera: Camera, pose: Array, pixel: Array) -> Rendered:
        field = functools.partial(apply_in_param_dtype, model, params)
        return render_ray(field, key, *ray(camera, pose, pixel), **sampling)

    def whole(params: Params, camera: Camera, pose: Array) -> View:
        pixels = jnp.asarray(pixel_centers(height, width).reshape(-1, 2))
        seen = render_pixels(params, camera, pose, pixels, see=see)
        return jax.tree.map(lambda part: part.reshape(height, width, *part.shape[1:]), seen)

    def init(key: Key) -> TrainState:
        params = model.init(rng.stream(key, "init"), jnp.zeros(3 + 6 * num_frequencies))["params"]
        return init_state(params, options["tx"], key, ema=options["ema"] is not None)

    shown: dict[str, Any] = {"render": jax.jit(whole), "config": config}
    return Experiment(
        train_source=train_source,
        test_source=test_source,
        init=init,
        train_step=make_train_step(
            functools.partial(objective, see=see, behind=behind), accumulate=config.train.accumulate, **options
        ),
        eval_step=make_eval_step(functools.partial(view_values, see=see, behind=behind)),
        report=report,
        steps_per_call=config.train.steps_per_call,
        **_scene_views.looks(train_source, test_source, **shown),
    )


if __name__ == "__main__":
    cli.main("tiny_nerf")
