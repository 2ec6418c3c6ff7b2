"""States of experiments that are ready at once: to compile `init` takes longer than most of what is tested on them."""

from __future__ import annotations

import jax
import numpy as np

from gen_jax import rng


def start(experiment):
    """A state before the first step whose weights NumPy draws, with zeros for all else."""
    shapes = jax.eval_shape(experiment.init, rng.root(0))
    random = np.random.default_rng(0)
    params = jax.tree.map(lambda a: random.normal(0, 0.2, a.shape).astype(a.dtype), shapes.params)
    rest = jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), (shapes.model_state, shapes.opt_state))
    ema_params = None if shapes.ema_params is None else params
    return shapes.replace(
        step=np.int32(0), params=params, ema_params=ema_params, model_state=rest[0], opt_state=rest[1], key=rng.root(0)
    )
