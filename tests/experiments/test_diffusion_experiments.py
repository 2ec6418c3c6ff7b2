"""The experiments on diffusion: what their configs refuse, and how one checkpoint is sampled in many ways."""

from __future__ import annotations

import functools
import math
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gen_jax
from experiments import (
    _diffusion,
    _diffusion_pictures,
    _guidance,
    _image_diffusion,
    ddpm,
    ddpm_toy,
    guided_diffusion,
    improved_ddpm,
    noisy_classifier,
)
from gen_jax import cli, rng
from gen_jax.checkpoint import Checkpoints
from gen_jax.contracts import UserError
from gen_jax.data import ImageBatches
from gen_jax.families import diffusion as family
from gen_jax.families.diffusion import pictures
from gen_jax.families.diffusion.objectives import Diffusion
from gen_jax.train import workdir

IMAGES = (ddpm, improved_ddpm, guided_diffusion)
ALL = (*IMAGES, noisy_classifier, ddpm_toy)


def changed(module, preset="tiny", **values):
    config = module.get_config(preset)
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in values.items()})
    return config


def source(shape=(28, 28, 1), classes=10, count=40):
    images = np.random.default_rng(0).integers(0, 256, (count, *shape), np.uint8)
    labels = (np.arange(count) % classes).astype(np.int32)
    return ImageBatches(images, labels, batch_size=8, evaluation_batch_size=16, seed=0, fingerprint="0", origin="here")


def drawn_state(experiment, size=0.2):
    """A state whose weights are all drawn, those of the last layers too, which begin at 0: every input matters."""
    shapes = jax.eval_shape(experiment.init, rng.root(0))
    random = np.random.default_rng(0)
    params = jax.tree.map(lambda a: random.normal(0, size, a.shape).astype(a.dtype), shapes.params)
    rest = jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), (shapes.model_state, shapes.opt_state))
    return shapes.replace(
        step=np.int32(8), params=params, ema_params=params, model_state=rest[0], opt_state=rest[1], key=rng.root(0)
    )


def write_run(folder, config, state):
    """A workdir as a run leaves it, without the run."""
    folder.mkdir()
    workdir.write_config(folder, config)
    checkpoints = Checkpoints(folder / "checkpoints")
    checkpoints.save(8, state)
    checkpoints.wait()
    checkpoints.close()
    return folder


ONE_LEVEL = {"model__channel_mult": (1,), "eval__sample_chunk": 4}


@pytest.fixture
def ddpm_run(tmp_path, monkeypatch):
    """A run of a network that compiles at once."""
    monkeypatch.setattr(ddpm, "build_model", lambda config, shape: Small())
    config = changed(ddpm, **ONE_LEVEL)
    return write_run(tmp_path / "ddpm", config, drawn_state(ddpm.build(config)))


@pytest.fixture(scope="module")
def classifier_run(tmp_path_factory):
    """A run of a small network whose weights are drawn; the last layer is then made to like all classes alike."""
    config = changed(noisy_classifier, **ONE_LEVEL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_guidance, "build_classifier", small_classifier)
        state = drawn_state(noisy_classifier.build(config), 0.5)
    noise = jax.random.normal(rng.root(0), (16, 28, 28, 1))
    logits = jax.jit(SmallClassifier().apply)({"params": state.params}, noise, jnp.zeros(16, jnp.int32))
    state.params["out"]["bias"] -= np.asarray(logits).mean(axis=0)
    return write_run(tmp_path_factory.mktemp("runs") / "noisy_classifier", config, state)


@pytest.fixture(scope="module")
def loaded_classifier(classifier_run):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_guidance, "build_classifier", small_classifier)
        return gen_jax.load(classifier_run)


def test_what_the_package_lists():
    listed = subprocess.run([sys.executable, "-m", "experiments"], capture_output=True, text=True, check=True).stdout
    for module in ALL:
        name = module.__name__.rpartition(".")[2]
        assert f"\n{name}" in f"\n{listed}"


@pytest.mark.parametrize("module", ALL, ids=lambda m: m.__name__)
def test_every_preset_is_valid_and_another_is_refused(module):
    for preset in module._PRESETS:
        module.validate(module.get_config(preset))
        assert f"\n  {preset} " in module.__doc__
    with pytest.raises(UserError, match="did you mean tiny"):
        module.get_config("tinny")


@pytest.mark.parametrize(
    ("module", "values", "sentence"),
    [
        (ddpm, {"sampler__num_steps": 21}, r"is more than the process has .*num_steps=20"),
        (ddpm_toy, {"sampler__num_steps": 21}, r"is more than the process has .*num_steps=20"),
        (ddpm_toy, {"model__hidden": ()}, r"config\.model\.hidden=\(\) leaves no layer"),
        (ddpm, {"sampler__name": "dimm"}, "did you mean ddim"),
        (improved_ddpm, {"sampler__eta": 0.5}, "no effect with config.sampler.name=ancestral; use ddim"),
        (ddpm, {"sampler__eta": 1.5}, "from 0 to 1"),
        (ddpm, {"guidance__scale": 2.0}, "no effect with config.guidance.name=none.*the model has no labels"),
        (ddpm, {"guidance__name": "classifier_free"}, "needs a model with labels"),
        (ddpm, {"guidance__label": 3}, "trained without labels"),
        (guided_diffusion, {"guidance__label": 10}, "There is no class 10; the labels go from 0 to 9"),
        (guided_diffusion, {"guidance__label": -2}, "at least -1"),
        (guided_diffusion, {"guidance__scale": math.inf}, "a finite number"),
        (guided_diffusion, {"guidance__name": "none"}, "scale=1.5 has no effect.*, or the scale to 1"),
        (guided_diffusion, {"objective__label_dropout": 0.0}, "was trained without labels as well"),
        (ddpm, {"guidance__convention": "weight"}, "convention=weight has no effect"),
        (ddpm, {"model__num_classes": 10}, "DDPM's U-Net takes no labels"),
        (ddpm, {"objective__loss": "hybrid"}, "hybrid trains a variance"),
        (ddpm, {"objective__vlb_weight": 0.1}, "vlb_weight=0.1 has no effect"),
        (ddpm, {"objective__min_snr_gamma": 1.0}, "min_snr_gamma=1.0 has no effect"),
        (ddpm, {"eval__flow_steps": 20}, "flow_steps=20 is out of range"),
        (ddpm, {"sampler__variance": "fixed_small"}, "no effect with config.sampler.name=dpm_solver; use ancestral"),
        (improved_ddpm, {"sampler__variance": "fixed_small"}, "has learned its variance"),
        (guided_diffusion, {"guidance__name": "classifier"}, "needs a trained one"),
        (guided_diffusion, {"guidance__classifier": "x"}, "no effect with config.guidance.name=classifier_free"),
        (guided_diffusion, {"guidance__at_point": "mean"}, "no effect with config.guidance.name=classifier_free"),
        (
            guided_diffusion,
            {"guidance__name": "classifier", "guidance__classifier": "somewhere", "guidance__at_point": "mean"},
            "moves the mean of an ancestral step, and config.sampler.name=dpm_solver has none",
        ),
        (ddpm, {"model__variance": "learned"}, "not trained by config.objective.loss=simple"),
        (improved_ddpm, {"objective__weighting": "min_snr"}, "no effect with config.objective.loss=hybrid"),
        (ddpm, {"objective__label_dropout": 0.1}, "no effect on a model without labels"),
        (ddpm, {"model__channels": 5}, "an even number"),
        (improved_ddpm, {"model__head_channels": 0}, "at least 1"),
        (noisy_classifier, {"model__num_classes": 1}, "at least 2"),
    ],
)
def test_what_a_config_refuses(module, values, sentence):
    with pytest.raises(UserError, match=sentence):
        module.validate(changed(module, **values))


@pytest.mark.parametrize("module", [*IMAGES, noisy_classifier], ids=lambda m: m.__name__)
@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"model__channel_mult": (1, 2, 2, 2)}, "halves its images 3 times and 28x28 cannot be.*must divide by 8"),
        ({"model__attention_at": (13,)}, "attention_at has 13, and the feature maps .* heights 28, 14;"),
        ({"model__channel_mult": ()}, "channel_mult is empty"),
    ],
)
def test_what_does_not_fit_the_images_is_refused_before_training(module, values, sentence):
    with pytest.raises(UserError, match=sentence):
        module.build(changed(module, **values), (source(), source()))


def test_a_process_that_ends_before_the_data_are_gone_is_refused():
    for values, sentence in (
        ({"process__schedule": "linear"}, "0.82 of the data's variance is left"),
        ({"process__schedule": "linear", "process__num_steps": 100, "sampler__num_steps": 0}, "use more steps"),
        ({"process__schedule": "rescaled_linear", "process__num_steps": 20}, r"num_steps=20 is too few for .*rescaled"),
        ({"sampler__spacing": "quadratic"}, r"sampler\.spacing=quadratic still has a share of 0\.\d+ of the data"),
    ):
        with pytest.raises(UserError, match=sentence):
            ddpm.build(changed(ddpm, **values), (source(), source()))


@pytest.mark.parametrize(
    ("name", "spacing"), [("dpm_solver", "log_snr"), ("ddim", "trailing"), ("ancestral", "trailing")]
)
def test_a_sampler_has_the_steps_that_suit_it_unless_others_are_asked_for(name, spacing):
    config = ddpm.get_config()
    config.sampler.name, config.sampler.num_steps = name, 20
    process = _diffusion.make_process(config)
    expected = family.spaced_steps(process, 20, spacing)
    np.testing.assert_array_equal(_diffusion.kept_steps(config, process), expected)
    config.sampler.spacing = "even"
    assert not np.array_equal(_diffusion.kept_steps(config, process), expected)


@pytest.mark.slow
def test_guidance_is_shown_where_the_model_was_trained_without_labels_too():
    experiment = small(changed(guided_diffusion), shape=(8, 8, 1))
    found = experiment.pictures(drawn_state(experiment))
    assert found["guidance"].images.shape == (4, 10, 8, 8, 1)
    assert np.abs(found["guidance"].images[0] - found["guidance"].images[3]).max() > 1e-3


@pytest.mark.parametrize("module", [improved_ddpm, guided_diffusion, noisy_classifier], ids=lambda m: m.__name__)
def test_heads_that_do_not_divide_a_level_are_refused_before_training(module):
    with pytest.raises(UserError, match="a level of 8 channels cannot be cut into heads"):
        module.build(changed(module, model__head_channels=3), (source(), source()))


@pytest.mark.parametrize(
    ("module", "values", "data", "sentence"),
    [
        (ddpm, {"process__rescale_timesteps": True}, {}, "on another process: .*rescale_timesteps"),
        (ddpm, {"process__num_steps": 30}, {}, "on another process: .*num_steps"),
        (ddpm, {"guidance__label": 10}, {}, "There is no class 10"),
        (ddpm, {}, {"shape": (8, 8, 1)}, r"is of images \(28, 28, 1\) and the model's are \(8, 8, 1\)"),
        (guided_diffusion, {"model__num_classes": 5}, {"classes": 5}, "has 10 classes and the model 5"),
    ],
)
def test_a_classifier_must_be_of_the_model_s_process_images_and_classes(
    module, values, data, sentence, loaded_classifier, monkeypatch
):
    monkeypatch.setattr(_guidance.run, "load", lambda path: loaded_classifier)
    guidance = {"guidance__name": "classifier", "guidance__classifier": "there"}
    with pytest.raises(UserError, match=sentence):
        module.build(changed(module, **guidance, **values), (source(**data), source(**data)))


def test_what_is_no_classifier_s_workdir_is_refused(tmp_path, ddpm_run):
    config = changed(ddpm, guidance__name="classifier", guidance__classifier=str(tmp_path))
    with pytest.raises(UserError, match="is not the workdir of a run"):
        ddpm.build(config, (source(), source()))
    config.guidance.classifier = str(ddpm_run)
    with pytest.raises(
        UserError, match=r"is a run of experiments\.ddpm; .* takes one of experiments\.noisy_classifier"
    ):
        ddpm.build(config, (source(), source()))


def test_a_refusal_reaches_the_person_as_one_sentence(tmp_path, capsys):
    for flag, sentence in {"attention_at=(13,)": "never", "channel_mult=(1,2,2,2)": "must divide by 8"}.items():
        with pytest.raises(SystemExit) as stopped:
            cli.main("ddpm", ["--preset=tiny", f"--workdir={tmp_path / 'run'}", f"--config.model.{flag}"])
        assert str(stopped.value.code).startswith("error: ")
        assert (sentence if sentence != "never" else "attention_at has 13") in str(stopped.value.code)
    assert not (tmp_path / "run").exists()


SAMPLERS = ("ancestral", "ddim", "dpm_solver")


def test_one_checkpoint_samples_by_every_sampler(ddpm_run):
    found = {}
    for name in SAMPLERS:
        run = gen_jax.load(ddpm_run, {"sampler.name": name, "sampler.num_steps": 5})
        found[name] = run.sample(seed=3, num=6)
        assert found[name].shape == (6, 28, 28, 1)
        assert np.array_equal(run.sample(seed=3, num=3), found[name][:3]), "sample i depends on the seed and i alone"
        assert not np.array_equal(run.sample(seed=4, num=6), found[name])
    for one, other in (("ancestral", "ddim"), ("ddim", "dpm_solver"), ("ancestral", "dpm_solver")):
        assert np.abs(found[one] - found[other]).max() > 1e-3


def test_the_command_line_samples_by_another_sampler_and_names_the_file_by_it(ddpm_run, capsys):
    flags = ["--config.sampler.name=ancestral", "--config.sampler.num_steps=5"]
    cli.main("ddpm", ["--mode=sample", f"--workdir={ddpm_run}", "--num=4", *flags])
    name = "seed0_num4_sampler.name=ancestral_sampler.num_steps=5"
    printed = capsys.readouterr().out
    assert f"{name}.png" in printed and (ddpm_run / "samples" / f"{name}.png").is_file()
    expected = gen_jax.load(ddpm_run, {"sampler.name": "ancestral", "sampler.num_steps": 5}).sample(num=4)
    assert np.array_equal(np.load(ddpm_run / "samples" / f"{name}.npy"), expected)


def test_the_command_line_refuses_more_steps_than_there_are(ddpm_run):
    with pytest.raises(SystemExit) as stopped:
        cli.main("ddpm", ["--mode=sample", f"--workdir={ddpm_run}", "--config.sampler.num_steps=21"])
    assert "is more than the process has" in str(stopped.value.code)


class Small(nn.Module):
    """A network that sees image, time and label, and compiles at once."""

    num_classes: int = 0
    channels: int = 1

    @nn.compact
    def __call__(self, x, time, label=None, dropout_keys=None):
        h = nn.Dense(8)(x) + nn.Dense(8)(time.astype(x.dtype)[:, None] / 20)[:, None, None]
        if self.num_classes:
            h = h + nn.Embed(self.num_classes + 1, 8)(label)[:, None, None]
        return nn.Dense(self.channels)(nn.swish(h))


class SmallClassifier(nn.Module):
    """A classifier that sees image and time, and compiles at once."""

    num_classes: int = 10

    @nn.compact
    def __call__(self, x, time, dropout_keys=None):
        h = nn.Dense(8)(x.reshape(len(x), -1)) + nn.Dense(8)(time.astype(x.dtype)[:, None] / 20)
        return nn.Dense(self.num_classes, name="out")(nn.swish(h))


def small_classifier(config, shape):
    return SmallClassifier()


def small(config, **data):
    """An experiment as `config` says, but for its network."""
    channels = 2 if config.model.variance == "learned" else 1
    given = source(**data)
    return _image_diffusion.build(config, lambda c, shape: Small(c.model.num_classes, channels), (given, given))


def samples_of(config, count=12, **data):
    experiment = small(config, **data)
    keys = rng.per_example(rng.root(1), jnp.arange(count))
    return np.asarray(jax.jit(experiment.sample)(drawn_state(experiment), keys))


def test_a_single_step_of_every_sampler_is_the_belief_at_the_same_noise():
    images = {name: samples_of(changed(ddpm, sampler__name=name, sampler__num_steps=1)) for name in SAMPLERS}
    for name in SAMPLERS[1:]:
        np.testing.assert_allclose(images[name], images["ancestral"], rtol=0, atol=2e-6)


def test_guidance_by_itself_with_scale_one_is_none_to_the_bit_and_with_another_is_not():
    plain = samples_of(changed(guided_diffusion, guidance__name="none", guidance__scale=1.0))
    assert np.array_equal(samples_of(changed(guided_diffusion, guidance__scale=1.0)), plain)
    weight = {"guidance__convention": "weight", "guidance__scale": 0.0}
    assert np.array_equal(samples_of(changed(guided_diffusion, **weight)), plain)
    assert np.abs(samples_of(changed(guided_diffusion, guidance__scale=3.0)) - plain).max() > 1e-3


def test_a_label_that_is_asked_for_is_everyone_s_and_otherwise_each_has_its_own():
    keys = rng.per_example(rng.root(1), jnp.arange(300))
    config = changed(guided_diffusion)
    own = np.asarray(_guidance.labels_of(config, 10, keys))
    assert set(own) == set(range(10)) and np.bincount(own).max() < 60
    assert np.array_equal(_guidance.labels_of(config, 10, keys[:7]), own[:7])
    config.guidance.label = 7
    assert np.all(np.asarray(_guidance.labels_of(config, 10, keys)) == 7)
    assert _guidance.labels_of(changed(ddpm), 0, keys) is None
    # The samples follow: those whose own label is the one asked for are the same, and no others.
    config = changed(guided_diffusion, guidance__label=int(own[0]))
    same = np.all(samples_of(config) == samples_of(changed(guided_diffusion)), axis=(1, 2, 3))
    assert np.array_equal(same, own[:12] == own[0]) and not same.all()


def guided_samples(classifier, **values):
    """Samples of class 3 of a model without labels, by the ancestral sampler and a classifier."""
    config = changed(ddpm, sampler__name="ancestral", guidance__label=3, guidance__name="classifier", **values)
    diffusion = Diffusion(_diffusion.make_process(config), Small(), config.model.prediction)
    state = drawn_state(small(changed(ddpm)))
    draw = functools.partial(
        _diffusion_pictures.sample,
        config=config,
        diffusion=diffusion,
        shape=(28, 28, 1),
        guided=_guidance.make_guided(config, classifier),
    )
    return np.asarray(jax.jit(draw)(state, rng.per_example(rng.root(1), jnp.arange(4))))


def test_a_classifier_s_gradient_makes_its_label_likelier(loaded_classifier, classifier_run, monkeypatch):
    monkeypatch.setattr(_guidance.run, "load", lambda path: loaded_classifier)
    monkeypatch.setattr(_guidance, "build_classifier", small_classifier)
    asked = {"guidance__name": "classifier", "guidance__classifier": str(classifier_run), "guidance__label": 3}
    config = changed(ddpm, sampler__name="ancestral", guidance__scale=5.0, **asked)
    classifier = _guidance.load_classifier(config, (28, 28, 1))
    assert classifier.num_classes == 10

    @jax.jit
    def likelihood(images):
        label = jnp.full(len(images), 3)
        return jnp.mean(classifier.log_prob(2 * images - 1, jnp.zeros(len(images), jnp.int32), label))

    plain = samples_of(changed(ddpm, sampler__name="ancestral"), count=4)
    # A scale of 0 is no guidance, but another program: each of the 20 steps may round another way, half an ulp of 1.
    np.testing.assert_allclose(guided_samples(classifier, guidance__scale=0.0), plain, rtol=0, atol=20 * 2.0**-24)
    published = guided_samples(classifier, guidance__scale=5.0)
    assert np.array_equal(samples_of(config, count=4), published), "the experiment is wired like this"
    derived = guided_samples(classifier, guidance__scale=5.0, guidance__at_point="mean")
    values = [float(likelihood(images)) for images in (plain, published, derived)]
    assert min(values[1:]) > values[0] + 0.1, values
    assert not np.array_equal(published, derived)


PICTURES = {"samples", "chain", "x0_predictions", "denoising", "loss_by_step", "bits_by_step"}


def test_pictures_of_images_show_the_chain_the_film_and_the_losses():
    experiment = small(changed(ddpm, sampler__num_steps=4), count=40)
    found = experiment.pictures(drawn_state(experiment))
    assert set(found) == PICTURES | {"inpainting"}
    inpainting = found["inpainting"].images
    assert inpainting.shape == (5, 8, 28, 28, 1)
    for filled in inpainting[2:]:
        np.testing.assert_allclose(filled[:, :14], inpainting[0, :, :14], atol=1e-6, err_msg="the known half stays")
    assert np.all(inpainting[1, :, 14:] == 0) and np.abs(inpainting[2] - inpainting[3]).max() > 0.1
    assert found["samples"].images.shape == (10, 10, 28, 28, 1)
    for name in ("chain", "x0_predictions"):
        assert found[name].images.shape == (6, 4, 28, 28, 1), "six samples, each after every step"
        assert found[name].images.min() >= 0 and found[name].images.max() <= 1
    frames = found["denoising"].frames
    assert len(frames) == 4
    assert {grid.images.shape for frame in frames for grid in frame.panels} == {(3, 3, 28, 28, 1)}
    # What the first sample is after the last step stands at the end of the strip and of the film.
    last = found["chain"].images[0, -1]
    assert np.array_equal(frames[-1].panels[0].images[0, 0], last)
    for name in ("loss_by_step", "bits_by_step"):
        ((steps, values),) = found[name].lines.values()
        assert np.all(np.asarray(values) > 0) and np.array_equal(steps, np.arange(20))


@pytest.mark.parametrize("num_steps", [1, 2, 20, 1000, 4000])
def test_the_curves_go_over_the_whole_process(num_steps):
    steps = pictures.curve_steps(num_steps)
    assert steps[0] == 0 and steps[-1] == num_steps - 1 and np.all(np.diff(steps) > 0)
    assert len(steps) == num_steps if num_steps <= 20 else 20 < len(steps) <= 64


def test_the_paper_s_network_and_recipe_for_cifar10():
    config = ddpm.get_config("cifar10")
    config.eval.num_samples = 0
    given = source((32, 32, 3))
    experiment = ddpm.build(config, (given, given))
    state = jax.eval_shape(experiment.init, rng.root(0))
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state.params)) == 35_746_307
    facts = {
        "optim.name": "adam",
        "optim.learning_rate": 2e-4,
        "optim.warmup": "5000 steps",
        "optim.schedule": "constant",
        "optim.clip_norm": 1.0,
        "train.ema_decay": 0.9999,
        "train.ema_ramp_up": 0.0,
        "train.ema_half_life": "",
        "train.batch_size": 128,
        "train.duration": "800000 steps",
        "model.dropout": 0.1,
        "model.prediction": "epsilon",
        "model.variance": "fixed_large",
        "objective.loss": "simple",
        "objective.weighting": "none",
        "objective.steps": "uniform",
        "objective.flip": True,
        "process.schedule": "linear",
        "process.num_steps": 1000,
        "sampler.name": "ancestral",
        "sampler.num_steps": 0,
        "sampler.clip": True,
    }
    assert {key: gen_jax.config.get(config, key) for key in facts} == facts
    assert len(family.samplers.ancestral(_diffusion.make_process(config), lambda x, t: x).steps) == 1000
