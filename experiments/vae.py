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
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from gen_jax import cli, rng
from gen_jax import config as config_lib
from gen_jax.contracts import Experiment, Grid, Picture, Scatter, Source, UserError
from gen_jax.data import ImageBatches, load_images
from gen_jax.families.vae import losses, models, sampling
from gen_jax.nn.precision import apply_in_param_dtype
from gen_jax.ops import distributions
from gen_jax.train.optimizer import make_optimizer, make_schedule
from gen_jax.train.state import TrainState, init_state
from gen_jax.train.step import Ema, make_train_step, masked_sums

ACTIVE_UNIT_VARIANCE = (
    0.01  # IWAE, Section 5.2: a unit u is active where Var_x(E_q[u|x]) is larger, here over the test set.
)


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
    _PRESETS.get(preset, _unknown_preset)(config)
    return config


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


def _unknown_preset(config: ConfigDict) -> None:
    near = config_lib.suggestion(config.preset, _PRESETS)
    raise UserError(f"vae has no preset '{config.preset}'{near}; expected one of {', '.join(_PRESETS)}.")


_PRESETS = {"default": lambda config: None, "conv": _conv, "two_d": _two_d, "full": _full, "tiny": _tiny}


def validate(config: ConfigDict) -> None:
    """Checks a config's values; `build` checks what also depends on the data.

    Args:
      config: the resolved config.

    Raises:
      UserError: for the first value out of range.
    """
    rules = config_lib.base_rules() | {
        "data.binarization": config_lib.one_of(*losses.BINARIZATIONS),
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
        "objective.bound": config_lib.one_of(*losses.BOUNDS),
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
    train_source, test_source = sources or open_sources(config)
    model = build_model(config, train_source.example_shape)

    def steps(duration: str) -> int:
        return config_lib.steps_in(duration, config.train.batch_size, train_source.num_examples)

    objective = functools.partial(
        losses.objective,
        model=model,
        bound=config.objective.bound,
        num_samples=config.objective.num_samples,
        binarization=config.data.binarization,
        beta=config.objective.beta,
        kl_warmup_steps=steps(config.objective.kl_warmup),
    )
    optim = config.optim
    schedule = make_schedule(
        optim.schedule,
        optim.learning_rate,
        steps(optim.warmup),
        config_lib.interval(config.train.duration, config, train_source.num_examples),
    )
    tx = make_optimizer(
        optim.name,
        schedule,
        b1=optim.b1,
        b2=optim.b2,
        eps=optim.eps,
        weight_decay=optim.weight_decay,
        momentum=optim.momentum,
    )
    ema = Ema.from_durations(
        config.train.ema_decay,
        config.train.ema_half_life and steps(config.train.ema_half_life),
        config.train.ema_ramp_up,
    )

    def init(key: Any) -> TrainState:
        params = model.init(rng.stream(key, "init"), jnp.zeros((1, *train_source.example_shape)))["params"]
        return init_state(params, tx, key, ema=ema is not None)

    train_step = make_train_step(
        objective,
        tx,
        clip_norm=optim.clip_norm,
        ema=ema,
        compute_dtype=jnp.dtype(config.train.precision),
        steps_per_call=config.train.steps_per_call,
    )
    evaluation = {
        "model": model,
        "binarization": config.data.binarization,
        "num_samples": config.objective.num_samples if config.objective.bound == "iwae" else 1,
    }
    importance = {
        "importance_samples": config.eval.importance_samples,
        "importance_chunk": config.eval.importance_chunk,
    }
    shown = {"model": model, "test_source": test_source, "binarization": config.data.binarization}
    num_dims = int(np.prod(train_source.example_shape))
    return Experiment(
        train_source=train_source,
        test_source=test_source,
        init=init,
        train_step=train_step,
        eval_step=functools.partial(eval_step, **evaluation),
        likelihood_step=functools.partial(likelihood_step, **evaluation, **importance),
        report=functools.partial(report, num_dims=num_dims, exact=is_likelihood(config)),
        sample=lambda state, keys: sampling.sample_prior(state.eval_params, keys, model=model),
        pictures=functools.partial(pictures, **shown),
        headline=("elbo_nats", "score_nats", "iwae_nats", "bits_per_dim", "active_units"),
        steps_per_call=config.train.steps_per_call,
    )


def open_sources(config: ConfigDict) -> tuple[Source, Source]:
    """The training and test batches that a config names; each process gets its part."""
    train, test = (load_images(config.data.name, split, config.data.dir or None) for split in ("train", "test"))
    if train.images.shape[1:] != test.images.shape[1:]:
        raise UserError(
            f"The training images of {config.data.name} are {train.images.shape[1:]} and its test images "
            f"{test.images.shape[1:]}; bring them to one size."
        )
    make = functools.partial(
        ImageBatches.of,
        batch_size=config.train.batch_size,
        evaluation_batch_size=config.eval.batch_size,
        seed=config.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    return make(train), make(test)


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
        shrink = 2 ** len(m.channels)
        if height % shrink or width % shrink or not m.channels:
            raise UserError(
                f"The convolutional VAE of {len(m.channels)} stages takes images whose sides divide by {shrink}, not "
                f"{height}x{width}; change config.model.channels, or use config.model.network=mlp."
            )
        encoder = models.ConvEncoder(m.latent_dim, tuple(m.channels), m.dense, activation, m.dropout)
        decoder = models.ConvDecoder(output_shape, tuple(m.channels), m.dense, activation, m.dropout)
    return models.VAE(encoder, decoder, m.likelihood, m.variance, m.fixed_std)


def is_likelihood(config: ConfigDict) -> bool:
    """Whether the bound bounds the log-probability of data, so that bits/dim mean something."""
    return config.model.likelihood != "bernoulli" or config.data.binarization != "none"


def eval_step(
    state: TrainState,
    batch: Any,
    *,
    model: models.VAE,
    binarization: str,
    num_samples: int,
    axis_name: str | None = None,
) -> Any:
    """The bound and its terms for a test batch.

    Args:
      state: whose `eval_params` are evaluated.
      batch: an evaluation batch.
      model: the VAE.
      binarization: as in `losses.observe`.
      num_samples: codes an example; for more than one, the importance-weighted bound of as many is there too.
      axis_name: the mapped axis of devices, or None.

    Returns:
      {name: (sum, count)} over all devices.
    """
    return masked_sums(_bound_terms(state, batch, model, binarization, num_samples)[0], batch["mask"], axis_name)


def likelihood_step(
    state: TrainState,
    batch: Any,
    *,
    model: models.VAE,
    binarization: str,
    num_samples: int,
    importance_samples: int,
    importance_chunk: int,
    axis_name: str | None = None,
) -> Any:
    """What `eval_step` has, and log p(x) by importance sampling.

    Args:
      state: whose `eval_params` are evaluated.
      batch: an evaluation batch.
      model: the VAE.
      binarization: as in `losses.observe`.
      num_samples: as in `eval_step`.
      importance_samples: k of `sampling.log_marginal`.
      importance_chunk: how many of them are decoded at once.
      axis_name: the mapped axis of devices, or None.

    Returns:
      {name: (sum, count)} over all devices.
    """
    values, x = _bound_terms(state, batch, model, binarization, num_samples)
    keys = rng.per_example(rng.stream(rng.stream(state.key, "eval"), "importance"), batch["index"])
    estimate = functools.partial(
        sampling.log_marginal,
        state.eval_params,
        model=model,
        num_samples=importance_samples,
        chunk_size=importance_chunk,
    )
    # One example after another: memory is that of one chunk, whatever the batch.
    values["log_px"] = jax.lax.map(lambda pair: estimate(*pair), (keys, x))
    return masked_sums(values, batch["mask"], axis_name)


def _observe(key: Any, batch: Any, model: models.VAE, binarization: str) -> Any:
    """The test images as the model sees them; the same at every evaluation of a run."""
    keys = rng.per_example(rng.stream(rng.stream(key, "eval"), "observe"), batch["index"])
    return jax.vmap(lambda k, v: losses.observe(k, v, model.likelihood, binarization))(keys, batch["image"])


def _bound_terms(
    state: TrainState, batch: Any, model: models.VAE, binarization: str, num_samples: int
) -> tuple[dict[str, Any], Any]:
    x = _observe(state.key, batch, model, binarization)
    mean, log_var, log_px_z, log_pz, log_qz_x = losses.infer(
        state.eval_params,
        rng.stream(state.key, "eval"),
        x,
        batch["index"],
        model=model,
        num_samples=num_samples,
        dropout=False,
    )
    value, terms = jax.vmap(losses.elbo)(log_px_z, mean, log_var)
    values = {"elbo": value, "latent_mean": mean, "latent_mean_squared": mean**2} | terms
    if num_samples > 1:
        values["iwae"] = jax.vmap(losses.iwae_bound)(losses.log_importance_weight(log_px_z, log_pz, log_qz_x))
    return values, x


def report(means: dict[str, np.ndarray], *, num_dims: int, exact: bool) -> dict[str, float]:
    """The numbers people read: the bound and its terms in nats, the code length in bits/dim, and the active units.

    Bits/dim are of what the likelihood is of: binary pixels for the Bernoulli (1 is the uniform distribution's), 8-bit
    levels for the others (8 is), for the Gaussian by way of one dequantised draw an image.

    Args:
      means: over the test set, as `eval_step` or `likelihood_step` name them.
      num_dims: D, channels counted.
      exact: whether the bound bounds a log-probability. Where it does not, as for grey levels under a Bernoulli, it is
        called a score, and there are no bits/dim and no log p(x).

    Returns:
      Numbers by name.
    """
    variance = means["latent_mean_squared"] - means["latent_mean"] ** 2
    names = {"elbo": "elbo_nats" if exact else "score_nats", "log_likelihood": "log_likelihood_nats", "kl": "kl_nats"}
    if exact:
        names |= {"iwae": "iwae_nats", "log_px": "log_px_nats"}
    numbers = {name: float(means[key]) for key, name in names.items() if key in means}
    numbers["active_units"] = float(np.sum(variance > ACTIVE_UNIT_VARIANCE))
    if exact:
        numbers["bits_per_dim"] = float(distributions.bits_per_dim(jnp.asarray(means["elbo"]), num_dims))
    if exact and "log_px" in means:
        numbers["log_px_bits_per_dim"] = float(distributions.bits_per_dim(jnp.asarray(means["log_px"]), num_dims))
    return numbers


def pictures(state: TrainState, *, model: models.VAE, test_source: Source, binarization: str) -> dict[str, Picture]:
    """Samples, reconstructions, an interpolation; for a 2-D code its manifold and the encoded test set."""
    params = state.eval_params
    observe = jax.jit(functools.partial(_observe, model=model, binarization=binarization))
    reconstruct = jax.jit(functools.partial(sampling.reconstruct, model=model))
    interpolate = jax.jit(functools.partial(sampling.interpolate, num_points=10, model=model))
    decode = jax.jit(functools.partial(sampling.decode_mean, model=model))

    @jax.jit
    def prior_samples(key: Any) -> Any:
        keys = rng.per_example(rng.stream(key, "pictures"), jnp.arange(100))
        return sampling.sample_prior(params, keys, model=model)

    # The whole test set, though this process may evaluate only a part of it.
    batches = [b | {"x": np.asarray(observe(state.key, b))} for b in test_source.whole().evaluation()]
    shown = np.arange(20) % test_source.num_examples
    images, x = (np.concatenate([b[name] for b in batches])[shown] for name in ("image", "x"))
    rows = np.stack([images / np.float32(255), x, np.asarray(reconstruct(params, x))])  # [3, 20, H, W, C]
    found: dict[str, Picture] = {
        "samples": Grid("Means of p(x|z), z from the prior", _rows(prior_samples(state.key), 10)),
        "reconstructions": Grid(
            "Test images, what the model sees, and the mean of p(x|z)",
            np.concatenate([rows[:, :10], rows[:, 10:]]),
            ("image", "x", "mean") * 2,
        ),
        "interpolation": Grid(
            "Between the codes of two test images, in a straight line",
            np.asarray(interpolate(params, x[0:10:2], x[1:10:2])),
        ),
    }
    if model.encoder.latent_dim == 2:
        codes = jnp.asarray(sampling.manifold_codes(20), jnp.float32)
        manifold = _rows(decode(params, codes), 20)
        found["manifold"] = Grid("The manifold: means of p(x|z) at equally likely z", manifold)
        found["codes"] = _encoded(params, batches, model)
    return found


def _rows(images: Any, columns: int) -> np.ndarray:
    """[n, H, W, C] as rows of a grid, [n / columns, columns, H, W, C]."""
    return np.asarray(images).reshape(-1, columns, *images.shape[1:])


def _encoded(params: Any, batches: list[Any], model: models.VAE) -> Scatter:
    encode = jax.jit(lambda x: apply_in_param_dtype(model, params, x, method="encode")[0])
    means = [np.asarray(encode(b["x"]))[b["mask"] > 0] for b in batches]
    labels = [b["label"][b["mask"] > 0] for b in batches]
    points, classes = np.concatenate(means), np.concatenate(labels)
    return Scatter("The test set, encoded: means of q(z|x), coloured by class", points, classes, ("z₁", "z₂"))


if __name__ == "__main__":
    cli.main("vae")
