"""What the experiments that learn a scene share: their config, where rays come from, what is recorded of the scene."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from gen_jax import config as config_lib
from gen_jax.contracts import Mesh, Source, UserError
from gen_jax.data.analytic_scene import analytic_scene
from gen_jax.data.rays import ray_sources
from gen_jax.data.scene_formats import load_scene
from gen_jax.data.scenes import Reading, Scene
from gen_jax.families.nerf.objectives import BACKGROUNDS
from gen_jax.ops.camera_paths import (
    Outlook,
    one_sided_outlook,
    orbit_outlook,
    spiral_outlook,
)
from gen_jax.ops.cameras import Camera
from gen_jax.train import parallel


def data_section() -> ConfigDict:
    """`config.data` of a scene."""
    data = ConfigDict()
    data.name = "analytic"  # analytic | files: the scene in config.data.dir.
    data.dir = ""
    data.size = 64  # analytic: the side of its images in pixels.
    data.num_train = 50  # analytic: how many views to learn from.
    data.num_test = 8  # analytic: how many to judge by.
    data.factor = 1  # files: so many times smaller the images are made.
    data.hold_out_every = 8  # files: each so many-th view is for the test, where the format has no split.
    data.near = 0.0  # files: the depth before which there is nothing; with far=0 what the format says.
    data.far = 0.0
    data.ndc = False  # Whether rays are in normalised device coordinates, for forward-facing scenes.
    data.premultiplied = False  # files: whether the colours of images with alpha are multiplied by it.
    data.background = "white"  # white | black | random
    data.one_view = False  # Whether all rays of a step are of one photograph.
    return data


def base_config(experiment: str, preset: str) -> ConfigDict:
    """The sections that the experiments on scenes share.

    Args:
      experiment: the module's name.
      preset: the preset's.

    Returns:
      The config, unlocked.
    """
    config = config_lib.base_config()
    config.experiment = experiment
    config.preset = preset
    config.data = data_section()
    config.model = ConfigDict()

    config.optim.schedule = "exponential"
    config.train.batch_size = 1024
    config.train.accumulate = 1  # Parts that the rays of a step are taken in, one after another: less memory.
    config.train.duration = "2000 steps"
    config.train.steps_per_call = 10
    config.train.log_every = "50 steps"
    config.train.eval_every = config.train.checkpoint_every = "250 steps"
    config.eval.batch_size = 8
    config.eval.stride = 4  # While training, every so many-th pixel of a test view is looked at, in both directions.
    config.eval.num_views = 8  # How many test views are rendered whole at the end.
    config.eval.path_frames = 48  # Of the flight among the pictures.
    config.eval.lpips = ""  # A file of weights, as `gen_jax.eval.lpips` makes it, to judge whole views by; "" for none.
    config.eval.sample_chunk = 4
    return config


def small_run_on_files(config: ConfigDict) -> None:
    """A run of minutes on the photographs of `config.data.dir`."""
    config.data.name = "files"
    config.train.duration = "4000 steps"


def tiny_run(config: ConfigDict) -> None:
    """A run of seconds, for tests."""
    config.data.size = 12
    config.data.num_train = 6
    config.data.num_test = 3
    config.optim.learning_rate = 1e-2
    config.optim.schedule = "constant"
    config.train.batch_size = 64
    config.train.accumulate = 2
    config.train.duration = "40 steps"
    config.train.steps_per_call = 2
    config.train.log_every = "10 steps"
    config.train.eval_every = config.train.checkpoint_every = "20 steps"
    config.train.ema_decay = 0.5
    config.eval.stride = 2
    config.eval.num_views = 2
    config.eval.path_frames = 3


def base_rules() -> dict[str, config_lib.Rule]:
    """What the keys of `base_config` must satisfy."""
    at_least = config_lib.at_least
    return config_lib.base_rules() | {
        "data.name": config_lib.one_of("analytic", "files"),
        "data.size": at_least(4),
        "data.num_train": at_least(2),
        "data.num_test": at_least(1),
        "data.factor": at_least(1),
        "data.hold_out_every": at_least(0),
        "data.near": at_least(0.0),
        "data.far": at_least(0.0),
        "data.background": config_lib.one_of(*BACKGROUNDS),
        "train.accumulate": at_least(1),
        "eval.stride": at_least(1),
        "eval.num_views": at_least(0),
        "eval.path_frames": at_least(1),
    }


def check(config: ConfigDict, rules: dict[str, config_lib.Rule]) -> None:
    """Checks a config's values.

    Args:
      config: the resolved config.
      rules: beyond those of `base_rules`.

    Raises:
      UserError: for the first value out of range, where the depths are not in order, or where a key of photographs is
        given and the scene is our own.
    """
    config_lib.check(config, base_rules() | rules)
    config_lib.check_optimizer(config)
    data = config.data
    if data.name == "analytic":
        for key in ("dir", "factor", "hold_out_every", "premultiplied"):
            if data[key] != data_section()[key]:
                raise UserError(
                    f"config.data.{key}={data[key]} has no effect with config.data.name=analytic, our own scene; "
                    "give --config.data.name=files as well, or a preset for photographs."
                )
    train = config.train
    if train.batch_size % train.accumulate:
        raise UserError(
            f"config.train.batch_size={train.batch_size} cannot be taken in config.train.accumulate={train.accumulate} "
            "equal parts; give a number that divides it."
        )
    if (data.near or data.far) and (data.name == "analytic" or data.ndc):
        raise UserError(
            "config.data.near and config.data.far have no effect with config.data.name=analytic or "
            "config.data.ndc=True; leave them out."
        )
    if data.near and not data.far:
        raise UserError(f"config.data.near={data.near:g} has no effect without config.data.far; give both.")
    if data.far and not data.near < data.far:
        raise UserError(f"config.data.near={data.near:g} is not before config.data.far={data.far:g}; swap them.")


def sources_of(config: ConfigDict, sources: tuple[Source, Source] | None = None) -> tuple[Source, Source]:
    """The training and the test rays of a config's scene.

    Args:
      config: the resolved config.
      sources: given ones; None to find them by `config.data`.

    Returns:
      Two sources.

    Raises:
      UserError: where the scene cannot be read, or is not one for the config's coordinates.
    """
    if sources is not None:
        return sources
    data = config.data
    if data.name == "analytic":
        scene = analytic_scene(size=data.size, num_train=data.num_train, num_test=data.num_test)
    elif not data.dir:
        raise UserError("config.data.name=files needs the folder of a scene; give --data_dir=FOLDER.")
    else:
        near, far = (data.near, data.far) if data.far else (None, None)
        scene = load_scene(data.dir, Reading(data.factor, data.hold_out_every, near, far, data.premultiplied))
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
    outlooks = {"orbit": orbit_outlook(poses)}
    outlooks["spiral"] = (
        spiral_outlook(poses, scene.near, scene.far)
        if scene.forward_facing
        else one_sided_outlook(poses, outlooks["orbit"])
    )
    camera = {"focal": scene.train.focal[0].tolist(), "center": scene.train.center[0].tolist(), "distortion": [0.0] * 4}
    return {
        "near": scene.near,
        "far": scene.far,
        "path": "spiral" if scene.forward_facing else "orbit",
        "camera": camera,
        "frame": scene.frame.tolist(),
        "outlooks": {
            path: {name: np.asarray(part).tolist() for name, part in outlook._asdict().items()}
            for path, outlook in outlooks.items()
        },
    }


def scale_of(source: Source) -> float:
    """How long a unit of the scene's coordinates is in those of its files."""
    return float(np.cbrt(np.linalg.det(np.array(source.notes["frame"])[:, :3])))


def to_files(mesh: Mesh, source: Source) -> Mesh:
    """A mesh in the coordinates of the scene's files, where reading them has changed the world.

    Args:
      mesh: in the world's coordinates.
      source: of the scene.

    Returns:
      The mesh; its normals are turned, and still of length 1.
    """
    frame = np.array(source.notes["frame"])
    vertices = mesh.vertices @ frame[:, :3].T + frame[:, 3]
    normals = mesh.normals @ frame[:, :3].T / scale_of(source)
    return dataclasses.replace(mesh, vertices=vertices.astype(np.float32), normals=normals.astype(np.float32))


def camera_of(source: Source) -> Camera:
    """The first camera of a scene, its lens without distortion."""
    return Camera(**{name: jnp.asarray(value) for name, value in source.notes["camera"].items()})


def outlook_of(source: Source, path: str = "") -> Outlook:
    """What a path needs to know of where a scene's cameras stand.

    Args:
      source: of the scene.
      path: one of `ops.camera_paths.PATHS`; "" for the scene's own.

    Returns:
      The outlook.
    """
    found = source.notes["outlooks"][path or source.notes["path"]]
    parts: dict[str, Any] = {name: np.asarray(value, np.float32) for name, value in found.items()}
    return Outlook(**parts)
