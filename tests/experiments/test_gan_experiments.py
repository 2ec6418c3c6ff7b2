"""The adversarial experiments: what their configs refuse, what their steps do, and what their runs say."""

from __future__ import annotations

import functools
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import _game, _images, _point_gan, dcgan, gan, gan_ring, unrolled_gan, wgan_gp
from gen_jax import cli, rng
from gen_jax.contracts import UserError
from gen_jax.families.gan import sampling

IMAGES = (gan, dcgan, wgan_gp)
ALL = (*IMAGES, gan_ring, unrolled_gan)


def changed(module, preset="tiny", **values):
    config = module.get_config(preset)
    with config.unlocked():
        for key, value in values.items():
            section, name = key.split("__")
            config[section][name] = value
    return config


@pytest.mark.parametrize("module", ALL, ids=lambda m: m.__name__)
def test_every_preset_is_valid_and_another_is_refused(module):
    for preset in module._PRESETS:
        module.validate(module.get_config(preset))
        assert preset in module.__doc__
    with pytest.raises(UserError, match="did you mean tiny"):
        module.get_config("tinny")


@pytest.mark.parametrize(
    ("module", "values", "sentence"),
    [
        (gan, {"objective__loss": "wasserstien"}, "did you mean wasserstein"),
        (gan, {"objective__loss": "hinge", "objective__real_label": 0.9}, "no effect with config.objective.loss=hinge"),
        (gan, {"objective__penalty_every": 4}, "choose a penalty"),
        (gan, {"game__discriminator_updates": 3}, "make it a multiple"),
        (gan, {"model__dropout": 1.0}, "below 1.0"),
        (gan, {"model__latent": "cauchy"}, "normal, uniform"),
        (dcgan, {"model__kernel_size": 1}, "at least 2"),
        (dcgan, {"model__conditioning": "concat"}, "projection, embedding"),
        (wgan_gp, {"model__network": "unet"}, "dcgan, resnet"),
        (gan_ring, {"data__name": "rings"}, "did you mean ring"),
        (gan_ring, {"data__std": 0.0}, "above 0"),
        (unrolled_gan, {"game__unrolled_steps": -1}, "at least 0"),
        (unrolled_gan, {"objective__loss": "wasserstein"}, "one of minimax"),
        (unrolled_gan, {"train__precision": "bfloat16"}, "looks ahead at"),
        (gan_ring, {"data__num_test": 3}, "at least 4"),
        (gan_ring, {"data__num_test": 10}, "no mode could be covered"),
        (
            gan_ring,
            {"objective__loss": "wasserstein", "objective__penalty": "none"},
            "nothing bounds the critic's slope",
        ),
        (gan_ring, {"game__clip_weights": 0.1}, "without a penalty"),
        (dcgan, {"objective__loss": "hinge", "game__clip_weights": 0.1}, "for config.objective.loss=wasserstein"),
        (dcgan, {"eval__num_samples": 5}, "0, or at least 20"),
    ],
)
def test_what_a_config_refuses(module, values, sentence):
    with pytest.raises(UserError, match=sentence):
        module.validate(changed(module, **values))


@pytest.mark.parametrize(
    ("module", "values"),
    [
        (dcgan, {"objective__penalty": "gradient"}),
        (dcgan, {"objective__penalty": "r1"}),
        (wgan_gp, {"model__discriminator_norm": "batch"}),
    ],
)
def test_batch_norm_and_a_penalty_on_the_slope_are_refused_with_the_reason(module, values):
    with pytest.raises(UserError, match="each output depends on the whole batch"):
        module.build(changed(module, **values))


@pytest.mark.parametrize("classes", [5, 12])
def test_labels_must_fit_the_number_of_classes(classes):
    with pytest.raises(UserError, match=rf"num_classes={classes} does not fit the labels .* 0 to 9"):
        dcgan.build(changed(dcgan, model__num_classes=classes))


def test_every_option_reaches_its_player():
    """None of the options is left at its default on the way."""
    values = {"loss": "least_squares", "penalty": "r1", "penalty_weight": 3.0, "penalty_every": 4}
    config = changed(
        gan, game__discriminator_updates=2, **{f"objective__{key}": value for key, value in values.items()}
    )
    networks = gan.build_networks(config, (28, 28, 1))
    discriminator, generator = _game.players(config, networks, 1000)
    assert values.items() <= discriminator.objective.keywords.items()
    assert generator.objective.keywords["loss"] == "least_squares"
    assert (discriminator.updates, discriminator.parts, generator.updates, generator.parts) == (2, None, 1, 2)
    softened, _ = _game.players(changed(gan, objective__real_label=0.9), networks, 1000)
    assert softened.objective.keywords["real_label"] == 0.9

    config = changed(unrolled_gan, objective__loss="hinge", game__unrolled_steps=3, optim__clip_norm=0.5)
    networks = _point_gan.networks_of(config)
    generator, discriminator = unrolled_gan.players(config, networks, 1000)
    assert generator.objective.keywords["loss"] == discriminator.objective.keywords["loss"] == "hinge"
    assert generator.objective.keywords["num_steps"] == 3
    # The updates that are looked ahead at are clipped like the real ones: one optimiser for both.
    assert generator.objective.keywords["tx"] is discriminator.tx and discriminator.clip_norm == 0


def test_the_unrolled_game_s_discriminator_has_its_rate_and_its_clipping():
    config = changed(unrolled_gan, game__discriminator_rate=0.25, optim__clip_norm=1e-4, optim__name="sgd")
    _, discriminator = unrolled_gan.players(config, _point_gan.networks_of(config), 1000)
    gradient = jnp.array([3.0, 4.0])
    update, _ = discriminator.tx.update(gradient, discriminator.tx.init(gradient), gradient)
    expected = -0.25 * config.optim.learning_rate * 1e-4 * np.array([0.6, 0.8])
    np.testing.assert_allclose(update, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("module", "values", "attributes"),
    [
        (gan, {"num_classes": 10, "conditioning": "embedding", "maxout_pieces": 2, "dropout": 0.25,
               "input_dropout": 0.1},
         {"num_classes": 10, "conditioning": "embedding", "maxout_pieces": 2, "dropout": 0.25,
          "input_dropout": 0.1}),
        (gan, {"spectral": True}, {"spectral": True}),
        (dcgan, {"num_classes": 10, "conditioning": "embedding", "kernel_size": 5, "channels": 3,
                 "discriminator_norm": "layer", "spectral": True},
         {"num_classes": 10, "conditioning": "embedding", "kernel_size": 5, "channels": 3, "norm": "layer",
          "spectral": True}),
        (wgan_gp, {"num_classes": 10, "conditioning": "embedding", "channels": 3, "discriminator_norm": "layer"},
         {"num_classes": 10, "conditioning": "embedding", "channels": 3, "norm": "layer"}),
        (wgan_gp, {"network": "resnet", "num_classes": 10, "channels": 3}, {"num_classes": 10, "channels": 3}),
    ],
)  # fmt: skip
def test_every_option_reaches_the_networks(module, values, attributes):
    config = changed(module, **{f"model__{key}": value for key, value in values.items()}, model__latent="uniform")
    networks = module.build_networks(config, (28, 28, 1))
    assert {name: getattr(networks.discriminator, name) for name in attributes} == attributes
    assert networks.latent == "uniform" and networks.generator.latent_dim == config.model.latent_dim
    assert networks.generator.num_classes == config.model.num_classes


def test_samples_are_of_the_average():
    """With an average of zeros every sample of the tiny generator is that of zero weights, whatever the last step's."""
    experiment = gan_ring.build(changed(gan_ring))
    state = jax.jit(experiment.init)(rng.root(0))
    nothing = state.replace(ema_params=jax.tree.map(np.zeros_like, state.params))
    keys = rng.per_example(rng.root(1), jnp.arange(4))
    assert np.all(np.asarray(jax.jit(experiment.sample)(nothing, keys)) == 0)


def largest_differences(one, other):
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return [float(np.abs(np.asarray(a) - np.asarray(b)).max()) for a, b in pairs]


def test_an_average_has_its_own_statistics():
    """A settled state's statistics are of `ema_params`, whatever those of the last step are; and once is enough."""
    experiment = gan.build(changed(gan))
    state = jax.jit(experiment.init)(rng.root(0))
    state = state.replace(ema_params=jax.tree.map(lambda a: np.float32(0.5) * np.asarray(a), state.params))
    networks = gan.build_networks(changed(gan), (28, 28, 1))
    settle_statistics = jax.jit(functools.partial(sampling.settle_statistics, networks=networks))
    settled = jax.jit(experiment.settle)(state)
    expected = settle_statistics(state.ema_params, state.model_state, state.key)
    other = settle_statistics(state.params, state.model_state, state.key)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), settled.model_state, expected)
    assert max(largest_differences(settled.model_state, other)) > 0.01
    again = jax.jit(experiment.settle)(settled)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), again.model_state, settled.model_state
    )
    same = (
        jax.tree.map(np.array_equal, getattr(settled, part), getattr(state, part)) for part in ("params", "ema_params")
    )
    assert all(jax.tree.all(part) for part in same)
    points = jax.jit(gan_ring.build(changed(gan_ring)).init)(rng.root(0))
    plain = _game.settle(points, networks=_point_gan.networks_of(changed(gan_ring)))
    assert plain.model_state is points.model_state, "without batch normalisation there is nothing to settle"


def test_judged_images_are_of_all_classes_though_the_set_is_ordered():
    class Ordered:
        def whole(self):
            return self

        def evaluation(self):
            for start in range(0, 600, 60):
                image = np.full((60, 2, 2, 1), start // 60, np.uint8)
                yield {"image": image, "label": np.zeros(60, np.int32), "mask": np.ones(60, np.float32)}

    images = _images.images_of(Ordered(), 120)
    assert images.shape == (120, 2, 2, 1)
    assert len(np.unique(images)) == 10
    assert np.array_equal(images, _images.images_of(Ordered(), 120))
    assert len(_images.images_of(Ordered())) == 600


def test_a_run_whose_judge_is_gone_still_samples(tmp_path):
    config = changed(gan)
    config.eval.features = str(tmp_path / "gone")
    with pytest.raises(UserError, match="There is no"):
        gan.build(config)
    here = gan.build(changed(gan))
    there = gan.build(config, (here.train_source, here.test_source))
    keys = rng.per_example(rng.root(1), jnp.arange(4))
    state = jax.jit(there.init)(rng.root(0))
    assert jax.jit(there.sample)(state, keys).shape == (4, 28, 28, 1)
    with pytest.raises(UserError, match="There is no"):
        there.assess(state)


def test_the_refusal_reaches_the_person_as_one_sentence(tmp_path):
    flags = ["--preset=tiny", f"--workdir={tmp_path / 'run'}", "--config.model.discriminator_norm=batch"]
    with pytest.raises(SystemExit) as stopped:
        cli.main("wgan_gp", flags)
    message = stopped.value.code
    assert message.startswith("error: ") and "\n" not in message
    assert "batch normalisation each output depends on the whole batch" in message


def round_of(module, **values):
    experiment = module.build(changed(module, train__steps_per_call=1, **values))
    state = jax.jit(experiment.init)(rng.root(0))
    after, metrics = jax.jit(experiment.train_step)(state, experiment.train_source.batch(0))
    return state, after, metrics


def test_weights_are_clipped_after_every_update_of_the_critic():
    state, after, _ = round_of(
        gan_ring, objective__loss="wasserstein", objective__penalty="none", game__clip_weights=0.05
    )

    def largest(params):
        return max(float(np.abs(w).max()) for w in jax.tree.leaves(jax.device_get(params)))

    assert largest(after.params["discriminator"]) == pytest.approx(0.05)
    assert largest(state.params["discriminator"]) > 0.1
    assert largest(after.params["generator"]) > 0.1


def test_each_player_counts_its_own_updates_and_has_its_own_rate():
    narrow = {"model__generator_hidden": (8,), "model__discriminator_hidden": (8,), "game__discriminator_rate": 0.5}
    state, after, _ = round_of(gan_ring, game__discriminator_updates=2, **narrow)
    counts = {name: int(after.opt_state[name][0].count) for name in ("discriminator", "generator")}
    assert counts == {"discriminator": 2, "generator": 1}
    # Adam's first update has the size of the learning rate in every weight whose gradient is not tiny.
    state, after, _ = round_of(gan_ring, game__discriminator_updates=1, **narrow)
    moved = {name: max(largest_differences(after.params[name], state.params[name])) for name in counts}
    assert moved["generator"] == pytest.approx(1e-3, rel=1e-2)
    assert moved["discriminator"] == pytest.approx(5e-4, rel=1e-2)


def test_the_discriminator_s_batch_statistics_change_in_its_turn_alone():
    state, after, _ = round_of(dcgan)
    for name in ("generator", "discriminator"):
        moved = largest_differences(after.model_state[name], state.model_state[name])
        assert moved and min(moved) > 0
    real = after.model_state["discriminator"]["batch_stats"]
    assert jax.tree.structure(real) == jax.tree.structure(state.model_state["discriminator"]["batch_stats"])


def test_a_run_says_what_its_numbers_are_of(tmp_path, capsys, monkeypatch):
    """A whole tiny run: every distance names its extractor, and says that 200 examples are too few."""
    few = functools.partial(_images.features.judge, num_resamples=5)
    monkeypatch.setattr(_images.features, "judge", few)
    cli.main("gan", ["--preset=tiny", f"--workdir={tmp_path / 'run'}", "--config.train.eval_every=40 steps"])
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    name = "frechet_distance_fashion_mnist_10k_classifier"
    assert name in capsys.readouterr().out and results[f"{name}_low"] < results[name] < results[f"{name}_high"]
    assert results["too_few_examples_fashion_mnist_10k_classifier"] == 1.0
    assert not any(key.startswith(("fid", "frechet_distance_inception")) for key in results)
    drawn = {path.name for path in (tmp_path / "run" / "pictures").iterdir()}
    wanted = {"samples.png", "interpolation.png", "neighbours.png", "classes.png", "training.png", "training.mp4"}
    assert wanted <= drawn
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    trained = [row for row in rows if row["split"] == "train"]
    for key in ("discriminator/warning_loss_near_zero", "generator/warning_collapsed", "generator/diversity"):
        assert all(key in row for row in trained)


@pytest.mark.slow
@pytest.mark.parametrize("steps", [0, 5])
def test_looking_ahead_keeps_the_modes_that_the_plain_game_loses(steps, tmp_path):
    """The README's ring, shortened: 3,000 of 10,000 rounds, one seed, and 0.5 instead of 0.2 from a centre."""
    command = [sys.executable, "-m", "experiments.unrolled_gan", f"--workdir={tmp_path / 'run'}"]
    flags = {"seed": 1, "game.unrolled_steps": steps, "train.duration": "3000 steps", "eval.mode_radius": 25.0}
    arguments = [f"--config.{key}={value}" for key, value in flags.items()]
    subprocess.run([*command, *arguments], capture_output=True, check=True)
    covered = json.loads((tmp_path / "run" / "results.json").read_text())["modes_covered"]
    assert covered <= 2 if steps == 0 else covered == 8
