"""Unrolled GANs: a generator that looks ahead at how its discriminator will answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import optax

from gen_jax.collectives import mean_over_devices
from gen_jax.contracts import Array, Params

T = TypeVar("T")


def unrolled_discriminator(
    discriminator_loss: Callable[[Params, Params, Any], Array],
    d_params: Params,
    g_params: Params,
    tx: optax.GradientTransformation,
    opt_state: Any,
    num_steps: int,
    data: Any = None,
    *,
    axis_name: str | None = None,
) -> Params:
    """The discriminator as it would be after some updates against a generator that stands still.

    φ⁰ = φ,  φᵏ⁺¹ = φᵏ + u(∇_φ L_D(φᵏ, θ), sᵏ),  with the optimiser's update u and its state s

    See "Unrolled Generative Adversarial Networks", Metz et al., 2017 (arXiv:1611.02163), Section 2.2, Eq. 6 and 7,
    where u is η times the gradient of what the discriminator maximises. The result is a differentiable function of θ
    and φ.

    The optimiser must be differentiable where a gradient is 0. Adam's √v is not: at v = 0, as for the weights of a ReLU
    that is off from the start, its derivative is infinite and the result's is NaN. `optax.adam(..., eps_root=1e-16)`
    puts √(v + 1e-16) in its place, which leaves every update of a gradient well above 1e-8 as it was.

    Args:
      discriminator_loss: `(d_params, g_params, data) -> []`, what the discriminator minimises.
      d_params: φ.
      g_params: θ.
      tx: the discriminator's optimiser.
      opt_state: its state s⁰.
      num_steps: K; with 0 the result is φ.
      data: what `discriminator_loss` is given, arrays with a leading axis [K] from which update k takes the k-th; None
        where it needs none or has its batch by closure, the same at every update.
      axis_name: the mapped axis of devices over which the inner gradients are averaged, or None.

    Returns:
      φᴷ. Neither φ nor s is changed.
    """

    def update(carry: tuple[Params, Any], data: Any) -> tuple[tuple[Params, Any], None]:
        params, state = carry
        grads = mean_over_devices(jax.grad(discriminator_loss)(params, g_params, data), axis_name)
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    # Unrolled here too: K is small, and on CPUs a loop took half as long again, for small networks, as no loop.
    (d_params, _), _ = jax.lax.scan(update, (d_params, opt_state), data, length=num_steps, unroll=True)
    return d_params


def unrolled_generator_loss(
    generator_loss: Callable[[Params, Params], T],
    discriminator_loss: Callable[[Params, Params, Any], Array],
    g_params: Params,
    d_params: Params,
    tx: optax.GradientTransformation,
    opt_state: Any,
    num_steps: int,
    data: Any = None,
    *,
    axis_name: str | None = None,
) -> T:
    """The generator's loss against the discriminator of K updates later.

    L_K(θ) = L_G(θ, φᴷ(θ, φ)),  dL_K/dθ = ∂L_G/∂θ + ∂L_G/∂φᴷ · dφᴷ/dθ

    See "Unrolled Generative Adversarial Networks", Metz et al., 2017 (arXiv:1611.02163), Sections 2.2 and 2.4, Eq. 9
    and 12; the gradient goes through all K updates, the optimiser's moments with them. The discriminator itself is then
    trained from φ, as if nothing had been.

    Args:
      generator_loss: `(g_params, d_params)` -> [], or any pytree, such as a loss with its terms.
      discriminator_loss: as in `unrolled_discriminator`, and so the rest.
      g_params: θ, in which the result is to be differentiated.
      d_params: φ.
      tx: the discriminator's optimiser, differentiable at 0: see `unrolled_discriminator` about Adam.
      opt_state: its state.
      num_steps: K; with 0 this is L_G(θ, φ).
      data: for the updates.
      axis_name: the mapped axis of devices, or None; the result is this device's loss.

    Returns:
      What `generator_loss` returns.
    """
    unrolled = unrolled_discriminator(
        discriminator_loss, d_params, g_params, tx, opt_state, num_steps, data, axis_name=axis_name
    )
    return generator_loss(g_params, unrolled)
