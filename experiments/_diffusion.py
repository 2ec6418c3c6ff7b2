"""What the experiments on diffusion share: the process, the network and the sampler of a config, and its state."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from gen_jax import config as config_lib
from gen_jax import rng
from gen_jax.contracts import Key, UserError
from gen_jax.families import diffusion as family
from gen_jax.families.diffusion import objectives, parameterization, process
from gen_jax.families.diffusion.objectives import Diffusion
from gen_jax.train.state import TrainState, init_state

SCHEDULES = ("linear", "rescaled_linear", "cosine")
SAMPLERS = ("ancestral", "ddim", "dpm_solver")
# The share of the data's variance that may be left where sampling starts from noise alone.
_MOST_LEFT = 0.02


def process_section() -> ConfigDict:
    """The keys of the forward process."""
    section = ConfigDict()
    section.schedule = "linear"  # linear | rescaled_linear | cosine
    section.num_steps = 1000  # T
    section.rescale_timesteps = False  # Whether the network is told t · 1000 / T instead of t.
    return section


def sampler_section() -> ConfigDict:
    """The keys of a sampler, which may be other ones at every `--mode=sample` and `--mode=eval` of a run."""
    section = ConfigDict()
    section.name = "ancestral"  # ancestral | ddim | dpm_solver
    section.num_steps = 0  # So many of the process's steps; 0 for all.
    # uniform | even | trailing | quadratic | log_snr: which ones; "" for log_snr with dpm_solver, and else trailing.
    section.spacing = ""
    section.eta = 0.0  # ddim: the noise of a step, 0 for none, 1 for as much as an ancestral one has.
    section.variance = ""  # ancestral: fixed_large | fixed_small | beta; "" for the model's own.
    section.clip = True  # Whether the predicted x_0 is cut to [-1, 1] at every step, before a classifier guides.
    return section


def add_network_keys(config: ConfigDict) -> None:
    """Adds the keys of a U-Net, or of the inward half of one, to the section `model`: of a size for two CPU cores."""
    config.model.channels = 16
    config.model.channel_mult = (1, 2, 4)  # Of each level, from the image inwards.
    config.model.num_blocks = 1  # Residual blocks a level.
    config.model.attention_at = (7,)  # Heights of the feature maps that have attention; the middle always has.
    config.model.dropout = 0.0
    config.model.remat = False  # Whether activations are computed again for the gradient, to save memory.


def network_rules() -> dict[str, config_lib.Rule]:
    """What the keys of `add_network_keys` must satisfy."""
    at_least = config_lib.at_least
    return {
        "model.channels": lambda value: None if value >= 4 and value % 2 == 0 else "an even number of at least 4",
        "model.channel_mult": config_lib.each(at_least(1)),
        "model.num_blocks": at_least(1),
        "model.attention_at": config_lib.each(at_least(1)),
        "model.dropout": config_lib.between(0.0, 1.0),
    }


def process_rules() -> dict[str, config_lib.Rule]:
    """What the keys of `process_section` must satisfy."""
    return {
        "process.schedule": config_lib.one_of(*SCHEDULES),
        "process.num_steps": config_lib.at_least(1),
    }


def sampler_rules() -> dict[str, config_lib.Rule]:
    """What the keys of `sampler_section` must satisfy."""
    return {
        "sampler.name": config_lib.one_of(*SAMPLERS),
        "sampler.num_steps": config_lib.at_least(0),
        "sampler.variance": config_lib.optional(config_lib.one_of(*parameterization.VARIANCES[:-1])),
        "sampler.spacing": config_lib.optional(config_lib.one_of(*process.SPACINGS)),
        "sampler.eta": config_lib.share,
    }


def check_sampler(config: ConfigDict) -> None:
    """Refuses more sampling steps than there are, and noise of a sampler that has none.

    Args:
      config: with the sections `process` and `sampler`.

    Raises:
      UserError: naming the keys.
    """
    sampler = config.sampler
    if sampler.num_steps > config.process.num_steps:
        raise UserError(
            f"config.sampler.num_steps={sampler.num_steps} is more than the process has "
            f"(config.process.num_steps={config.process.num_steps}); choose at most that, or 0 for all."
        )
    if sampler.eta and sampler.name != "ddim":
        raise UserError(
            f"config.sampler.eta={sampler.eta} has no effect with config.sampler.name={sampler.name}; use ddim."
        )
    if sampler.variance and sampler.name != "ancestral":
        raise UserError(
            f"config.sampler.variance={sampler.variance} has no effect with config.sampler.name={sampler.name}; use "
            "ancestral."
        )


def make_process(config: ConfigDict) -> family.Process:
    """The forward process of a config.

    Raises:
      UserError: where its variances would not lie inside (0, 1), or much of the data is left after the last step.
    """
    p = config.process
    betas = {
        "linear": family.linear_betas,
        "rescaled_linear": family.rescaled_linear_betas,
        "cosine": family.cosine_betas,
    }[p.schedule](p.num_steps)
    if betas.max() >= 1:
        raise UserError(
            f"config.process.num_steps={p.num_steps} is too few for config.process.schedule={p.schedule}: a step would "
            f"add a variance of {betas.max():.3g}, which must be below 1; use more steps, or cosine."
        )
    left = float(np.prod(1 - betas))
    if left > _MOST_LEFT:
        raise UserError(
            f"After config.process.num_steps={p.num_steps} steps of config.process.schedule={p.schedule} a share of "
            f"{left:.2g} of the data's variance is left, and sampling starts from noise alone; use more steps, or "
            "rescaled_linear or cosine."
        )
    timesteps = np.arange(p.num_steps) * 1000 / p.num_steps if p.rescale_timesteps else None
    return family.make_process(betas, timesteps)


def kept_steps(config: ConfigDict, process: family.Process) -> np.ndarray:
    """The steps of a process that the config's sampler visits, in increasing order.

    Raises:
      UserError: where much of the data is left at the last of them, so that it is no place to start from noise.
    """
    s = config.sampler
    spacing = s.spacing or ("log_snr" if s.name == "dpm_solver" else "trailing")
    steps = family.spaced_steps(process, s.num_steps or process.num_steps, spacing)
    left = float(process.alphas_bar[steps[-1]])
    if left > _MOST_LEFT:
        raise UserError(
            f"The last of config.sampler.num_steps={s.num_steps} steps by config.sampler.spacing={spacing} still has a "
            f"share of {left:.2g} of the data's variance, and sampling starts from noise alone; use more steps, or the "
            "spacing even or trailing."
        )
    return steps


def make_sampler(
    config: ConfigDict,
    diffusion: Diffusion,
    predict: family.samplers.Predict,
    guide: family.Guide | None = None,
) -> family.Sampler:
    """The sampler of a config.

    Args:
      config: with the section `sampler`.
      diffusion: the model.
      predict: its network.
      guide: of `guidance`, or None.

    Returns:
      The sampler, of as many steps as the config asks for.

    Raises:
      UserError: as `kept_steps`.
      ValueError: where the sampler has no place for the guide.
    """
    s, whole = config.sampler, diffusion.process
    few = family.space(whole, kept_steps(config, whole))
    options: dict[str, Any] = {
        "prediction": diffusion.prediction,
        "variance": s.variance or diffusion.variance,
        "constrain": family.clip_to_unit if s.clip else None,
        "guide": guide,
    }
    if s.name == "ddim":
        return family.ddim(few, predict, eta=s.eta, **options)
    return {"ancestral": family.ancestral, "dpm_solver": family.dpm_solver}[s.name](few, predict, **options)


def init(
    key: Key, *, diffusion: Diffusion, example_shape: tuple[int, ...], options: dict[str, Any], steps: str
) -> TrainState:
    """The state before the first step.

    Args:
      key: the root key.
      diffusion: the model.
      example_shape: of one example.
      options: of `step_options`.
      steps: how steps are drawn, one of `objectives.STEPS`.

    Returns:
      The state.
    """
    label: dict[str, Any] = {"label": jnp.zeros(1, jnp.int32)} if diffusion.num_classes else {}
    x, time = jnp.zeros((1, *example_shape)), jnp.zeros(1, jnp.int32)
    params = diffusion.model.init(rng.stream(key, "init"), x, time, **label)["params"]
    model_state = objectives.init_model_state(diffusion.process, steps)
    return init_state(params, options["tx"], key, model_state=model_state, ema=options["ema"] is not None)
