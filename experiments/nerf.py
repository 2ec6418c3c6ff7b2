r"""NeRF: a scene from posed photographs (Mildenhall et al., 2020).

Command: python -m experiments.nerf --workdir=runs/nerf
Expected: not measured yet, 0 dB
Time: not measured yet

Presets (--preset=...):
  default  a scene of our own, traced exactly; a small network
  lego     the lego of NeRF's synthetic scenes at any size, in --data_dir; a small network
  fern     LLFF's fern, in --data_dir, in normalised device coordinates; a small network
  fox      instant-ngp's fox, in --data_dir; a small network
  blender  the paper's networks and recipe for synthetic scenes, in --data_dir
  llff     the paper's networks and recipe for forward-facing scenes, in --data_dir
  tiny     seconds; for tests

--data_dir is the folder of a scene: Blender's transforms_train.json, LLFF's poses_bounds.npy, the transforms.json of
instant-ngp and nerfstudio, COLMAP's sparse/0, or an .npz file. Views of a trained field, and its surface:
  --mode=render --path=orbit --frames=120     colours and depths as a video, images and arrays
  --mode=mesh --config.mesh.resolution=192    a coloured mesh in the units of the scene, as PLY and OBJ
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from gen_jax import cli, rng
from gen_jax import config as config_lib
from gen_jax.contracts import Array, Experiment, Grid, Key, Picture, Source, UserError
from gen_jax.data.analytic_scene import analytic_scene
from gen_jax.data.rays import RayBatches, ray_sources
from gen_jax.data.scene_formats import load_scene
from gen_jax.data.scenes import Scene
from gen_jax.eval.image_quality import psnr, ssim
from gen_jax.families.nerf import evaluation, models, objectives, pictures, views
from gen_jax.families.nerf.objectives import NeRF
from gen_jax.families.nerf.rendering import Sampling
from gen_jax.ops.camera_paths import Outlook, orbit_outlook, path_poses, pose_at, spiral_outlook
from gen_jax.ops.cameras import Camera
from gen_jax.ops.encodings import CONVENTIONS
from gen_jax.ops.volume_rendering import over
from gen_jax.train import parallel
from gen_jax.train.optimizer import step_options
from gen_jax.train.state import TrainState, init_state
from gen_jax.train.step import make_eval_step, make_train_step


def get_config(preset: str = "default") -> ConfigDict:
    """The config of a preset.

    Args:
      preset: one that the module's docstring names.

    Returns:
      The config, unlocked.

    Raises:
      UserError: where there is no such preset.
    """
    config = config_lib.base_config()
    config.experiment = "nerf"
    config.preset = preset
    config.data.name = "analytic"  # analytic | files: the scene in config.data.dir.
    config.data.size = 64  # analytic: the side of its images in pixels.
    config.data.num_train = 50  # analytic: how many views to learn from.
    config.data.num_test = 8  # analytic: how many to judge by.
    config.data.factor = 1  # files: so many times smaller the images are made.
    config.data.hold_out_every = 8  # files: each so many-th view is for the test, where the format has no split.
    config.data.near = 0.0  # files: the depth before which there is nothing; with far=0 what the format says.
    config.data.far = 0.0
    config.data.ndc = False  # Whether rays are in normalised device coordinates, for forward-facing scenes.
    config.data.background = "white"  # white | black | random
    config.data.one_view = False  # Whether all rays of a step are of one photograph.

    config.model = ConfigDict()
    config.model.depth = 4
    config.model.width = 128
    config.model.skip = 0  # The layer, from 1, after which the place is seen again; 0 for none.
    config.model.color_width = 64
    config.model.position_frequencies = 8
    config.model.direction_frequencies = 4
    config.model.encoding = "code"  # code | paper | code_without_input | paper_with_input

    config.rendering = ConfigDict()
    config.rendering.num_coarse = 32
    config.rendering.num_fine = 32
    config.rendering.spacing = "depth"  # depth | disparity
    config.rendering.density_noise = 0.0
    config.rendering.convention = "paper"  # paper | code, as in `families.nerf.rendering.Sampling`.
    config.rendering.bounded = False  # Whether the last interval ends at the far depth instead of never.

    config.mesh = ConfigDict()
    config.mesh.resolution = 128  # --mode=mesh: points along the longest side of the box.
    config.mesh.density = 10.0  # --mode=mesh: the density that the surface has.
    config.mesh.half_side = 1.5  # --mode=mesh: of the box around what cameras look at.

    config.optim.learning_rate = 2e-3
    config.optim.schedule = "exponential"
    config.train.batch_size = 1024
    config.train.duration = "2000 steps"
    config.train.log_every = "50 steps"
    config.train.eval_every = config.train.checkpoint_every = "250 steps"
    config.eval.batch_size = 8
    config.eval.stride = 4  # While training, every so many-th pixel of a test view is looked at, in both directions.
    config.eval.num_views = 8  # How many test views are rendered whole at the end.
    config.eval.path_frames = 48  # Of the flight among the pictures.
    config.eval.sample_chunk = 4
    return config_lib.apply_preset(config, _PRESETS)


def _lego(config: ConfigDict) -> None:
    config.data.name = "files"
    config.train.duration = "6000 steps"


def _fern(config: ConfigDict) -> None:
    config.data.name = "files"
    config.data.factor = 8
    config.data.ndc = True
    config.train.duration = "6000 steps"


def _fox(config: ConfigDict) -> None:
    config.data.name = "files"
    config.data.factor = 2
    config.train.duration = "6000 steps"


def _paper(config: ConfigDict) -> None:
    config.data.name = "files"
    config.model.depth = 8
    config.model.width = 256
    config.model.skip = 5
    config.model.color_width = 128
    config.model.position_frequencies = 10
    config.rendering.num_coarse = 64
    config.rendering.num_fine = 128
    config.optim.learning_rate = 5e-4
    config.optim.eps = 1e-7
    config.train.batch_size = 4096
    config.train.duration = "200000 steps"
    config.train.log_every = "100 steps"
    config.train.eval_every = config.train.checkpoint_every = "10000 steps"


def _blender(config: ConfigDict) -> None:
    _paper(config)


def _llff(config: ConfigDict) -> None:
    _paper(config)
    config.data.factor = 8
    config.data.ndc = True
    config.rendering.density_noise = 1.0


def _tiny(config: ConfigDict) -> None:
    config.data.size = 12
    config.data.num_train = 6
    config.data.num_test = 3
    config.data.background = "random"
    config.model.depth = 2
    config.model.width = 16
    config.model.skip = 1
    config.model.color_width = 8
    config.model.position_frequencies = 3
    config.model.direction_frequencies = 1
    config.rendering.num_coarse = 8
    config.rendering.num_fine = 8
    config.rendering.density_noise = 0.1
    config.mesh.resolution = 16
    config.mesh.density = 0.1
    config.optim.learning_rate = 1e-2
    config.optim.schedule = "constant"
    config.train.batch_size = 64
    config.train.duration = "40 steps"
    config.train.steps_per_call = 2
    config.train.log_every = "10 steps"
    config.train.eval_every = config.train.checkpoint_every = "20 steps"
    config.train.ema_decay = 0.5
    config.eval.stride = 2
    config.eval.num_views = 2
    config.eval.path_frames = 3


_PRESETS = {
    "default": lambda config: None,
    "lego": _lego,
    "fern": _fern,
    "fox": _fox,
    "blender": _blender,
    "llff": _llff,
    "tiny": _tiny,
}


def validate(config: ConfigDict) -> None:
    """Checks a config's values; `build` checks what also depends on the data.

    Args:
      config: the resolved config.

    Raises:
      UserError: for the first value out of range, and for keys that do not go together.
    """
    at_least, one_of = config_lib.at_least, config_lib.one_of
    rules = config_lib.base_rules() | {
        "data.name": one_of("analytic", "files"),
        "data.size": at_least(4),
        "data.num_train": at_least(2),
        "data.num_test": at_least(1),
        "data.factor": at_least(1),
        "data.hold_out_every": at_least(0),
        "data.near": at_least(0.0),
        "data.far": at_least(0.0),
        "data.background": one_of(*objectives.BACKGROUNDS),
        "model.depth": at_least(1),
        "model.width": at_least(1),
        "model.skip": at_least(0),
        "model.color_width": at_least(1),
        "model.position_frequencies": at_least(0),
        "model.direction_frequencies": at_least(0),
        "model.encoding": one_of(*CONVENTIONS),
        "rendering.num_coarse": at_least(3),
        "rendering.num_fine": at_least(0),
        "rendering.spacing": one_of("depth", "disparity"),
        "rendering.density_noise": at_least(0.0),
        "rendering.convention": one_of("paper", "code"),
        "mesh.resolution": at_least(2),
        "mesh.density": config_lib.positive,
        "mesh.half_side": config_lib.positive,
        "eval.stride": at_least(1),
        "eval.num_views": at_least(0),
        "eval.path_frames": at_least(1),
    }
    config_lib.check(config, rules)
    config_lib.check_optimizer(config)
    data, model = config.data, config.model
    if data.name == "files" and not data.dir:
        raise UserError("config.data.name=files needs the folder of a scene; give --data_dir=FOLDER.")
    if data.far and not data.near < data.far:
        raise UserError(
            f"config.data.near={data.near:g} is not before config.data.far={data.far:g}; give them in order."
        )
    if model.skip > model.depth - 1:
        raise UserError(
            f"config.model.skip={model.skip} leaves no layer after it of config.model.depth={model.depth}; give "
            "less than the depth, or 0 for none."
        )
    if model.encoding in ("paper", "code_without_input") and not model.position_frequencies:
        raise UserError(
            f"config.model.position_frequencies=0 leaves nothing of the place with config.model.encoding="
            f"{model.encoding}; give 1 or more, or an encoding with the place itself."
        )


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
    train_source, test_source = sources or scene_sources(config)
    nerf = build_model(config, train_source)
    options = step_options(config, train_source.num_examples)

    def init(key: Key) -> TrainState:
        params = objectives.init_params(nerf, rng.stream(key, "init"))
        return init_state(params, options["tx"], key, ema=options["ema"] is not None)

    render = jax.jit(functools.partial(_render, nerf=nerf, source=train_source))
    shown: dict[str, Any] = {"render": render, "config": config}
    return Experiment(
        train_source=train_source,
        test_source=test_source,
        init=init,
        train_step=make_train_step(functools.partial(objectives.objective, nerf=nerf), **options),
        eval_step=make_eval_step(functools.partial(evaluation.view_values, nerf=nerf)),
        report=evaluation.report,
        assess=functools.partial(assess, test_source=test_source, **shown) if config.eval.num_views else None,
        sample=functools.partial(sample, nerf=nerf, source=train_source),
        pictures=functools.partial(paint, train_source=train_source, test_source=test_source, **shown),
        frame=functools.partial(draw_frame, source=train_source, render=render),
        headline=("psnr", "psnr_whole", "ssim"),
        steps_per_call=config.train.steps_per_call,
    )


def scene_sources(config: ConfigDict) -> tuple[Source, Source]:
    """The rays of a config's scene.

    Raises:
      UserError: where the scene cannot be read, or is not one for the config's coordinates.
    """
    data = config.data
    if data.name == "analytic":
        scene = analytic_scene(size=data.size, num_train=data.num_train, num_test=data.num_test)
    else:
        bounds = {"near": data.near, "far": data.far} if data.far else {}
        scene = load_scene(data.dir, factor=data.factor, hold_out_every=data.hold_out_every, **bounds)
    if data.ndc and not scene.forward_facing:
        raise UserError(
            f"{scene.origin} is not a forward-facing scene, and config.data.ndc=True is for those alone; leave it out."
        )
    return ray_sources(
        scene,
        one_view=data.one_view,
        stride=config.eval.stride,
        notes=notes_of(scene),
        **parallel.stream_options(config),
    )


def notes_of(scene: Scene) -> dict[str, Any]:
    """What is recorded of a scene: its depths, its first camera, and where its cameras stand on the whole."""
    poses = scene.train.poses
    outlook = spiral_outlook(poses, scene.near, scene.far) if scene.forward_facing else orbit_outlook(poses)
    camera = {"focal": scene.train.focal[0].tolist(), "center": scene.train.center[0].tolist(), "distortion": [0.0] * 4}
    return {
        "near": scene.near,
        "far": scene.far,
        "path": "spiral" if scene.forward_facing else "orbit",
        "camera": camera,
        "outlook": {name: np.asarray(part).tolist() for name, part in outlook._asdict().items()},
    }


def build_model(config: ConfigDict, source: Source) -> NeRF:
    """The radiance field of a config for a scene."""
    m, r = config.model, config.rendering
    field = models.RadianceField(
        depth=m.depth,
        width=m.width,
        skip=m.skip - 1 if m.skip else None,
        color_width=m.color_width,
        position_frequencies=m.position_frequencies,
        direction_frequencies=m.direction_frequencies,
        convention=m.encoding,
    )
    near, far = (0.0, 1.0) if config.data.ndc else (source.notes["near"], source.notes["far"])
    sampling = Sampling(
        near, far, r.num_coarse, r.num_fine, r.spacing, r.density_noise, convention=r.convention, bounded=r.bounded
    )
    height, width = source.example_shape[:2]
    return NeRF(field, sampling, config.data.background, (width, height) if config.data.ndc else None)


def camera_of(source: Source) -> Camera:
    """The first camera of a scene, its lens without distortion."""
    return Camera(**{name: jnp.asarray(value) for name, value in source.notes["camera"].items()})


def outlook_of(source: Source) -> Outlook:
    """Where the cameras of a scene stand."""
    parts: dict[str, Any] = {name: np.asarray(value, np.float32) for name, value in source.notes["outlook"].items()}
    return Outlook(**parts)


def _render(state: TrainState, camera: Camera, pose: Array, *, nerf: NeRF, source: Source) -> views.View:
    """A whole view of the size of the scene's photographs."""
    height, width = source.example_shape[:2]
    return views.render_view(nerf, state.eval_params, camera, pose, height, width)


def sample(state: TrainState, keys: Key, *, nerf: NeRF, source: Source) -> Array:
    """Views from random places of the scene's path, [n, H, W, 3]; view i from key i alone."""
    at, camera = pose_at(source.notes["path"], outlook_of(source)), camera_of(source)

    def one(key: Key) -> Array:
        return _render(state, camera, at(jax.random.uniform(key)), nerf=nerf, source=source).color

    return jax.lax.map(one, keys)


def _held_out(source: Source, count: int, background: str) -> Iterator[tuple[np.ndarray, Camera, np.ndarray]]:
    """Test views over the background, with camera and pose, evenly spread over all of them."""
    assert isinstance(source, RayBatches)
    found = source.views
    for row in np.unique(np.linspace(0, len(found) - 1, min(count, len(found))).astype(int)):
        behind = np.zeros(3) if background == "black" else np.ones(3)
        image = found.images[row].astype(np.float32) / np.float32(255)
        truth = image if image.shape[-1] == 3 else over(image, behind).astype(np.float32)
        yield truth, Camera(found.focal[row], found.center[row], found.distortion[row]), found.poses[row]


def assess(state: TrainState, *, test_source: Source, render: Any, config: ConfigDict) -> dict[str, float]:
    """Whole test views against the truth.

    Args:
      state: of the run.
      test_source: of the test views.
      render: `(state, camera, pose) -> view`, compiled.
      config: of the run.

    Returns:
      `psnr_whole` in decibels and `ssim`, means over `config.eval.num_views` views, and how many those were.
    """
    found = []
    for truth, camera, pose in _held_out(test_source, config.eval.num_views, config.data.background):
        image = np.asarray(render(state, camera, pose).color)
        found.append((psnr(image, truth), ssim(image, truth) if min(truth.shape[:2]) >= 11 else np.nan))
    means = np.mean(found, axis=0)
    numbers = {"psnr_whole": float(means[0]), "views": float(len(found))}
    return numbers | ({"ssim": float(means[1])} if np.isfinite(means[1]) else {})


def paint(
    state: TrainState, *, train_source: Source, test_source: Source, render: Any, config: ConfigDict
) -> dict[str, Picture]:
    """Draws held-out views beside the truth, and a flight along the scene's path.

    Args:
      state: of the run.
      train_source: of the scene.
      test_source: of the test views.
      render: `(state, camera, pose) -> view`, compiled.
      config: of the run.

    Returns:
      `views` and `flight`.
    """
    held_out = list(_held_out(test_source, 4, config.data.background))
    seen = [pictures.to_host(render(state, camera, pose)) for _, camera, pose in held_out]
    names = [
        f"{psnr(np.asarray(view.color), truth):.1f} dB" for view, (truth, _, _) in zip(seen, held_out, strict=True)
    ]
    path = train_source.notes["path"]
    along = list(fly(state, path, config.eval.path_frames, source=train_source, render=render))
    return {
        "views": pictures.compare([truth for truth, _, _ in held_out], seen, names),
        "flight": pictures.flight(along, f"{path.capitalize()} of {len(along)} views, and their depths"),
    }


def fly(state: TrainState, path: str, frames: int, *, source: Source, render: Any) -> Iterator[views.View]:
    """What is seen along a path, one view a frame, on the host."""
    camera = camera_of(source)
    for pose in path_poses(path, outlook_of(source), frames):
        yield pictures.to_host(render(state, camera, pose))


def draw_frame(state: TrainState, *, source: Source, render: Any) -> Grid:
    """The first view of the scene's path, and its depths."""
    pose = path_poses(source.notes["path"], outlook_of(source), 8)[1]
    view = pictures.to_host(render(state, camera_of(source), pose))
    depths = pictures.depth_image(view, source.notes["near"], source.notes["far"])
    return Grid("A view from the path, and its depths", np.stack([view.color, depths])[None])


if __name__ == "__main__":
    cli.main("nerf")
