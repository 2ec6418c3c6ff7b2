"""What the adversarial games on images share: their config, the two players, and the pictures."""

from __future__ import annotations

import functools
from collections.abc import Callable

from ml_collections import ConfigDict

from experiments import _game, _images
from gen_jax import config as config_lib
from gen_jax.contracts import Experiment, Picture, Source
from gen_jax.families.gan import evaluation, models, objectives, pictures
from gen_jax.train.state import TrainState


def base_config(experiment: str, preset: str) -> ConfigDict:
    """The sections that the games on images share.

    Args:
      experiment: the module's name.
      preset: the preset's.

    Returns:
      The config, unlocked.
    """
    config = config_lib.base_config()
    config.experiment = experiment
    config.preset = preset
    config.data.name = "fashion_mnist_10k"

    config.model = ConfigDict()
    config.model.latent_dim = 100
    config.model.latent = "normal"  # normal | uniform
    config.model.num_classes = 0  # Above 0 both players are told the label of each image.
    config.model.conditioning = "projection"  # projection | embedding: how the discriminator is told.
    _game.add_keys(config)

    _images.add_judge_keys(config)
    config.eval.parzen = False  # Whether to measure the Parzen-window likelihood of the first papers as well.
    return config


def base_rules() -> dict[str, config_lib.Rule]:
    """What the keys of `base_config` must satisfy."""
    return (
        config_lib.base_rules()
        | _game.rules()
        | _images.judge_rules()
        | {
            "model.latent_dim": config_lib.at_least(1),
            "model.latent": config_lib.one_of(*objectives.LATENTS),
            "model.num_classes": config_lib.at_least(0),
            "model.conditioning": config_lib.one_of(*models.CONDITIONINGS),
        }
    )


def check(config: ConfigDict, rules: dict[str, config_lib.Rule]) -> None:
    """Checks a config's values.

    Args:
      config: the resolved config.
      rules: beyond those of `base_rules`.

    Raises:
      UserError: for the first value out of range, and for keys that do not go together.
    """
    config_lib.check(config, base_rules() | rules)
    config_lib.check_optimizer(config)
    _game.check(config)


def build(
    config: ConfigDict,
    build_networks: Callable[[ConfigDict, tuple[int, ...]], objectives.Networks],
    sources: tuple[Source, Source] | None,
) -> Experiment:
    """Wires a game on images: source -> networks -> players -> step -> evaluation -> pictures.

    Args:
      config: the resolved config, checked.
      build_networks: of the config and the shape of an image (H, W, C).
      sources: the training and test sources; None to find them by `config.data`.

    Returns:
      The experiment.

    Raises:
      UserError: where the networks, the penalty and the data do not go together, or the network by whose features
        samples are to be judged cannot be read.
    """
    train_source, test_source = _images.labelled_sources_of(config, sources)
    loss, shape = config.objective.loss, train_source.example_shape
    networks = build_networks(config, shape)
    turns = _game.players(config, networks, train_source.num_examples)

    sample = functools.partial(_game.sample, networks=networks)
    judge = _images.judge_of(config, sample, (train_source, test_source), fresh=sources is None)

    def draw(state: TrainState) -> dict[str, Picture]:
        players = state.eval_params, state.model_state
        return pictures.image_pictures(*players, state.key, _images.images_of(train_source), networks=networks)

    return Experiment(
        train_source=train_source,
        test_source=test_source,
        init=functools.partial(
            _game.init_state, networks=networks, turns=turns, example_shape=shape, ema=_game.has_ema(config)
        ),
        train_step=_game.train_step(config, turns, train_source.num_examples),
        eval_step=_game.eval_step(networks=networks, loss=loss),
        report=evaluation.report,
        assess=judge.assess,
        sample=sample,
        pictures=draw,
        settle=functools.partial(_game.settle, networks=networks),
        frame=lambda state: pictures.image_frame(state.eval_params, state.model_state, state.key, networks=networks),
        warnings=objectives.warnings_of(loss),
        headline=(*judge.headline, "parzen_nats", "discriminator_loss"),
        steps_per_call=config.train.steps_per_call,
    )
