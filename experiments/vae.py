"""The variational autoencoder of Kingma and Welling (2014) on images.

Command: python -m experiments.vae --workdir=runs/vae
Expected: test ELBO -241.8 nats, 0.445 bits/dim of binary pixels, after 80 epochs
Time: 70 s of training on two CPU cores

Presets (--preset=...):
  default  the paper's MLP, 784-500-20, on the 10,000 + 1,000 images of Fashion-MNIST that come with the package
  conv     convolutional encoder and decoder, the same images
  two_d    a two-dimensional code: its manifold and the encoded test set
  full     the MLP on all of Fashion-MNIST (apt install dataset-fashion-mnist, or files in --data_dir)
  tiny     seconds; for tests
"""

from __future__ import annotations

import functools

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from experiments import _images
from gen_jax import cli, rng
from gen_jax import config as config_lib
from gen_jax.contracts import Experiment, Key, Picture, Source, UserError
from gen_jax.families.vae import evaluation, models, objectives, pictures, sampling
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
    config.experiment = "vae"
    config.preset = preset
    config.data.name = "fashion_mnist_10k"
    config.data.binarization = "dynamic"  # dynamic | threshold | none; for the Bernoulli likelihood.

    config.model = ConfigDict()
    config.model.network = "mlp"  # mlp | conv
    config.model.latent_dim = 20
    config.model.hidden = (500,)  # mlp: the width of each hidden layer, from the image inwards.
    config.model.channels = (32, 64)  # conv: of each stage that halves the image.
    config.model.dense = 256  # conv: the width of the fully connected layer.
    config.model.activation = "tanh"  # tanh | relu | gelu
    config.model.dropout = 0.0
    config.model.likelihood = "bernoulli"  # bernoulli | gaussian | discretized_logistic
    config.model.variance = "pixel"  # gaussian: fixed | scalar | pixel
    config.model.fixed_std = 0.1  # gaussian with variance=fixed.

    config.objective = ConfigDict()
    config.objective.bound = "elbo"  # elbo | elbo_monte_carlo | iwae
    config.objective.num_samples = 1  # L of the ELBO, k of the IWAE bound.
    config.objective.beta = 1.0
    config.objective.kl_warmup = "0 steps"

    config.eval.importance_samples = 5000  # k of --mode=eval.
    config.eval.importance_chunk = 100  # How many of them are decoded at once.

    config.optim.learning_rate = 2e-3
    config.optim.schedule = "cosine"
    config.train.duration = "80 epochs"
    config.train.steps_per_call = 10
    config.train.eval_every = config.train.checkpoint_every = "10 epochs"
    return config_lib.apply_preset(config, _PRESETS)


def _conv(config: ConfigDict) -> None:
    config.optim.learning_rate = 1e-3
    config.model.network = "conv"
    config.model.activation = "relu"
    config.train.steps_per_call = 1  # XLA's CPU backend runs convolutions inside a scan on one core, many times slower.
    config.train.duration = "30 epochs"
    config.train.eval_every = config.train.checkpoint_every = "10 epochs"


def _two_d(config: ConfigDict) -> None:
    config.optim.learning_rate = 4e-3  # Moving the codes about the origin is slow: encoder and decoder must agree.
    config.model.latent_dim = 2


def _full(config: ConfigDict) -> None:
    config.data.name = "fashion_mnist"
    config.optim.learning_rate = 1e-3
    config.train.duration = "30 epochs"
    config.train.eval_every = config.train.checkpoint_every = "5 epochs"


def _tiny(config: ConfigDict) -> None:
    config.optim.learning_rate = 5e-3
    config.model.latent_dim = 2
    config.model.hidden = (32,)
    config.model.dropout = 0.1
    config.train.batch_size = 64
    config.train.duration = "40 steps"
    config.train.steps_per_call = 2
    config.train.log_every = "10 steps"
    config.train.eval_every = config.train.checkpoint_every = "20 steps"
    config.train.ema_decay = 0.9
    config.eval.importance_samples = 20
    config.eval.importance_chunk = 10
    config.eval.sample_chunk = 16


_PRESETS = {"default": lambda config: None, "conv": _conv, "two_d": _two_d, "full": _full, "tiny": _tiny}


def validate(config: ConfigDict) -> None:
    """Checks a config's values; `build` checks what also depends on the data.

    Args:
      config: the resolved config.

    Raises:
      UserError: for the first value out of range.
    """
    rules = config_lib.base_rules() | {
        "data.binarization": config_lib.one_of(*objectives.BINARIZATIONS),
        "model.network": config_lib.one_of("mlp", "conv"),
        "model.latent_dim": config_lib.at_least(1),
        "model.dense": config_lib.at_least(1),
        "model.activation": config_lib.one_of("tanh", "relu", "gelu"),
        "model.dropout": config_lib.between(0.0, 1.0),
        "model.likelihood": config_lib.one_of(*models.LIKELIHOODS),
        "model.variance": config_lib.one_of(*models.VARIANCES),
        "model.fixed_std": config_lib.positive,
        "model.hidden": config_lib.each(config_lib.at_least(1)),
        "model.channels": config_lib.each(config_lib.at_least(1)),
        "objective.bound": config_lib.one_of(*objectives.BOUNDS),
        "objective.num_samples": config_lib.at_least(1),
        "objective.beta": config_lib.at_least(0.0),
        "objective.kl_warmup": config_lib.duration,
        "eval.importance_samples": config_lib.at_least(1),
        "eval.importance_chunk": config_lib.at_least(1),
    }
    config_lib.check(config, rules)
    config_lib.check_optimizer(config)
    objective = config.objective
    warmed_up = config_lib.steps_in(objective.kl_warmup, 1, 1) > 0
    if objective.bound == "iwae" and (objective.beta != 1.0 or warmed_up):
        raise UserError(
            "config.objective.bound=iwae has no weighted divergence; set config.objective.beta=1 and "
            "config.objective.kl_warmup='0 steps', or another bound."
        )
    if config.eval.importance_samples % config.eval.importance_chunk:
        raise UserError(
            f"config.eval.importance_chunk={config.eval.importance_chunk} does not divide "
            f"config.eval.importance_samples={config.eval.importance_samples}; choose a divisor."
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
    train_source, test_source = _images.sources_of(config, sources)
    model = build_model(config, train_source.example_shape)

    def steps(duration: str) -> int:
        return config_lib.steps_in(duration, config.train.batch_size, train_source.num_examples)

    objective = functools.partial(
        objectives.objective,
        model=model,
        bound=config.objective.bound,
        num_samples=config.objective.num_samples,
        binarization=config.data.binarization,
        beta=config.objective.beta,
        kl_warmup_steps=steps(config.objective.kl_warmup),
    )
    options = step_options(config, train_source.num_examples)

    def init(key: Key) -> TrainState:
        params = model.init(rng.stream(key, "init"), jnp.zeros((1, *train_source.example_shape)))["params"]
        return init_state(params, options["tx"], key, ema=options["ema"] is not None)

    tested = {
        "model": model,
        "binarization": config.data.binarization,
        "num_samples": config.objective.num_samples if config.objective.bound == "iwae" else 1,
    }
    importance = {
        "importance_samples": config.eval.importance_samples,
        "importance_chunk": config.eval.importance_chunk,
    }

    def draw(state: TrainState) -> dict[str, Picture]:
        test_set = _images.whole_set(test_source)
        binarization = config.data.binarization
        return pictures.image_pictures(state.eval_params, state.key, *test_set, model=model, binarization=binarization)

    num_dims = int(np.prod(train_source.example_shape))
    return Experiment(
        train_source=train_source,
        test_source=test_source,
        init=init,
        train_step=make_train_step(objective, **options),
        eval_step=make_eval_step(functools.partial(evaluation.bound_values, **tested)),
        likelihood_step=make_eval_step(functools.partial(evaluation.likelihood_values, **tested, **importance)),
        report=functools.partial(evaluation.report, num_dims=num_dims, exact=is_likelihood(config)),
        sample=lambda state, keys: sampling.sample_prior(state.eval_params, keys, model=model),
        pictures=draw,
        headline=("elbo_nats", "score_nats", "iwae_nats", "bits_per_dim", "active_units"),
        steps_per_call=config.train.steps_per_call,
    )


def build_model(config: ConfigDict, image_shape: tuple[int, ...]) -> models.VAE:
    """The VAE of a config for images of a shape (H, W, C).

    Raises:
      UserError: where the network cannot take images of that size.
    """
    height, width, channels = image_shape
    m = config.model
    output_shape = (height, width, channels * models.outputs_per_channel(m.likelihood, m.variance))
    activation = {"tanh": nn.tanh, "relu": nn.relu, "gelu": nn.gelu}[m.activation]
    encoder: nn.Module
    decoder: nn.Module
    if m.network == "mlp":
        encoder = models.MLPEncoder(m.latent_dim, tuple(m.hidden), activation, m.dropout)
        decoder = models.MLPDecoder(output_shape, tuple(reversed(m.hidden)), activation, m.dropout)
    else:
        _images.check_stages(config, image_shape, "VAE")
        encoder = models.ConvEncoder(m.latent_dim, tuple(m.channels), m.dense, activation, m.dropout)
        decoder = models.ConvDecoder(output_shape, tuple(m.channels), m.dense, activation, m.dropout)
    return models.VAE(encoder, decoder, m.likelihood, m.variance, m.fixed_std)


def is_likelihood(config: ConfigDict) -> bool:
    """Whether the bound bounds the log-probability of data, so that bits/dim mean something."""
    return config.model.likelihood != "bernoulli" or config.data.binarization != "none"


if __name__ == "__main__":
    cli.main("vae")
