"""How far what is rendered is from a photograph. One ray."""

from __future__ import annotations

import jax.numpy as jnp

from gen_jax.contracts import Array, Terms


def photometric(coarse: Array, fine: Array | None, color: Array) -> tuple[Array, Terms]:
    """Squared errors of what both fields show: ‖Ĉ_c(r) − C(r)‖² + ‖Ĉ_f(r) − C(r)‖², each a mean over the channels.

    See "NeRF: Representing Scenes as Neural Radiance Fields for View Synthesis", Mildenhall et al., 2020
    (arXiv:2003.08934), Eq. 6; its code has the means, so that the loss of one level is the mean squared error whose
    PSNR is reported.

    Args:
      coarse: Ĉ_c [C], of the coarse field.
      fine: Ĉ_f [C], of the fine one; None for none.
      color: C [C], of the photograph, in [0, 1].

    Returns:
      The loss [], and `coarse` and `fine`, its terms [].
    """
    terms = {"coarse": jnp.mean((coarse - color) ** 2)}
    if fine is not None:
        terms["fine"] = jnp.mean((fine - color) ** 2)
    return sum(terms.values(), jnp.zeros(())), terms
