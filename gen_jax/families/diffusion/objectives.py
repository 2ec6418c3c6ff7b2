"""What a diffusion model is trained on: steps and noise for each example, and the loss at them."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from gen_jax import rng
from gen_jax.contracts import Array, Batch, Key, ModelState, Params, Terms
from gen_jax.families.diffusion import timesteps
from gen_jax.families.diffusion.guidance import drop_labels
from gen_jax.families.diffusion.losses import epsilon_weight, l_hybrid, l_simple, l_vlb, min_snr_weight
from gen_jax.families.diffusion.parameterization import prediction_target, reverse, split_output
from gen_jax.families.diffusion.process import Process, at, diffuse, told_time
from gen_jax.families.diffusion.samplers import Predict
from gen_jax.nn.precision import apply_in_param_dtype
from gen_jax.ops import pixels

LOSSES = ("simple", "hybrid", "vlb")
WEIGHTINGS = ("none", "epsilon", "min_snr")
STEPS = ("uniform", "antithetic", "stratified", "importance")


class Diffusion(NamedTuple):
    """A process and the network that is trained on it; static.

    Attributes:
      process: the process.
      model: `(x_t [B, ...], time [B], *, dropout_keys [B] | None) -> output`, and `label [B]` as well where there are
        classes.
      prediction: what it predicts, one of `parameterization.PREDICTIONS`.
      variance: of a reverse step, one of `parameterization.VARIANCES`.
      num_classes: K; 0 for a model without labels. The label K stands for none.
    """

    process: Process
    model: nn.Module
    prediction: str = "epsilon"
    variance: str = "fixed_large"
    num_classes: int = 0


def predictor(
    params: Params, label: Array | None = None, dropout_keys: Key | None = None, *, diffusion: Diffusion
) -> Predict:
    """The network as samplers and likelihoods take it.

    Args:
      params: of the network.
      label: [B] of the examples; None for none.
      dropout_keys: [B] of dropout; None for none.
      diffusion: the model.

    Returns:
      `(x_t [B, ...], time [B]) -> output`.
    """
    options: dict[str, Any] = {"dropout_keys": dropout_keys}
    if diffusion.num_classes:
        options["label"] = label

    def predict(x_t: Array, time: Array) -> Array:
        given = options
        if diffusion.num_classes and label is None:
            given = options | {"label": jnp.full(x_t.shape[:1], diffusion.num_classes, jnp.int32)}
        return apply_in_param_dtype(diffusion.model, params, x_t, time, **given)

    return predict


def flip_at_random(key: Key, image: Array) -> Array:
    """An image or its mirror image, each with probability 1/2.

    Args:
      key: this example's key at this step.
      image: [H, W, C].

    Returns:
      [H, W, C].
    """
    return jnp.where(jax.random.bernoulli(key), image[:, ::-1], image)


def init_model_state(process: Process, steps: str) -> ModelState:
    """What an objective keeps besides parameters: the history of losses, where steps are drawn by importance.

    Args:
      process: the forward process.
      steps: one of `STEPS`.

    Returns:
      The model state.
    """
    return {"history": timesteps.init_history(process.num_steps)} if steps == "importance" else {}


def objective(
    params: Params,
    model_state: ModelState,
    key: Key,
    batch: Batch,
    *,
    diffusion: Diffusion,
    loss: str = "simple",
    weighting: str = "none",
    min_snr_gamma: float = 5.0,
    vlb_weight: float = 0.001,
    steps: str = "uniform",
    batch_size: int = 0,
    label_dropout: float = 0.0,
    flip: bool = False,
    axis_name: str | None = None,
) -> tuple[Array, tuple[ModelState, Terms]]:
    """The mean loss over a batch, each example at a step and with noise of its own.

    See "Denoising Diffusion Probabilistic Models", Ho et al., 2020 (arXiv:2006.11239), Algorithm 1.

    Args:
      params: of the network.
      model_state: of `init_model_state`.
      key: of this step.
      batch: as `ops.pixels.examples_of` reads it, with `index` [B], and with `label` [B] where the model has classes.
      diffusion: the model.
      loss: "simple", a weighted squared error of the prediction; "hybrid", L_simple + λ L_vlb; or "vlb", the bound in
        bits/dim with its gradient through mean and variance.
      weighting: of the simple loss: "none"; "epsilon", what makes it an error of ε; or "min_snr".
      min_snr_gamma: γ of min-SNR.
      vlb_weight: λ of the hybrid loss.
      steps: how they are drawn, one of `STEPS`.
      batch_size: over all devices; read for "stratified" alone.
      label_dropout: how often an example's label is none.
      flip: whether half of the images are mirrored.
      axis_name: the mapped axis of devices that share the batch, or None.

    Returns:
      The loss [], and (model_state, terms): the new one, and `simple`, the unweighted squared error, with `vlb`, the
      estimate of the bound less L_T in bits/dim, but for the simple loss.

    Raises:
      ValueError: where a name is another one.
    """
    index = batch["index"]
    t, importance = draw_steps(key, index, diffusion.process, model_state, steps=steps, batch_size=batch_size)

    def keys(name: str) -> Key:
        return rng.per_example(rng.stream(key, name), index)

    x0 = pixels.examples_of(batch)
    if flip:
        x0 = jax.vmap(flip_at_random)(keys("flip"), x0)
    x_t, epsilon = diffuse(diffusion.process, x0, t, keys("noise"))
    label = None
    if diffusion.num_classes:
        drop = functools.partial(drop_labels, null_label=diffusion.num_classes, rate=label_dropout)
        label = jax.vmap(drop)(keys("label"), batch["label"])
    predict = predictor(params, label, keys("dropout"), diffusion=diffusion)
    output = predict(x_t, told_time(diffusion.process, t))  # Line 5 of Algorithm 1.

    options: dict[str, Any] = {"loss": loss, "weighting": weighting, "min_snr_gamma": min_snr_gamma}
    options |= {"diffusion": diffusion, "vlb_weight": vlb_weight}
    losses, terms = jax.vmap(lambda *arrays: example_loss(*arrays, **options))(output, x0, x_t, t, epsilon)
    if steps == "importance":
        history = timesteps.update_history(model_state["history"], t, losses, axis_name=axis_name)
        model_state = dict(model_state) | {"history": history}
    return jnp.mean(importance * losses), (model_state, {k: jnp.mean(importance * v) for k, v in terms.items()})


def draw_steps(
    key: Key, index: Array, process: Process, model_state: ModelState, *, steps: str, batch_size: int
) -> tuple[Array, Array]:
    """The step of every example of a batch, and its weight.

    Args:
      key: of this step.
      index: [B] the global number of each example.
      process: the process.
      model_state: of `init_model_state`.
      steps: one of `STEPS`.
      batch_size: as in `objective`.

    Returns:
      t [B] int32 and weights [B].

    Raises:
      ValueError: where the name is another one.
    """
    key = rng.stream(key, "step")
    if steps == "uniform":
        return timesteps.uniform(key, index, process.num_steps)
    if steps == "antithetic":
        return timesteps.antithetic(key, index, process.num_steps)
    if steps == "stratified":
        if batch_size < 1:
            raise ValueError("Stratified steps need batch_size, the number of examples over all devices.")
        return timesteps.stratified(key, index, process.num_steps, batch_size)
    if steps == "importance":
        return timesteps.importance(key, index, model_state["history"])
    raise ValueError(f"steps='{steps}' is unknown; expected one of {STEPS}.")


def example_loss(
    output: Array,
    x0: Array,
    x_t: Array,
    t: Array,
    epsilon: Array,
    *,
    diffusion: Diffusion,
    loss: str,
    weighting: str,
    min_snr_gamma: float,
    vlb_weight: float,
) -> tuple[Array, Terms]:
    """The loss of one example at one step, by its name.

    "simple": w L_simple, with w = 1, `epsilon_weight` or `min_snr_weight`; "hybrid": L_simple + λ L_vlb; "vlb": L_vlb,
    which is T L_{t−1}

    See "Denoising Diffusion Probabilistic Models", Ho et al., 2020 (arXiv:2006.11239), Eq. 14, for the first, and
    "Improved Denoising Diffusion Probabilistic Models", Nichol and Dhariwal, 2021 (arXiv:2102.09672), Eq. 16, for the
    second.

    Args:
      output: [..., C] the network's, or [..., 2 C] with a learned variance.
      x0: [..., C].
      x_t: [..., C].
      t: [] int.
      epsilon: [..., C] with which x_t was made.
      diffusion: the model.
      loss: as in `objective`.
      weighting: as in `objective`.
      min_snr_gamma: as in `objective`.
      vlb_weight: as in `objective`.

    Returns:
      The loss [] and its terms.

    Raises:
      ValueError: where a name is another one.
    """
    if weighting not in WEIGHTINGS:
        raise ValueError(f"weighting='{weighting}' is unknown; expected one of {WEIGHTINGS}.")
    process, prediction, variance = diffusion.process, diffusion.prediction, diffusion.variance
    if loss == "hybrid":
        return l_hybrid(
            process, output, x0, x_t, t, epsilon, prediction=prediction, variance=variance, vlb_weight=vlb_weight
        )
    predicted, _ = split_output(output, variance)
    target = prediction_target(prediction, x0, epsilon, at(process.signal, t, x0), at(process.noise, t, x0))
    simple = l_simple(target, predicted)
    if loss == "vlb":
        step = reverse(process, output, x_t, t, prediction=prediction, variance=variance)
        vlb = process.num_steps * l_vlb(process, x0, x_t, t, step.mean, step.log_var)
        return vlb, {"simple": simple, "vlb": vlb}
    if loss != "simple":
        raise ValueError(f"loss='{loss}' is unknown; expected one of {LOSSES}.")
    snr = at(process.snr, t, x0)
    if weighting == "none":
        weight = jnp.ones_like(snr)
    elif weighting == "epsilon":
        weight = epsilon_weight(prediction, snr)
    else:
        weight = min_snr_weight(prediction, snr, min_snr_gamma)
    return weight * simple, {"simple": simple}
