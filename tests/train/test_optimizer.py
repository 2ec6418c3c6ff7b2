"""Learning-rate schedules against their formulas, and optimisers against one step by hand."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax.train.optimizer import make_optimizer, make_schedule

RATE, WARMUP, STEPS = 0.02, 10, 110


def rates(name, warmup=WARMUP):
    schedule = make_schedule(name, RATE, warmup, STEPS)
    return np.asarray([float(schedule(step)) for step in range(STEPS)])


@pytest.mark.parametrize("name", ["constant", "cosine", "linear", "exponential"])
def test_the_warmup_rises_linearly_to_the_rate(name):
    np.testing.assert_allclose(rates(name)[:WARMUP], RATE * np.arange(1, WARMUP + 1) / WARMUP, rtol=1e-6)


def test_after_the_warmup():
    progress = np.arange(STEPS - WARMUP) / (STEPS - WARMUP)
    np.testing.assert_allclose(rates("constant")[WARMUP:], RATE, rtol=1e-6)
    np.testing.assert_allclose(rates("linear")[WARMUP:], RATE * (1 - progress), rtol=1e-5)
    np.testing.assert_allclose(rates("exponential")[WARMUP:], RATE * 0.1**progress, rtol=1e-5)
    np.testing.assert_allclose(rates("cosine")[WARMUP:], RATE * (1 + np.cos(np.pi * progress)) / 2, atol=1e-8)


def test_without_warmup_the_first_step_has_the_whole_rate():
    for name in ("constant", "cosine", "linear", "exponential"):
        assert rates(name, warmup=0)[0] == pytest.approx(RATE)
    assert rates("constant", warmup=1)[0] == pytest.approx(RATE)


def one_update(name, **options):
    tx = make_optimizer(name, make_schedule("constant", 0.1, 0, 1), **options)
    params = {"w": jnp.asarray([2.0, -3.0])}
    updates, _ = tx.update({"w": jnp.asarray([0.5, -0.25])}, tx.init(params), params)
    return np.asarray(updates["w"])


def test_the_first_update_of_each_optimiser():
    np.testing.assert_allclose(one_update("sgd"), [-0.05, 0.025], rtol=1e-6)
    np.testing.assert_allclose(one_update("sgd", momentum=0.9), [-0.05, 0.025], rtol=1e-6)
    # Adam's first step is the sign of the gradient; AdamW adds rate · decay · parameter.
    np.testing.assert_allclose(one_update("adam"), [-0.1, 0.1], rtol=1e-5)
    np.testing.assert_allclose(one_update("adamw", weight_decay=0.5), [-0.1 - 0.1, 0.1 + 0.15], rtol=1e-5)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="not a schedule"):
        make_schedule("step", 1.0, 0, 1)
    with pytest.raises(ValueError, match="not an optimiser"):
        make_optimizer("lion", make_schedule("constant", 1.0, 0, 1))
