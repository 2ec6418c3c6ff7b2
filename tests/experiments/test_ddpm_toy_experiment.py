"""Diffusion of points: what the best possible network does in the place of the trained one."""

from __future__ import annotations

import functools
import json
import math
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import _diffusion, _points, ddpm_toy
from gen_jax import rng
from gen_jax.families import diffusion as family
from gen_jax.families.diffusion import models
from gen_jax.families.diffusion.exact import best_epsilon
from gen_jax.families.diffusion.process import at
from gen_jax.train.evaluation import evaluate
from gen_jax.train.parallel import Layout

SAMPLERS = ("ancestral", "ddim", "dpm_solver")


def changed(module, preset="tiny", **values):
    config = module.get_config(preset)
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in values.items()})
    return config


def drawn_state(experiment, size=0.2):
    """A state whose weights are all drawn, those of the last layers too, which begin at 0: every input matters."""
    shapes = jax.eval_shape(experiment.init, rng.root(0))
    random = np.random.default_rng(0)
    params = jax.tree.map(lambda a: random.normal(0, size, a.shape).astype(a.dtype), shapes.params)
    rest = jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), (shapes.model_state, shapes.opt_state))
    return shapes.replace(
        step=np.int32(8), params=params, ema_params=params, model_state=rest[0], opt_state=rest[1], key=rng.root(0)
    )


class Exact(nn.Module):
    """The best possible network of a mixture."""

    process: family.Process
    centres: tuple[tuple[float, float], ...]
    std: float

    @nn.compact
    def __call__(self, x, time, label=None, dropout_keys=None):
        self.param("nothing", nn.initializers.zeros_init(), (1,))
        t = jnp.asarray(time, jnp.int32)
        signal, noise = at(self.process.signal, t, x), at(self.process.noise, t, x)
        best = functools.partial(best_epsilon, centres=np.asarray(self.centres), std=self.std)
        return jax.vmap(best)(x, signal.reshape(-1), noise.reshape(-1))


@pytest.fixture
def best_on_the_ring(monkeypatch):
    """`ddpm_toy` with that network, for a config."""

    def build(**values):
        config = changed(ddpm_toy, "default", data__num_test=1000, eval__mode_count=50, **values)
        mixture = _points.mixture_of(config)
        exact = Exact(_diffusion.make_process(config), tuple(map(tuple, mixture.centres.tolist())), mixture.std)
        monkeypatch.setattr(models, "MLP", lambda *args: exact)
        experiment = ddpm_toy.build(config)
        return experiment, drawn_state(experiment)

    return build


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_best_network_reaches_every_mode_of_the_ring_by_every_sampler(name, best_on_the_ring):
    experiment, state = best_on_the_ring(sampler__name=name)
    numbers = experiment.assess(state)
    assert numbers["modes_covered"] == 8 and numbers["high_quality"] > 0.95, numbers


def test_the_best_network_is_nothing_above_the_best(best_on_the_ring):
    experiment, state = best_on_the_ring()
    layout = Layout("jit", jax.devices()[:1])
    step = layout.wrap_eval(experiment.eval_step)
    report = experiment.report(evaluate(step, layout.put_state(state), experiment.test_source, layout))
    assert report["above_best_percent"] == pytest.approx(0, abs=1e-4)
    assert report["best_l_simple"] > 0.1


def test_samplers_without_noise_end_at_the_same_points_and_one_with_noise_does_not(best_on_the_ring):
    keys = rng.per_example(rng.root(1), jnp.arange(200))

    def points(**values):
        experiment, state = best_on_the_ring(**values)
        return np.asarray(jax.jit(experiment.sample)(state, keys))

    plain = points(sampler__name="ddim")
    second_order = points(sampler__name="dpm_solver")
    noisy = points(sampler__name="ddim", sampler__eta=1.0)
    apart = [np.linalg.norm(other - plain, axis=-1) for other in (second_order, noisy)]
    assert np.median(apart[0]) < 0.01 and np.median(apart[1]) > 0.5, [np.median(a) for a in apart]


@pytest.mark.slow
def test_a_short_run_on_the_ring_is_near_the_best_there_is(tmp_path):
    command = [sys.executable, "-m", "experiments.ddpm_toy", f"--workdir={tmp_path / 'run'}"]
    command += ["--config.train.duration=3000 steps", "--config.train.eval_every=3000 steps"]
    subprocess.run(command, capture_output=True, check=True)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["modes_covered"] == 8 and 0 < results["above_best_percent"] < 3, results


PICTURES = {"samples", "chain", "x0_predictions", "denoising", "loss_by_step", "bits_by_step"}


def test_the_toy_s_film_has_frames_of_one_size():
    experiment = ddpm_toy.build(changed(ddpm_toy, data__num_test=50))
    found = experiment.pictures(drawn_state(experiment))
    assert set(found) == PICTURES
    (least, best) = (found["loss_by_step"].lines[name][1] for name in ("the least possible", "L_simple"))
    assert np.all(least > 0) and np.mean(best) > np.mean(least)
    assert len({frame.values.shape for frame in found["denoising"].frames}) == 1
    assert len({frame.extent for frame in found["denoising"].frames}) == 1


def test_the_best_network_s_likelihood_is_the_density_s(best_on_the_ring):
    """The flow's density is the blurred data's point by point, and the bound is below the data's own by little."""
    experiment, state = best_on_the_ring()
    layout = Layout("jit", jax.devices()[:1])
    step = layout.wrap_eval(experiment.likelihood_step)
    report = experiment.report(evaluate(step, layout.put_state(state), experiment.test_source, layout))
    assert report["flow_nats"] == pytest.approx(report["blurred_density_nats"], abs=0.02)
    # The mixture's entropy: that of a mode and that of which mode it is.
    entropy = math.log(2 * math.pi * math.e * 0.02**2) + math.log(8)
    assert report["density_nats"] == pytest.approx(-entropy, abs=4 * math.sqrt(1 / 1000))
    # What the bound of N(0, 0.02²) leaves in each of two dimensions: where its steps matter the modes are far apart.
    assert report["density_nats"] - report["bound_nats"] == pytest.approx(2 * gaussian_gap(0.02), abs=0.02)


def gaussian_gap(std: float) -> float:
    """By how many nats the bound of N(0, s²) with the best network and variances β is below its density."""
    betas = np.linspace(1e-4, 0.02, 1000)
    level = np.cumprod(1 - betas)
    before = np.append(1.0, level[:-1])
    spread = std**2 * (1 - level) / (level * std**2 + 1 - level)  # Var(x_0 | x_t).
    share = np.sqrt(before) * betas / (1 - level)  # Of x_0 in the mean of q(x_{t−1} | x_t, x_0).
    ratio = ((1 - before) / (1 - level))[1:]  # β̃ / β.
    rate = 0.5 * (ratio - 1 - np.log(ratio) + share[1:] ** 2 * spread[1:] / betas[1:])
    distortion = 0.5 * (np.log(2 * np.pi * betas[0]) + spread[0] / betas[0])
    prior = 0.5 * (level[-1] * (std**2 - 1) - np.log(1 - level[-1]))
    return float(rate.sum() + distortion + prior - 0.5 * np.log(2 * np.pi * np.e * std**2))
