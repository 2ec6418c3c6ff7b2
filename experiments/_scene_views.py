"""What the experiments that learn a scene share: how its views are judged and drawn."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from experiments import _scenes
from gen_jax import config as config_lib
from gen_jax.contracts import Array, Grid, Key, Params, Picture, Shot, Source, UserError
from gen_jax.data.rays import RayBatches
from gen_jax.eval import lpips
from gen_jax.eval.image_quality import SSIM_WINDOW, psnr, ssim
from gen_jax.families.nerf import pictures, views
from gen_jax.ops.camera_paths import PATHS, path_poses, pose_at
from gen_jax.ops.cameras import Camera
from gen_jax.ops.volume_rendering import over
from gen_jax.train.state import TrainState

# From parameters, a camera and a pose [3, 4] to the whole view, compiled.
Render = Callable[[Params, Camera, Any], views.View]
# From an image and the truth, [H, W, 3] in [0, 1] each, to a number.
Likeness = Callable[[np.ndarray, np.ndarray], float]


def looks(train_source: Source, test_source: Source, *, render: Render, config: ConfigDict) -> dict[str, Any]:
    """The fields of an `Experiment` that judge and show a scene.

    Args:
      train_source: of the scene.
      test_source: of the test views.
      render: gives a whole view, compiled.
      config: of the run.

    Returns:
      `assess`, `sample`, `pictures`, `frame`, `fly` and `headline`.
    """
    shown: dict[str, Any] = {"render": render, "config": config}
    judge = functools.partial(assess, test_source=test_source, likeness=likeness_of(config, train_source), **shown)
    return {
        "assess": judge if config.eval.num_views else None,
        "sample": functools.partial(sample, source=train_source, render=render),
        "pictures": functools.partial(draw, train_source=train_source, test_source=test_source, **shown),
        "frame": functools.partial(draw_frame, test_source=test_source, **shown),
        "fly": functools.partial(fly, source=train_source, render=render, ndc=config.data.ndc),
        "headline": ("psnr", "psnr_whole", "ssim", "lpips"),
    }


def held_out(source: Source, count: int, background: str) -> Iterator[tuple[np.ndarray, Camera, np.ndarray]]:
    """Test views over the background, evenly spread over all of them.

    Args:
      source: of the test views.
      count: how many at most.
      background: one of `families.nerf.objectives.BACKGROUNDS`.

    Yields:
      The photograph [H, W, 3] in [0, 1], its camera and its pose [3, 4].
    """
    assert isinstance(source, RayBatches)
    found = source.views
    for row in np.unique(np.linspace(0, len(found) - 1, min(count, len(found))).astype(int)):
        behind = np.zeros(3) if background == "black" else np.ones(3)
        image = found.images[row].astype(np.float32) / np.float32(255)
        truth = image if image.shape[-1] == 3 else over(image, behind).astype(np.float32)
        yield truth, Camera(found.focal[row], found.center[row], found.distortion[row]), found.poses[row]


def assess(
    state: TrainState, *, test_source: Source, render: Render, likeness: dict[str, Likeness], config: ConfigDict
) -> dict[str, float]:
    """Whole test views against the truth.

    Args:
      state: of the run.
      test_source: of the test views.
      render: `(params, camera, pose) -> view`, compiled.
      likeness: by name, `(image, truth) -> number`.
      config: of the run.

    Returns:
      The mean of each number over `config.eval.num_views` views, and how many those were.
    """
    params, found = jax.device_put(state.eval_params), []
    for truth, camera, pose in held_out(test_source, config.eval.num_views, config.data.background):
        image = np.asarray(render(params, camera, pose).color)
        found.append([measure(image, truth) for measure in likeness.values()])
    return dict(zip(likeness, map(float, np.mean(found, axis=0)), strict=True)) | {"views": float(len(found))}


def likeness_of(config: ConfigDict, source: Source) -> dict[str, Likeness]:
    """How whole views are judged.

    Args:
      config: of the run.
      source: of views as large as those to be judged.

    Returns:
      `psnr_whole` in decibels, `ssim` where a view is as large as its window, and `lpips` where there are weights for
      it.

    Raises:
      UserError: where the weights cannot be read.
    """
    found: dict[str, Likeness] = {"psnr_whole": psnr}
    if min(source.example_shape[:2]) >= SSIM_WINDOW:
        found["ssim"] = ssim
    if config.eval.lpips and min(source.example_shape[:2]) < lpips.LEAST_SIDE:
        raise UserError(
            f"config.eval.lpips needs views of {lpips.LEAST_SIDE} pixels or more a side, and these are of "
            f"{source.example_shape[1]}x{source.example_shape[0]}; leave it out."
        )
    if config.eval.lpips:
        distance = jax.jit(functools.partial(lpips.lpips, lpips.load(config.eval.lpips)))
        found["lpips"] = lambda image, truth: float(distance(image, truth))
    return found


def draw(
    state: TrainState, *, train_source: Source, test_source: Source, render: Render, config: ConfigDict
) -> dict[str, Picture]:
    """Draws held-out views beside the truth, and a flight along the scene's path.

    Args:
      state: of the run.
      train_source: of the scene.
      test_source: of the test views.
      render: `(params, camera, pose) -> view`, compiled.
      config: of the run.

    Returns:
      `views` and `flight`.
    """
    params = jax.device_put(state.eval_params)
    found = list(held_out(test_source, 4, config.data.background))
    seen = [pictures.to_host(render(params, camera, pose)) for _, camera, pose in found]
    truths = [truth for truth, _, _ in found]
    names = [f"{psnr(np.asarray(view.color), truth):.1f} dB" for view, truth in zip(seen, truths, strict=True)]
    path = train_source.notes["path"]
    along = list(views_along(state, path, config.eval.path_frames, source=train_source, render=render))
    return {
        "views": pictures.compare(truths, seen, names),
        "flight": pictures.flight(f"{path.capitalize()} of {len(along)} views, and their depths", along),
    }


def sample(state: TrainState, keys: Key, *, source: Source, render: Render) -> Array:
    """Views from random places of the scene's path; view i from key i alone.

    Args:
      state: of the run.
      keys: [n].
      source: of the scene.
      render: `(params, camera, pose) -> view`.

    Returns:
      [n, H, W, 3] in [0, 1].
    """
    at, camera = pose_at(source.notes["path"], _scenes.outlook_of(source)), _scenes.camera_of(source)
    return jax.lax.map(lambda key: render(state.eval_params, camera, at(jax.random.uniform(key))).color, keys)


def views_along(state: TrainState, path: str, count: int, *, source: Source, render: Render) -> Iterator[views.View]:
    """What is seen along a path.

    Args:
      state: of the run.
      path: one of `ops.camera_paths.PATHS`.
      count: how many views.
      source: of the scene.
      render: `(params, camera, pose) -> view`, compiled.

    Yields:
      Views [H, W, ...], on the host.
    """
    camera, params = _scenes.camera_of(source), jax.device_put(state.eval_params)
    for pose in path_poses(path, _scenes.outlook_of(source, path), count):
        yield pictures.to_host(render(params, camera, pose))


def fly(
    state: TrainState, path: str, count: int, *, source: Source, render: Render, ndc: bool = False
) -> Iterator[Shot]:
    """What `--mode=render` writes: `views_along` a path as shots, in the units of the scene's files.

    Args:
      state: of the run.
      path: one of `ops.camera_paths.PATHS`; "" for the scene's own.
      count: how many views.
      source: of the scene.
      render: `(params, camera, pose) -> view`, compiled.
      ndc: whether the field is in normalised device coordinates.

    Returns:
      The shots, one by one.

    Raises:
      UserError: where there is no such path, or the scene is not known along it.
    """
    path = path or source.notes["path"]
    if path not in PATHS:
        near = config_lib.suggestion(path, PATHS)
        raise UserError(f"There is no --path={path}{near}; expected one of {', '.join(PATHS)}.")
    if ndc and path == "orbit":
        raise UserError(
            "--path=orbit leaves what a field in normalised device coordinates knows, which is before its cameras; use "
            "--path=spiral."
        )
    seen = views_along(state, path, count, source=source, render=render)
    return map(functools.partial(_shot, source=source), seen)


def _shot(view: views.View, *, source: Source) -> Shot:
    shown = pictures.depth_image(view, source.notes["near"], source.notes["far"])
    return Shot(np.asarray(view.color), _scenes.scale_of(source) * np.asarray(view.depth), shown)


def draw_frame(state: TrainState, *, test_source: Source, render: Render, config: ConfigDict) -> Grid:
    """A held-out view beside the truth, where they differ, depths, and how alike they are.

    Args:
      state: of the run.
      test_source: of the test views.
      render: `(params, camera, pose) -> view`, compiled.
      config: of the run.

    Returns:
      A row of images, its title the likeness.
    """
    truth, camera, pose = next(held_out(test_source, 1, config.data.background))
    view = pictures.to_host(render(jax.device_put(state.eval_params), camera, pose))
    image = np.asarray(view.color)
    likeness = f", SSIM {ssim(image, truth):.3f}" if min(truth.shape[:2]) >= SSIM_WINDOW else ""
    # So short that the images say how wide the frame is, whatever the numbers.
    return Grid(f"{psnr(image, truth):.2f} dB{likeness}", pictures.compare([truth], [view], [""]).images)
