"""What each player of the game minimises: the networks, a pair of losses, a penalty, and signs of trouble."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from gen_jax import rng
from gen_jax.collectives import mean_over_devices
from gen_jax.contracts import Array, Batch, Key, ModelState, Params, Terms, UserError
from gen_jax.families.gan import losses
from gen_jax.families.gan.models import apply_network, has_batch_norm
from gen_jax.families.gan.unrolled import unrolled_generator_loss
from gen_jax.ops import pixels

Loss = Callable[..., Array]

# By name: the discriminator's loss and the generator's.
LOSSES: dict[str, tuple[Loss, Loss]] = {
    "minimax": (losses.minimax_discriminator_loss, losses.minimax_generator_loss),
    "non_saturating": (losses.minimax_discriminator_loss, losses.non_saturating_generator_loss),
    "wasserstein": (losses.wasserstein_critic_loss, losses.wasserstein_generator_loss),
    "hinge": (losses.hinge_discriminator_loss, losses.hinge_generator_loss),
    "least_squares": (losses.least_squares_discriminator_loss, losses.least_squares_generator_loss),
}
CROSS_ENTROPIES = ("minimax", "non_saturating")  # The games in which the real label may be softened.
PENALTIES = ("none", "gradient", "r1")
LATENTS = ("normal", "uniform")

MIN_LOSS = 0.01  # A discriminator whose loss is below has nothing left to learn, nor the generator to follow.
MIN_DIVERSITY = 0.1  # Fakes that vary by less than this part of what real examples vary by have collapsed.

_LOSS_NEAR_ZERO = {
    "discriminator/warning_loss_near_zero": (
        "the discriminator tells real from fake without error, which leaves the generator little to learn from; try a "
        "lower learning rate for it, a penalty, or another loss"
    )
}
_COLLAPSED = {
    "generator/warning_collapsed": (
        "the generator makes nearly the same example from every z; try a lower learning rate, a penalty, or an "
        "unrolled discriminator"
    )
}


@dataclasses.dataclass(frozen=True)
class Networks:
    """The two players' networks.

    Attributes:
      generator: maps z, and a class where it is conditional, to an example.
      discriminator: maps an example, and a class, to a logit.
      latent: what z is drawn from, "normal" (N(0, I)) or "uniform" (U[−1, 1]).
    """

    generator: nn.Module
    discriminator: nn.Module
    latent: str = "normal"

    @property
    def conditional(self) -> bool:
        """Whether the players are told the class."""
        return self.generator.num_classes > 0


def warnings_of(loss: str) -> dict[str, str]:
    """What the named signs of trouble among a game's metrics mean, for people.

    Args:
      loss: one of `LOSSES`.

    Returns:
      By the metric's name, a sentence. The Wasserstein game's loss has no least value to be near.
    """
    return _COLLAPSED if loss == "wasserstein" else _LOSS_NEAR_ZERO | _COLLAPSED


def check_penalty(networks: Networks, penalty: str) -> None:
    """Refuses a penalty on the slope of a discriminator with batch normalisation.

    Args:
      networks: the networks.
      penalty: one of `PENALTIES`.

    Raises:
      UserError: with the reason.
    """
    if penalty != "none" and has_batch_norm(networks.discriminator):
        raise UserError(
            f"The penalty '{penalty}' holds the slope of the discriminator at each example by itself, and with batch "
            "normalisation each output depends on the whole batch; use a discriminator with layer normalisation or "
            "none, or no penalty."
        )


def draw_latent(key: Key, networks: Networks) -> Array:
    """What the generator makes one example of.

    Args:
      key: this example's key.
      networks: whose generator and kind of noise it is for.

    Returns:
      [d] z, of N(0, I) or of U[−1, 1].
    """
    shape = (networks.generator.latent_dim,)
    if networks.latent == "uniform":
        return jax.random.uniform(key, shape, minval=-1.0, maxval=1.0)
    return jax.random.normal(key, shape)


def make_fakes(
    params: Params,
    model_state: ModelState,
    key: Key,
    batch: Batch,
    *,
    networks: Networks,
    train: bool = True,
    axis_name: str | None = None,
) -> tuple[Array, ModelState]:
    """One fake example for each of a batch, of the same class where the players are told it.

    Args:
      params: of both players.
      model_state: of both players.
      key: of this update; z is keyed by the example.
      batch: `index` [B] and `label` [B].
      networks: the networks.
      train: whether batch normalisation is by this batch; otherwise it is by the running averages.
      axis_name: the mapped axis of devices, or None.

    Returns:
      x̃ [B, ...], and the generator's state after it.
    """
    keys = rng.per_example(rng.stream(key, "latent"), batch["index"])
    z = jax.vmap(draw_latent, in_axes=(0, None))(keys, networks)
    label = batch["label"] if networks.conditional else None
    generator = params["generator"], model_state["generator"]
    return apply_network(networks.generator, *generator, z, label, train=train, axis_name=axis_name)


def judge_both(
    d_params: Params,
    d_state: ModelState,
    key: Key,
    real: Array,
    fake: Array,
    batch: Batch,
    *,
    networks: Networks,
    axis_name: str | None = None,
) -> tuple[Array, Array, ModelState]:
    """What the discriminator says of real and fake examples while it trains.

    Args:
      d_params: the discriminator's parameters.
      d_state: the discriminator's model state.
      key: of this update, for dropout.
      real: [B, ...] x.
      fake: [B, ...] x̃.
      batch: `index` [B] and `label` [B].
      networks: the networks.
      axis_name: the mapped axis of devices, or None.

    Returns:
      The logits of both, [B] each, and the discriminator's model state after them. With batch normalisation the real
      and the fake examples are batches of their own, as in DCGAN; without it they are one, the same and faster.
    """
    label = batch["label"] if networks.conditional else None
    real_keys, fake_keys = (_dropout_keys(networks.discriminator, key, kind, batch) for kind in ("real", "fake"))
    network = networks.discriminator
    options: dict[str, Any] = {"train": True, "axis_name": axis_name}
    if has_batch_norm(network):
        real_logit, d_state = apply_network(network, d_params, d_state, real, label, dropout_keys=real_keys, **options)
        fake_logit, d_state = apply_network(network, d_params, d_state, fake, label, dropout_keys=fake_keys, **options)
        return real_logit, fake_logit, d_state
    labels = None if label is None else jnp.concatenate([label, label])
    keys = None if real_keys is None or fake_keys is None else jnp.concatenate([real_keys, fake_keys])
    both = jnp.concatenate([real, fake])
    logits, d_state = apply_network(network, d_params, d_state, both, labels, dropout_keys=keys, **options)
    real_logit, fake_logit = jnp.split(logits, 2)
    return real_logit, fake_logit, d_state


def discriminator_objective(
    params: Params,
    model_state: ModelState,
    key: Key,
    batch: Batch,
    *,
    networks: Networks,
    loss: str = "non_saturating",
    real_label: float = 1.0,
    penalty: str = "none",
    penalty_weight: float = 10.0,
    penalty_every: int = 1,
    axis_name: str | None = None,
) -> tuple[Array, tuple[ModelState, Terms]]:
    """What the discriminator minimises: its loss of real and fake examples, and a penalty on its slope.

    L_D = mean ℓ_D(D(x), D(x̃)) + λ mean (‖∇_x̂ D(x̂)‖₂ − 1)²,  or + γ/2 mean ‖∇_x D(x)‖₂²,  with x̃ = G(z)

    See "Generative Adversarial Nets", Goodfellow et al., 2014 (arXiv:1406.2661), Algorithm 1; "Improved Training of
    Wasserstein GANs", Gulrajani et al., 2017 (arXiv:1704.00028), Eq. 3; and for γ "Which Training Methods for GANs do
    actually Converge?", Mescheder et al., 2018 (arXiv:1801.04406), Section 4.1.

    Args:
      params: of both players.
      model_state: of both players; the discriminator's part changes.
      key: of this update.
      batch: as `ops.pixels.examples_of` reads it, with `index`, `label` and `step`.
      networks: the networks.
      loss: one of `LOSSES`.
      real_label: α, the label of a real example, for cross-entropies.
      penalty: "none", "gradient" (between real and fake) or "r1" (at real examples).
      penalty_weight: λ or γ.
      penalty_every: n; the penalty is taken in rounds n, 2n, ... only, and n times as heavy then.
      axis_name: the mapped axis of devices, or None.

    Returns:
      The loss [], and (model_state, terms): `real_logit`, `fake_logit`, the `penalty` without its weight (0 where it is
      not due), and `warning_loss_near_zero` (1 where the loss without the penalty is less than `MIN_LOSS` above its
      least; but for the Wasserstein game, whose loss has none).

    Raises:
      UserError: where there is a penalty and the discriminator has batch normalisation.
    """
    check_penalty(networks, penalty)
    x = pixels.examples_of(batch)
    fake, _ = make_fakes(params, model_state, key, batch, networks=networks, axis_name=axis_name)
    d_params, d_state = params["discriminator"], model_state["discriminator"]
    real_logit, fake_logit, new_state = judge_both(
        d_params, d_state, key, x, fake, batch, networks=networks, axis_name=axis_name
    )
    label = (real_label,) if loss in CROSS_ENTROPIES else ()
    value = jnp.mean(LOSSES[loss][0](real_logit, fake_logit, *label))
    terms = {"real_logit": jnp.mean(real_logit), "fake_logit": jnp.mean(fake_logit)}
    if loss != "wasserstein":
        # What a softened label leaves of the loss at its least: the entropy of the label.
        least = sum(-p * math.log(p) for p in (real_label, 1 - real_label) if p > 0) if label else 0.0
        terms["warning_loss_near_zero"] = (mean_over_devices(value, axis_name) - least < MIN_LOSS).astype(jnp.float32)

    if penalty != "none":

        def penalised() -> Array:
            each = slope_penalties(d_params, d_state, key, x, fake, batch, networks=networks, penalty=penalty)
            return jnp.mean(each)

        weight = penalty_weight * (0.5 if penalty == "r1" else 1.0) * penalty_every
        due = (batch["step"] + 1) % penalty_every == 0
        size = penalised() if penalty_every == 1 else jax.lax.cond(due, penalised, lambda: jnp.zeros(()))
        value += weight * size
        terms["penalty"] = size
    return value, (model_state | {"discriminator": new_state}, terms)


def slope_penalties(
    d_params: Params,
    d_state: ModelState,
    key: Key,
    real: Array,
    fake: Array,
    batch: Batch,
    *,
    networks: Networks,
    penalty: str,
) -> Array:
    """The penalty on the discriminator's slope at each example.

    As `losses.gradient_penalty` and `losses.r1_penalty` of a critic of one example, for a batch at once: without batch
    normalisation an output depends on its own example alone, so the gradient of their sum holds the gradient of each.

    See "Improved Training of Wasserstein GANs", Gulrajani et al., 2017 (arXiv:1704.00028), Eq. 3, and "Which Training
    Methods for GANs do actually Converge?", Mescheder et al., 2018 (arXiv:1801.04406), Section 4.1.

    Args:
      d_params: the discriminator's parameters.
      d_state: the discriminator's model state.
      key: of this update.
      real: [B, ...] x.
      fake: [B, ...] x̃.
      batch: `index` [B] and `label` [B].
      networks: the networks.
      penalty: "gradient" or "r1".

    Returns:
      [B] without λ or γ/2. Dropout is off in it.
    """
    label = batch["label"] if networks.conditional else None
    keys = rng.per_example(rng.stream(key, "penalty"), batch["index"])
    x = real if penalty == "r1" else jax.vmap(losses.between)(keys, real, fake)
    slope = jax.grad(lambda x: jnp.sum(apply_network(networks.discriminator, d_params, d_state, x, label)[0]))(x)
    return jax.vmap(losses.squared_slope if penalty == "r1" else losses.distance_from_slope_one)(slope)


def generator_objective(
    params: Params,
    model_state: ModelState,
    key: Key,
    batch: Batch,
    *,
    networks: Networks,
    loss: str = "non_saturating",
    axis_name: str | None = None,
) -> tuple[Array, tuple[ModelState, Terms]]:
    """What the generator minimises: L_G = mean ℓ_G(D(G(z))).

    See "Generative Adversarial Nets", Goodfellow et al., 2014 (arXiv:1406.2661), Algorithm 1.

    Args:
      params: of both players.
      model_state: of both players; the generator's part changes.
      key: of this update.
      batch: as `ops.pixels.examples_of` reads it, with `index` and `label`.
      networks: the networks.
      loss: one of `LOSSES`.
      axis_name: the mapped axis of devices, or None.

    Returns:
      The loss [], and (model_state, terms): `fake_logit`, `diversity` (how much the fakes of this batch vary, as a part
      of how much its real examples do) and `warning_collapsed` (1 where that is below `MIN_DIVERSITY`).
    """
    fake, new_state = make_fakes(params, model_state, key, batch, networks=networks, axis_name=axis_name)
    label = batch["label"] if networks.conditional else None
    keys = _dropout_keys(networks.discriminator, key, "fake", batch)
    discriminator = params["discriminator"], model_state["discriminator"]
    fake_logit, _ = apply_network(
        networks.discriminator, *discriminator, fake, label, train=True, axis_name=axis_name, dropout_keys=keys
    )
    diversity = spread(fake, axis_name) / jnp.maximum(spread(pixels.examples_of(batch), axis_name), 1e-12)
    terms = {
        "fake_logit": jnp.mean(fake_logit),
        "diversity": diversity,
        "warning_collapsed": (diversity < MIN_DIVERSITY).astype(jnp.float32),
    }
    return jnp.mean(LOSSES[loss][1](fake_logit)), (model_state | {"generator": new_state}, terms)


def unrolled_generator_objective(
    params: Params,
    model_state: ModelState,
    key: Key,
    batch: Batch,
    *,
    opt_state: Any,
    tx: optax.GradientTransformation,
    num_steps: int,
    networks: Networks,
    loss: str = "minimax",
    axis_name: str | None = None,
) -> tuple[Array, tuple[ModelState, Terms]]:
    """What the unrolled generator minimises: its loss against the discriminator of K updates later.

    See "Unrolled Generative Adversarial Networks", Metz et al., 2017 (arXiv:1611.02163), Section 2. The K updates are
    of the discriminator's own optimiser, from its present state, on this batch with the same z.

    Args:
      params: of both players.
      model_state: of both players; the generator's part changes.
      key: of this update.
      batch: as in `generator_objective`.
      opt_state: of both players' optimisers.
      tx: the discriminator's optimiser, differentiable at 0: see `unrolled.unrolled_discriminator`.
      num_steps: K.
      networks: the networks.
      loss: one of `LOSSES`.
      axis_name: the mapped axis of devices, or None.

    Returns:
      As `generator_objective`.
    """

    def generator_loss(g_params: Params, d_params: Params) -> tuple[Array, tuple[ModelState, Terms]]:
        both = {"generator": g_params, "discriminator": d_params}
        return generator_objective(both, model_state, key, batch, networks=networks, loss=loss, axis_name=axis_name)

    def discriminator_loss(d_params: Params, g_params: Params, _: None) -> Array:
        both = {"generator": g_params, "discriminator": d_params}
        options: dict[str, Any] = {"networks": networks, "loss": loss, "axis_name": axis_name}
        return discriminator_objective(both, model_state, key, batch, **options)[0]

    return unrolled_generator_loss(
        generator_loss,
        discriminator_loss,
        params["generator"],
        params["discriminator"],
        tx,
        opt_state["discriminator"],
        num_steps,
        axis_name=axis_name,
    )


def spread(x: Array, axis_name: str | None = None) -> Array:
    """How much the examples of a batch vary: the root of their variance, averaged over dimensions.

    (1/D Σ_j Var_i(x_ij))^½, a sign of collapse where it is small. It is like the minibatch standard deviation of
    "Progressive Growing of GANs for Improved Quality, Stability, and Variation", Karras et al., 2018
    (arXiv:1710.10196), Section 3, where the root comes before the mean.

    Args:
      x: [B, ...].
      axis_name: the mapped axis of devices, or None.

    Returns:
      [] in the unit of x, of the batch of all devices.
    """
    mean = mean_over_devices(jnp.mean(x, axis=0, keepdims=True), axis_name)
    return jnp.sqrt(mean_over_devices(jnp.mean((x - mean) ** 2), axis_name))


def _dropout_keys(network: nn.Module, key: Key, kind: str, batch: Batch) -> Key | None:
    """[B] keys, or None for a network that has no dropout."""
    if not hasattr(network, "dropout"):
        return None
    return rng.per_example(rng.stream(key, f"{kind}_dropout"), batch["index"])
