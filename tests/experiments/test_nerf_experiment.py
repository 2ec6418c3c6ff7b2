"""NeRF as a person runs it: from files, rendered, as a mesh, and without the files again."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
import trimesh
from PIL import Image

import gen_jax
from experiments import gan_ring, nerf, tiny_nerf
from gen_jax import cli, rng, run
from gen_jax.checkpoint import Checkpoints
from gen_jax.contracts import UserError
from gen_jax.data.analytic_scene import analytic_scene
from gen_jax.train import loop, workdir
from gen_jax.train.evaluation import evaluate
from gen_jax.train.parallel import Layout

MODULES = [nerf, tiny_nerf]


def tiny(module, **changes):
    config = module.get_config("tiny")
    for key, value in changes.items():
        section, name = key.split("__")
        config[section][name] = value
    return config


def write_blender(folder):
    """The analytic scene as a Blender scene's files."""
    scene = analytic_scene(size=12, num_train=4, num_test=2)
    for split, views in (("train", scene.train), ("val", scene.val), ("test", scene.test)):
        frames = []
        for i, (image, pose) in enumerate(zip(views.images, views.poses, strict=True)):
            (folder / split).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / split / f"r_{i}.png")
            matrix = [*pose.astype(float).tolist(), [0.0, 0.0, 0.0, 1.0]]
            frames.append({"file_path": f"./{split}/r_{i}", "transform_matrix": matrix})
        angle = 2 * np.arctan(0.5 / 1.2)
        (folder / f"transforms_{split}.json").write_text(json.dumps({"camera_angle_x": angle, "frames": frames}))
    return scene


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tiny run on files."""
    folder = tmp_path_factory.mktemp("nerf")
    scene = write_blender(folder / "scene")
    cli.main("nerf", [
        "--preset=tiny", "--config.data.name=files", f"--data_dir={folder / 'scene'}", f"--workdir={folder / 'run'}",
        "--config.train.eval_every=40 steps", "--config.train.accumulate=1", "--config.train.steps_per_call=1",
    ])  # fmt: skip
    return folder, scene


def test_files_and_the_scene_that_they_were_made_of_are_the_same(trained):
    folder, scene = trained
    loaded = gen_jax.load(folder / "run")
    views = loaded.experiment.train_source.views
    np.testing.assert_array_equal(views.images, scene.train.images)
    np.testing.assert_allclose(views.poses, scene.train.poses, atol=1e-6)
    np.testing.assert_allclose(views.focal, scene.train.focal, rtol=1e-6)
    results = json.loads((folder / "run" / "results.json").read_text())
    assert results["psnr_whole"] > 8 and 0 < results["ssim"] < 1 and results["views"] == 2


def test_views_along_a_path_are_rendered_to_files(trained, capsys):
    folder, _ = trained
    cli.main("nerf", ["--mode=render", f"--workdir={folder / 'run'}", "--path=spiral", "--frames=3"])
    renders = folder / "run" / "renders"
    assert sorted(p.name for p in renders.iterdir()) == ["spiral_3", "spiral_3.mp4", "spiral_3_depth.mp4"]
    assert str(renders / "spiral_3.mp4") in capsys.readouterr().out
    assert len(list((renders / "spiral_3").iterdir())) == 9
    depth = np.load(renders / "spiral_3" / "0002_depth.npy")
    assert depth.shape == (12, 12) and np.all((depth >= 2) & (depth <= 6))
    frames = [np.asarray(Image.open(renders / "spiral_3" / f"{i:04d}.png"), int) for i in range(3)]
    assert np.abs(frames[0] - frames[1]).max() > 3 and np.abs(frames[1] - frames[2]).max() > 3, "the camera moves"


def test_the_surface_is_written_as_a_mesh(trained):
    folder, _ = trained
    cli.main("nerf", ["--mode=mesh", f"--workdir={folder / 'run'}"])
    for kind in ("ply", "obj"):
        mesh = trimesh.load(folder / "run" / "meshes" / f"mesh.{kind}", process=False, force="mesh")
        assert len(mesh.faces) > 10 and mesh.visual.vertex_colors.shape[0] == len(mesh.vertices)
        assert np.abs(mesh.vertices).max() < 3


def test_what_is_exported_is_in_the_coordinates_of_the_files(trained):
    """Of a world that a reader has scaled by a half, turned and moved."""
    loaded = gen_jax.load(trained[0] / "run")
    source, plain = loaded.experiment.train_source, loaded.experiment
    turn = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    frame = np.concatenate([2 * turn, [[1.0], [2], [3]]], axis=1)
    moved_source = dataclasses.replace(source, notes=dict(source.notes) | {"frame": frame.tolist()})
    moved = nerf.build(loaded.config, (moved_source, plain.test_source))
    one, other = plain.mesh(loaded.state), moved.mesh(loaded.state)
    np.testing.assert_allclose(other.vertices, 2 * one.vertices @ turn.T + [1, 2, 3], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(other.normals, one.normals @ turn.T, atol=1e-5)
    first, second = (next(iter(experiment.fly(loaded.state, "", 1))) for experiment in (plain, moved))
    np.testing.assert_allclose(second.depth, 2 * first.depth, rtol=1e-6)


def test_a_run_whose_scene_is_gone_still_renders_and_samples(trained, tmp_path):
    folder, _ = trained
    shutil.copytree(folder / "run", tmp_path / "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    config["data"]["dir"] = str(tmp_path / "gone")
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    gone, here = gen_jax.load(tmp_path / "run"), gen_jax.load(folder / "run")
    np.testing.assert_array_equal(gone.sample(seed=1, num=2), here.sample(seed=1, num=2))
    for one, other in zip(*(r.experiment.fly(r.state, "", 2) for r in (gone, here)), strict=True):
        np.testing.assert_array_equal(one.color, other.color)


def test_what_cannot_be_rendered_says_so_in_a_sentence(trained, tmp_path):
    folder, _ = trained
    for arguments, message in (
        (["--mode=render", "--path=obit"], r"no --path=obit \(did you mean orbit\?\); expected one of orbit, spiral"),
        (["--mode=render", "--seed=1"], "--seed has no effect with --mode=render"),
        (["--mode=train", "--frames=3"], "--frames has no effect with --mode=train"),
        (["--mode=mesh", "--config.mesh.density=1e9"], "Nothing within 1.5 of what the cameras look at"),
    ):
        with pytest.raises(SystemExit, match=message):
            cli.main("nerf", [*arguments, f"--workdir={folder / 'run'}"])
    config = gan_ring.get_config("tiny")
    workdir.write_config(tmp_path, config)
    with contextlib.closing(Checkpoints(tmp_path / "checkpoints")) as checkpoints:
        checkpoints.save(1, jax.jit(gan_ring.build(config).init)(rng.root(0)))
        checkpoints.wait()
    for mode, noun in (("render", "views"), ("mesh", "surface")):
        with pytest.raises(SystemExit, match=f"gan_ring has no {noun}; --mode={mode} is for scenes"):
            cli.main("gan_ring", [f"--mode={mode}", f"--workdir={tmp_path}"])


def test_a_field_in_device_coordinates_has_no_mesh(trained):
    folder, _ = trained
    config = tiny(nerf, data__ndc=True)
    sources = run.load(folder / "run").experiment
    experiment = nerf.build(config, (sources.train_source, sources.test_source))
    with pytest.raises(UserError, match="normalised device coordinates has no box"):
        experiment.mesh(None)
    with pytest.raises(UserError, match="--path=orbit leaves what a field in normalised device coordinates knows"):
        experiment.fly(None, "orbit", 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__name": "files", "data__near": 3.0, "data__far": 2.0}, r"near=3 is not before config\.data\.far=2"),
        ({"data__name": "files", "data__near": 3.0}, r"config\.data\.near=3 has no effect without config\.data\.far"),
        ({"data__near": 1.0, "data__far": 2.0}, "have no effect with config.data.name=analytic"),
        (
            {"data__dir": "/scenes/lego"},
            r"config\.data\.dir=/scenes/lego has no effect with config\.data\.name=analytic",
        ),
        ({"data__factor": 2}, r"config\.data\.factor=2 has no effect"),
        ({"train__accumulate": 3}, r"config\.train\.batch_size=64 cannot be taken in config\.train\.accumulate=3"),
        ({"data__name": "files"}, r"needs the folder of a scene; give --data_dir=FOLDER"),
        ({"data__name": "files", "data__dir": "/nowhere"}, "/nowhere has no scene"),
        ({"data__background": "grey"}, r"config\.data\.background='grey' is out of range"),
        ({"eval__lpips": "/nowhere.npz"}, r"config\.eval\.lpips needs views of 32 pixels or more a side.*12x12"),
        ({"eval__lpips": "/nowhere.npz", "data__size": 32}, r"nowhere\.npz cannot be read as weights of LPIPS"),
    ],
)
@pytest.mark.parametrize("module", MODULES)
def test_what_a_scene_cannot_be_is_refused(module, changes, message):
    with pytest.raises(UserError, match=message):
        module.build(tiny(module, **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model__skip": 2}, r"config\.model\.skip=2 leaves no layer after it of config\.model\.depth=2"),
        ({"model__encoding": "paper", "model__position_frequencies": 0}, "leaves nothing of the place"),
        ({"rendering__num_coarse": 2}, r"config\.rendering\.num_coarse=2 is out of range"),
        ({"data__ndc": True}, "is not a forward-facing scene"),
    ],
)
def test_what_a_field_cannot_be_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        nerf.build(tiny(nerf, **changes))


@pytest.mark.parametrize("change", [{"data__ndc": True}, {"data__background": "random"}])
def test_what_the_one_page_leaves_out_is_refused(change):
    with pytest.raises(UserError, match="tiny_nerf knows neither normalised device coordinates nor random backgrounds"):
        tiny_nerf.build(tiny(tiny_nerf, **change))


@pytest.mark.parametrize(
    ("module", "background"),
    [
        (nerf, "black"),
        (tiny_nerf, "white"),
        pytest.param(nerf, "white", marks=pytest.mark.slow),
        pytest.param(tiny_nerf, "black", marks=pytest.mark.slow),
    ],
)
def test_whole_views_are_judged_over_the_background_that_is_rendered(module, background):
    """With every pixel looked at, both numbers of the same views are one."""
    config = tiny(module, data__background=background, eval__stride=1, eval__num_views=3)
    experiment = module.build(config)
    state = jax.jit(experiment.init)(rng.root(0))
    layout = Layout("jit", jax.devices()[:1])
    step = layout.wrap_eval(experiment.eval_step)
    means = experiment.report(evaluate(step, layout.put_state(state), experiment.test_source, layout))
    assert experiment.assess(state)["psnr_whole"] == pytest.approx(means["psnr"], abs=1e-3)


def test_samples_even_in_disparity_need_a_near_depth():
    config = tiny(nerf, rendering__spacing="disparity", data__ndc=True)
    source = nerf.build(tiny(nerf)).train_source
    with pytest.raises(UserError, match="spacing=disparity needs a near depth above 0"):
        nerf.build(config, (source, source))


def test_the_papers_preset_has_the_papers_parameters():
    """595,844 in each of both networks."""
    config = nerf.get_config("blender")
    config.data.name, config.data.size, config.data.num_train, config.data.num_test = "analytic", 8, 2, 1
    params = jax.eval_shape(nerf.build(config).init, rng.root(0)).params
    for level in ("coarse", "fine"):
        assert sum(leaf.size for leaf in jax.tree.leaves(params[level])) == 595_844
    assert (config.rendering.num_coarse, config.rendering.num_fine, config.train.batch_size) == (64, 128, 4096)


@pytest.mark.slow
@pytest.mark.parametrize(("module", "decibels"), [(nerf, 30.0), (tiny_nerf, 24.0)])
def test_held_out_views_of_the_embedded_scene(module, decibels, tmp_path):
    config = module.get_config()
    outcome = loop.train(module.build(config), config, tmp_path, say=lambda line: None, show_progress=False)
    assert outcome.results["psnr_whole"] > decibels
