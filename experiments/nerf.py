r"""NeRF: a scene from posed photographs (Mildenhall et al., 2020).

Command: python -m experiments.nerf --workdir=runs/nerf
Expected: 31.8 dB and an SSIM of 0.970 on whole held-out views of the scene of our own
Time: 4 min of training on two CPU cores

Presets (--preset=...):
  default  a scene of our own, traced exactly; a small network
  lego     the lego of NeRF's synthetic scenes, in --data_dir; a small network; 26.4 dB at 100 pixels in 9 min
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

import jax
from ml_collections import ConfigDict

from experiments import _scene_views, _scenes
from gen_jax import cli, rng
from gen_jax import config as config_lib
from gen_jax.contracts import Array, Experiment, Key, Mesh, Params, Source, UserError
from gen_jax.families.nerf import evaluation, models, objectives, views
from gen_jax.families.nerf.objectives import NeRF
from gen_jax.families.nerf.rendering import RaySampling
from gen_jax.families.nerf.surface import extract_mesh
from gen_jax.ops.cameras import Camera
from gen_jax.ops.encodings import CONVENTIONS
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
    config = _scenes.base_config("nerf", preset)
    config.model.depth = 4
    config.model.width = 64
    config.model.skip = 0  # The layer, from 1, after which the place is seen again; 0 for none.
    config.model.color_width = 32
    config.model.position_frequencies = 8
    config.model.direction_frequencies = 4
    config.model.first_relu = True  # Whether the first layer has a ReLU; some published fields have none.
    config.model.feature_relu = False  # Whether the feature vector has one; some published fields do.
    config.model.encoding = "code"  # code | paper | code_without_input | paper_with_input

    config.rendering = ConfigDict()
    config.rendering.num_coarse = 24
    config.rendering.num_fine = 24
    config.rendering.spacing = "depth"  # depth | disparity
    config.rendering.density_noise = 0.0
    config.rendering.convention = "paper"  # paper | code, as in `families.nerf.rendering.RaySampling`.
    config.rendering.bounded = False  # Whether the last interval ends at the far depth instead of never.

    config.mesh = ConfigDict()
    config.mesh.resolution = 128  # --mode=mesh: points along the longest side of the box.
    config.mesh.density = 10.0  # --mode=mesh: the density that the surface has.
    config.mesh.half_side = 1.5  # --mode=mesh: of the box around what cameras look at.

    config.optim.learning_rate = 5e-3
    return config_lib.apply_preset(config, _PRESETS)


def _fern(config: ConfigDict) -> None:
    _scenes.small_run_on_files(config)
    config.data.factor = 8
    config.data.background = "black"
    config.data.ndc = True


def _fox(config: ConfigDict) -> None:
    _scenes.small_run_on_files(config)
    config.data.factor = 2
    config.data.background = "black"


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
    config.eval.stride = 1
    config.eval.num_views = 200


def _llff(config: ConfigDict) -> None:
    _paper(config)
    config.data.factor = 8
    config.data.background = "black"
    config.data.ndc = True
    config.rendering.density_noise = 1.0
    config.eval.stride = 1


def _tiny(config: ConfigDict) -> None:
    _scenes.tiny_run(config)
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


_PRESETS = {
    "default": lambda config: None,
    "lego": _scenes.small_run_on_files,
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
    rules = {
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
    }
    _scenes.check(config, rules)
    model = config.model
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
    train_source, test_source = _scenes.sources_of(config, sources)
    nerf = build_model(config, train_source)
    options = step_options(config, train_source.num_examples)

    def init(key: Key) -> TrainState:
        params = objectives.init_params(rng.stream(key, "init"), nerf=nerf)
        return init_state(params, options["tx"], key, ema=options["ema"] is not None)

    render = jax.jit(functools.partial(_render, nerf=nerf, source=train_source))
    return Experiment(
        train_source=train_source,
        test_source=test_source,
        init=init,
        train_step=make_train_step(
            functools.partial(objectives.objective, nerf=nerf), accumulate=config.train.accumulate, **options
        ),
        eval_step=make_eval_step(functools.partial(evaluation.view_values, nerf=nerf)),
        report=evaluation.report,
        steps_per_call=config.train.steps_per_call,
        mesh=functools.partial(mesh_of, nerf=nerf, source=train_source, config=config),
        **_scene_views.looks(train_source, test_source, render=render, config=config),
    )


def build_model(config: ConfigDict, source: Source) -> NeRF:
    """The radiance field of a config for a scene.

    Args:
      config: the resolved config.
      source: of the scene.

    Returns:
      The model.

    Raises:
      UserError: where samples cannot be spaced so in the scene.
    """
    m, r = config.model, config.rendering
    field = models.RadianceField(
        depth=m.depth,
        width=m.width,
        skip=m.skip - 1 if m.skip else None,
        color_width=m.color_width,
        position_frequencies=m.position_frequencies,
        direction_frequencies=m.direction_frequencies,
        encoding=m.encoding,
        first_relu=m.first_relu,
        feature_relu=m.feature_relu,
    )
    near, far = (0.0, 1.0) if config.data.ndc else (source.notes["near"], source.notes["far"])
    if r.spacing == "disparity" and not near > 0:
        raise UserError(
            "config.rendering.spacing=disparity needs a near depth above 0, which normalised device coordinates do not "
            "have; use depth."
        )
    sampling = RaySampling(
        near, far, r.num_coarse, r.num_fine, r.spacing, r.density_noise, convention=r.convention, bounded=r.bounded
    )
    height, width = source.example_shape[:2]
    return NeRF(field, sampling, config.data.background, (width, height) if config.data.ndc else None)


def _render(params: Params, camera: Camera, pose: Array, *, nerf: NeRF, source: Source) -> views.View:
    """A whole view of the size of the scene's photographs."""
    height, width = source.example_shape[:2]
    return views.render_view(params, camera, pose, height, width, nerf=nerf)


def mesh_of(state: TrainState, *, nerf: NeRF, source: Source, config: ConfigDict) -> Mesh:
    """The surface of the scene, in a box around what its cameras look at.

    Args:
      state: of the run.
      nerf: the model.
      source: of the scene.
      config: of the run.

    Returns:
      The mesh, in the coordinates of the scene's files.

    Raises:
      UserError: where the scene is in normalised device coordinates, or nothing is as dense as the level.
    """
    if nerf.size is not None:
        raise UserError(
            "A field in normalised device coordinates has no box to look for a surface in; train one without."
        )
    m, focus = config.mesh, _scenes.outlook_of(source).focus
    low, high = focus - m.half_side, focus + m.half_side
    found = extract_mesh(state.eval_params, low, high, nerf=nerf, resolution=m.resolution, density=m.density)
    if not len(found.faces):
        raise UserError(
            f"Nothing within {m.half_side:g} of what the cameras look at has config.mesh.density={m.density:g}; give "
            "another density or config.mesh.half_side."
        )
    return _scenes.to_files(found, source)


if __name__ == "__main__":
    cli.main("nerf")
