"""The objective: losses and weights against numpy, the best losses, and whose noise, step, label and flip is whose."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from gen_jax import rng
from gen_jax.contracts import Array, Key
from gen_jax.families import diffusion
from gen_jax.families.diffusion import models, objectives
from gen_jax.families.diffusion.objectives import Diffusion

KEY = rng.at_step(rng.root(0), 7)
TEN = diffusion.make_process(diffusion.linear_betas(10, 1e-3, 0.5))
THOUSAND = diffusion.make_process(diffusion.linear_betas(1000))


class Scaled(nn.Module):
    """w_t x_t, one number for each step and half of the output."""

    num_steps: int
    halves: int = 1

    @nn.compact
    def __call__(self, x: Array, time: Array, *, dropout_keys: Key | None = None) -> Array:
        weight = self.param("weight", nn.initializers.normal(), (self.num_steps, self.halves))
        weight = weight[time].reshape(-1, *[1] * (x.ndim - 2), self.halves)
        return jnp.concatenate([x * weight[..., i : i + 1] for i in range(self.halves)], axis=-1)


class Table(nn.Module):
    """The entry of a table at the step or at the label, whatever x_t is."""

    entries: int
    by: str = "time"

    @nn.compact
    def __call__(self, x: Array, time: Array, label: Array | None = None, *, dropout_keys: Key | None = None) -> Array:
        table = self.param("table", nn.initializers.normal(), (self.entries,))
        chosen = table[time if self.by == "time" else label]
        return jnp.broadcast_to(chosen.reshape(-1, *[1] * (x.ndim - 1)), x.shape)


class Constant(nn.Module):
    """The same output for every example."""

    shape: tuple[int, ...]

    @nn.compact
    def __call__(self, x: Array, time: Array, *, dropout_keys: Key | None = None) -> Array:
        output = self.param("output", nn.initializers.zeros_init(), self.shape)
        return jnp.broadcast_to(output[None], x.shape)


class Busy(nn.Module):
    """Uses everything that an example has: x_t, its time, its label and its key."""

    @nn.compact
    def __call__(self, x: Array, time: Array, *, label: Array, dropout_keys: Key) -> Array:
        bias = nn.Embed(6, 1)(label) + nn.Embed(10, 1)(time)
        noise = jax.vmap(lambda key: jax.random.normal(key, x.shape[1:]))(dropout_keys)
        return nn.Dense(1)(x) + bias[:, None, None] + 0.1 * noise


def images(count: int, first: int = 0) -> dict[str, Any]:
    """Small images, lightest at the right, with labels 0 … 4."""
    generator = np.random.default_rng(3)
    levels = generator.integers(0, 200, (count, 4, 4, 1)) + np.array([0, 10, 30, 55]).reshape(1, 1, 4, 1)
    index = np.arange(first, first + count)
    return {"image": jnp.asarray(levels, jnp.uint8), "index": jnp.asarray(index), "label": jnp.asarray(index % 5)}


def points(count: int, std: float = 1.0, seed: int = 0) -> dict[str, Any]:
    point = std * np.random.default_rng(seed).standard_normal((count, 2))
    return {"point": jnp.asarray(point, jnp.float32), "index": jnp.arange(count)}


def init(model: nn.Module, x: Array, **options: Any) -> Any:
    return jax.jit(model.init)(rng.root(1), x, jnp.zeros(len(x), jnp.int32), **options)["params"]


STATIC = ("diffusion", "loss", "weighting", "steps", "batch_size", "flip", "axis_name")
objective = jax.jit(objectives.objective, static_argnames=STATIC)


def loss_of(params: Any, batch: dict[str, Any], key: Key = KEY, state: Any = None, **options: Any) -> Array:
    return objective(params, state or {}, key, batch, **options)[0]


def pieces(batch: dict[str, Any], process: diffusion.Process) -> dict[str, np.ndarray]:
    """What the objective must have drawn, made again from the key and the index, in float64."""
    x0 = np.asarray(batch["image"], np.float64) / 127.5 - 1
    t, _ = diffusion.uniform(rng.stream(KEY, "step"), batch["index"], process.num_steps)
    keys = rng.per_example(rng.stream(KEY, "noise"), batch["index"])
    draw = jax.jit(jax.vmap(lambda key: jax.random.normal(key, x0.shape[1:])))
    epsilon = np.asarray(draw(keys), np.float64)
    signal = np.sqrt(process.alphas_bar)[t].reshape(-1, 1, 1, 1)
    noise = np.sqrt(1 - process.alphas_bar)[t].reshape(-1, 1, 1, 1)
    return {
        "x0": x0, "t": np.asarray(t), "epsilon": epsilon, "signal": signal, "noise": noise,
        "x_t": signal * x0 + noise * epsilon,
    }  # fmt: skip


def believed(prediction: str, output: np.ndarray, p: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The x_0 and the ε that an output names."""
    if prediction == "x0":
        return output, (p["x_t"] - p["signal"] * output) / p["noise"]
    epsilon = {
        "epsilon": output,
        "v": p["noise"] * p["x_t"] + p["signal"] * output,
        "score": -p["noise"] * output,
    }[prediction]
    return (p["x_t"] - p["noise"] * epsilon) / p["signal"], epsilon


def wanted(prediction: str, p: dict[str, np.ndarray]) -> np.ndarray:
    """What an output should be."""
    return {
        "epsilon": p["epsilon"],
        "x0": p["x0"],
        "v": p["signal"] * p["epsilon"] - p["noise"] * p["x0"],
        "score": -p["epsilon"] / p["noise"],
    }[prediction]


@functools.partial(jax.jit, static_argnames="diffusion")
def _weighted(params: Any, batch: Any, *, diffusion: Diffusion) -> dict[str, Any]:
    """Each weighting's loss and terms."""
    options = {"diffusion": diffusion, "min_snr_gamma": 2.0}
    found = {name: objective(params, {}, KEY, batch, weighting=name, **options) for name in objectives.WEIGHTINGS}
    return {name: (loss, terms) for name, (loss, (_, terms)) in found.items()}


@pytest.mark.parametrize("prediction", diffusion.parameterization.PREDICTIONS)
def test_simple_loss_against_numpy(prediction: str):
    """Unweighted, the error of the output; weighted, of the ε that it names, or min(SNR, γ) times that of the x_0."""
    batch, p = images(40), pieces(images(40), TEN)
    model = Scaled(10)
    params = init(model, p["x_t"])
    output = p["x_t"] * np.asarray(params["weight"], np.float64)[p["t"]].reshape(-1, 1, 1, 1)
    x0, epsilon = believed(prediction, output, p)
    target = wanted(prediction, p)
    snr = (p["signal"] / p["noise"]) ** 2
    assert snr.min() < 2 < snr.max()
    errors = {
        "none": (output - target) ** 2,
        "epsilon": (epsilon - p["epsilon"]) ** 2,
        "min_snr": np.minimum(snr, 2) * (x0 - p["x0"]) ** 2,
    }
    for weighting, (loss, terms) in _weighted(params, batch, diffusion=Diffusion(TEN, model, prediction)).items():
        np.testing.assert_allclose(loss, errors[weighting].mean(), rtol=2e-5, err_msg=weighting)
        assert list(terms) == ["simple"]
        np.testing.assert_allclose(terms["simple"], errors["none"].mean(), rtol=2e-5)


@pytest.mark.parametrize("prediction", diffusion.parameterization.PREDICTIONS)
def test_loss_of_one_example(prediction: str):
    """Each loss by its name: w L_simple; T KL(q(x_{t−1} | x_t, x_0) ‖ p) in bits/dim with σ² = β; and their sum."""
    x0, epsilon, output = np.random.default_rng(6).standard_normal((3, 4, 2))
    options = {"diffusion": Diffusion(TEN, Constant((2,)), prediction, "beta"), "min_snr_gamma": 2.0, "vlb_weight": 0.1}
    example_loss = jax.jit(functools.partial(objectives.example_loss, **options), static_argnames=("loss", "weighting"))
    for t in (2, 6, 9):
        signal, noise = np.sqrt(TEN.alphas_bar[t]), np.sqrt(1 - TEN.alphas_bar[t])
        p = {"x0": x0, "epsilon": epsilon, "signal": signal, "noise": noise, "x_t": signal * x0 + noise * epsilon}
        believed_x0, believed_epsilon = believed(prediction, output, p)
        simple = ((output - wanted(prediction, p)) ** 2).mean()
        error = ((believed_x0 - x0) ** 2).mean()
        ratio = (1 - TEN.alphas_bar[t - 1]) / noise**2
        kl = TEN.alphas_bar[t - 1] * TEN.betas[t] / (2 * noise**4) * error + 0.5 * (ratio - 1 - np.log(ratio))
        vlb = 10 * kl / np.log(2)
        expected = {
            ("simple", "none"): simple,
            ("simple", "epsilon"): ((believed_epsilon - epsilon) ** 2).mean(),
            ("simple", "min_snr"): min((signal / noise) ** 2, 2) * error,
            ("hybrid", "none"): simple + 0.1 * vlb,
            ("vlb", "none"): vlb,
        }
        with jax.enable_x64(True):
            arrays = *map(jnp.asarray, (output, x0, p["x_t"])), jnp.int32(t), jnp.asarray(epsilon)
            for (loss, weighting), value in expected.items():
                found, terms = example_loss(*arrays, loss=loss, weighting=weighting)
                assert float(found) == pytest.approx(value, rel=1e-8), (loss, weighting, t)
                assert float(terms["simple"]) == pytest.approx(simple, rel=1e-8)
                assert loss == "simple" or float(terms["vlb"]) == pytest.approx(vlb, rel=1e-8)


def test_bound_against_numpy():
    """T times the divergence of two Gaussians by Ho et al.'s Eq. 12, or the probability of the level at the first step.

    (β² / 2σ²α(1 − ᾱ) (ε − ε̂)² + ½ (β̃/σ² − 1 − log β̃/σ²)) / log 2,  σ² = β
    """
    batch, p = images(60), pieces(images(60), TEN)
    model = Scaled(10)
    params = init(model, p["x_t"])
    predicted = p["x_t"] * np.asarray(params["weight"], np.float64)[p["t"]].reshape(-1, 1, 1, 1)
    beta = TEN.betas[p["t"]].reshape(-1, 1, 1, 1)
    prev = np.append(1.0, TEN.alphas_bar)[p["t"]].reshape(-1, 1, 1, 1)
    ratio = (1 - prev) / p["noise"] ** 2
    error = (p["epsilon"] - predicted) ** 2
    with np.errstate(divide="ignore"):  # The first step's variance is 0; its term is another.
        later = beta / (2 * (1 - beta) * p["noise"] ** 2) * error + 0.5 * (ratio - 1 - np.log(ratio))
    mean = (p["x_t"] - beta / p["noise"] * predicted) / np.sqrt(1 - beta)
    law = scipy.stats.norm(mean, np.sqrt(beta))
    upper = np.where(p["x0"] > 0.999, 1.0, law.cdf(p["x0"] + 1 / 255))
    first = -np.log(upper - np.where(p["x0"] < -0.999, 0.0, law.cdf(p["x0"] - 1 / 255)))
    assert (p["t"] == 0).any()
    bits = 10 * np.where(p["t"].reshape(-1, 1, 1, 1) == 0, first, later).mean() / np.log(2)
    found, (_, terms) = objective(params, {}, KEY, batch, diffusion=Diffusion(TEN, model, variance="beta"), loss="vlb")
    np.testing.assert_allclose([found, terms["vlb"]], bits, rtol=1e-4)
    np.testing.assert_allclose(terms["simple"], error.mean(), rtol=2e-5)


def test_a_network_of_zeros():
    """Of ε nothing is known: the loss is E ε² = 1, with a standard error of √(2 / numbers)."""
    batch = points(20_000)
    found = loss_of({"output": jnp.zeros(2)}, batch, diffusion=Diffusion(THOUSAND, Constant((2,))))
    assert abs(found - 1) < 4 * np.sqrt(2 / 40_000)


# Runs for longer than it is compiled.
@functools.partial(
    jax.jit,
    static_argnames="steps",
    compiler_options={"xla_backend_optimization_level": 2, "xla_llvm_disable_expensive_passes": False},
)
def _means(params: Any, state: Any, point: Array, *, steps: str) -> Array:
    """The losses of many batches, each with a key and examples of its own."""

    def mean(step: Array, point: Array) -> Array:
        batch = {"point": point, "index": 1000 * step + jnp.arange(1000)}
        options = {"diffusion": Diffusion(THOUSAND, Scaled(1000)), "steps": steps, "batch_size": 1000}
        return loss_of(params, batch, rng.at_step(rng.root(5), step), state, **options)

    return jax.lax.map(lambda args: mean(*args), (jnp.arange(len(point)), point))


@pytest.mark.parametrize(
    ("steps", "variance", "best"),
    [
        ("uniform", 0.25, 0.173053),
        ("uniform", 1.0, 0.275513),
        ("uniform", 4.0, 0.395407),
        ("antithetic", 1.0, 0.275513),
        ("stratified", 1.0, 0.275513),
        pytest.param("importance", 1.0, 0.275513, marks=pytest.mark.slow),
    ],
)
def test_the_best_network_has_the_best_loss(steps: str, variance: float, best: float):
    """ε* = √(1 − ᾱ) / (ᾱ s² + 1 − ᾱ) x_t on N(0, s²): mean_t ᾱ s² / (ᾱ s² + 1 − ᾱ), within 4 standard errors.

    Each of 32 batches has a key of its own, and the standard error is of their means. The history that importance draws
    from has the true losses, so that rare steps are drawn, and weighed up, too.
    """
    signal_variance = THOUSAND.alphas_bar * variance
    total = signal_variance + 1 - THOUSAND.alphas_bar
    assert np.mean(signal_variance / total) == pytest.approx(best, abs=1e-6)
    params = {"weight": jnp.asarray(np.sqrt(1 - THOUSAND.alphas_bar) / total, jnp.float32)[:, None]}
    losses = jnp.broadcast_to(jnp.asarray(signal_variance / total, jnp.float32)[:, None], (1000, 10))
    history = diffusion.History(losses, jnp.full(1000, 10, jnp.int32))
    state = {"history": history} if steps == "importance" else {}
    point = np.sqrt(variance) * np.random.default_rng(4).standard_normal((32, 1000, 2))
    found = np.asarray(_means(params, state, jnp.asarray(point, jnp.float32), steps=steps), np.float64)
    error = found.std(ddof=1) / np.sqrt(32)
    assert error < 0.005
    assert abs(found.mean() - best) < 4 * error


def test_importance_keeps_the_expected_loss():
    """Where the loss is a function of the step alone and the history knows it, weight · loss hardly varies at all.

    With p_t = .999 L_t / ΣL + .001 / T it is mean(L) / (.999 + .001 mean(L) / L_t): the uniform expectation to 1 %, for
    any few examples; Σ_t p_t w_t L_t is that expectation itself.
    """
    table = np.sqrt(np.geomspace(5.0, 0.5, 10))
    history = diffusion.History(jnp.asarray(np.tile(table[:, None] ** 2, 10), jnp.float32), jnp.full(10, 10, jnp.int32))
    model = Diffusion(TEN, Table(10), prediction="x0")
    batch = {"point": jnp.zeros((4, 2)), "index": jnp.arange(4)}
    params = {"table": jnp.asarray(table, jnp.float32)}
    expected = np.mean(table**2)
    for seed in range(5):
        found, (state, terms) = objective(
            params, {"history": history}, rng.root(seed), batch, diffusion=model, steps="importance"
        )
        np.testing.assert_allclose([found, terms["simple"]], expected, rtol=0.01)
        np.testing.assert_allclose(state["history"].losses, np.tile(table[:, None] ** 2, 10), rtol=1e-6)  # Unweighted.
        assert state["history"].counts.sum() == 104


@pytest.mark.parametrize("num_devices", [pytest.param(2, marks=pytest.mark.slow), 8])
def test_importance_on_devices_is_that_on_one(num_devices: int):
    """Loss, gradient and history of a batch on several devices are those of the batch on one; the history is filled."""
    model = Diffusion(TEN, Scaled(10))
    params = init(model.model, jnp.zeros((1, 4, 4, 1)))
    batch = images(64)
    step = functools.partial(objective, diffusion=model, steps="importance")
    alone = devices = objectives.init_model_state(model.process, "importance")
    split = jax.tree.map(lambda a: a.reshape(num_devices, -1, *a.shape[1:]), batch)
    of_one = jax.jit(jax.value_and_grad(step, has_aux=True))

    def of_shard(params: Any, state: Any, key: Key, batch: Any) -> Any:
        (loss, (state, _)), gradient = jax.value_and_grad(functools.partial(step, axis_name="batch"), has_aux=True)(
            params, state, key, batch
        )
        return jax.lax.pmean((loss, gradient), "batch"), state

    of_many = jax.pmap(of_shard, axis_name="batch", in_axes=(None, None, None, 0))
    for number in range(4):
        key = rng.at_step(rng.root(2), number)
        (loss, (alone, _)), gradient = of_one(params, alone, key, batch)
        (loss_many, gradient_many), states = of_many(params, devices, key, split)
        for device in range(num_devices):
            for a, b in zip(jax.tree.leaves(states), jax.tree.leaves(alone), strict=True):
                np.testing.assert_allclose(a[device], b, rtol=1e-5)
        np.testing.assert_allclose(loss_many[0], loss, rtol=1e-5)
        np.testing.assert_allclose(gradient_many["weight"][0], gradient["weight"], rtol=1e-4, atol=1e-6)
        devices = jax.tree.map(lambda a: a[0], states)
    assert alone["history"].counts.sum() == 256
    ready = (np.asarray(alone["history"].counts) >= 10).all()
    p = np.asarray(diffusion.importance_probabilities(alone["history"]))
    assert ready and p.max() > 1.1 * p.min()


def test_no_history_where_steps_are_not_drawn_by_it():
    model = Diffusion(TEN, Scaled(10))
    assert all(objectives.init_model_state(model.process, steps) == {} for steps in objectives.STEPS[:-1])
    assert objectives.init_model_state(model.process, "importance")["history"].losses.shape == (10, 10)


def test_strata_are_of_the_whole_batch():
    """Two shards of 20 examples together have every one of 10 steps four times, and neither by itself is the other.

    The gradient in a table's entry counts the examples at its step.
    """
    model = Diffusion(TEN, Table(10), prediction="x0")
    slope = jax.grad(functools.partial(loss_of, diffusion=model, steps="stratified", batch_size=40))
    counts = []
    for first in (0, 20):
        batch = {"point": jnp.ones((20, 2)), "index": 400 + first + jnp.arange(20)}
        counts.append(-20 / 2 * np.asarray(slope({"table": jnp.zeros(10)}, batch)["table"]))
    np.testing.assert_allclose(counts[0] + counts[1], 4, rtol=1e-5)
    assert np.abs(counts[0] - counts[1]).max() > 3


def test_an_example_is_what_its_index_says():
    """With everything random in use, the loss of a batch is the mean of its examples' own, in any order."""
    model = Diffusion(TEN, Busy(), num_classes=5)
    batch = images(16, first=30)
    keys = rng.per_example(rng.root(0), batch["index"])
    params = init(model.model, jnp.zeros((16, 4, 4, 1)), label=batch["label"], dropout_keys=keys)
    loss = jax.jit(functools.partial(loss_of, diffusion=model, label_dropout=0.3, flip=True))
    alone = np.array([loss(params, jax.tree.map(lambda a, i=i: a[i : i + 1], batch)) for i in range(16)])
    order = np.random.default_rng(0).permutation(16)
    permuted = jax.tree.map(lambda a: a[order], batch)
    np.testing.assert_allclose([loss(params, batch), loss(params, permuted)], alone.mean(), rtol=1e-5)
    moved = np.array([loss(params, batch | {"index": batch["index"] + 1}), loss(params, batch, rng.root(1))])
    assert (np.abs(moved - alone.mean()) > 1e-3).all()


def test_gradient_is_the_mean_of_the_halves():
    model = Diffusion(TEN, Scaled(10))
    params = init(model.model, jnp.zeros((1, 4, 4, 1)))
    slope = jax.jit(jax.grad(functools.partial(loss_of, diffusion=model, flip=True, steps="antithetic")))
    batch = images(32)
    halves = [slope(params, jax.tree.map(lambda a, s=s: a[s : s + 16], batch))["weight"] for s in (0, 16)]
    whole = slope(params, batch)["weight"]
    np.testing.assert_allclose(whole, 0.5 * (halves[0] + halves[1]), rtol=1e-4, atol=1e-5)


def test_which_half_each_loss_trains():
    """The hybrid is L_simple + λ L_vlb; its mean has the simple loss's gradient, its variance λ times the bound's.

    The bound's own gradient reaches both.
    """
    model = Diffusion(TEN, Scaled(10, halves=2), variance="learned")
    params = init(model.model, jnp.zeros((1, 4, 4, 1)))

    def step(params: Any, loss: str) -> Any:
        of_loss = functools.partial(objective, diffusion=model, loss=loss, vlb_weight=0.25)
        return jax.value_and_grad(of_loss, has_aux=True)(params, {}, KEY, images(64))

    found = jax.jit(lambda params: {loss: step(params, loss) for loss in objectives.LOSSES})(params)
    values = {loss: value for loss, ((value, _), _) in found.items()}
    terms = {loss: terms for loss, ((_, (_, terms)), _) in found.items()}
    slopes = {loss: slope["weight"] for loss, (_, slope) in found.items()}
    np.testing.assert_array_equal(slopes["hybrid"][:, 0], slopes["simple"][:, 0])
    np.testing.assert_array_equal(slopes["simple"][:, 1], 0)
    np.testing.assert_allclose(slopes["hybrid"][:, 1], 0.25 * slopes["vlb"][:, 1], rtol=1e-5)
    assert (np.abs(slopes["vlb"][:, 0]) > 1e-3).all() and (slopes["vlb"][:, 1] != 0).all()
    np.testing.assert_allclose(values["hybrid"], values["simple"] + 0.25 * values["vlb"], rtol=1e-6)
    for loss in ("hybrid", "vlb"):
        np.testing.assert_allclose(terms[loss]["simple"], values["simple"], rtol=1e-6)
        np.testing.assert_allclose(terms[loss]["vlb"], values["vlb"], rtol=1e-6)


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_dropped_labels(rate: float):
    """The gradient in a table of labels counts how often each was told; the sixth label is none."""
    model = Diffusion(TEN, Table(6, by="label"), prediction="x0", num_classes=5)
    batch = points(2000) | {"point": jnp.ones((2000, 2)), "label": jnp.arange(2000) % 5}
    slope = jax.grad(functools.partial(loss_of, diffusion=model, label_dropout=rate))({"table": jnp.zeros(6)}, batch)
    counts = -2000 / 2 * np.asarray(slope["table"], np.float64)
    assert counts.sum() == pytest.approx(2000, rel=1e-4)
    assert abs(counts[5] - 2000 * rate) <= 4 * np.sqrt(2000 * rate * (1 - rate)) + 0.5
    for label in range(5):
        assert abs(counts[label] - 400 * (1 - rate)) <= 4 * np.sqrt(400 * rate * (1 - rate)) + 0.5


def test_a_predictor_without_labels_tells_none():
    model = Diffusion(TEN, Table(6, by="label"), num_classes=5)
    params = {"table": jnp.arange(6.0)}
    for label, expected in ((None, [5, 5, 5]), (jnp.array([2, 0, 4]), [2, 0, 4])):
        output = objectives.predictor(params, label, diffusion=model)(jnp.zeros((3, 2)), jnp.zeros(3, jnp.int32))
        np.testing.assert_array_equal(output[:, 0], expected)


@pytest.mark.parametrize("flip", [False, True])
def test_flips(flip: bool):
    """A constant's gradient at 0 is −2 x_0 / 16, the image or its mirror image: about half of them each."""
    model = Diffusion(TEN, Constant((4, 4, 1)), prediction="x0")
    slope = jax.grad(functools.partial(loss_of, diffusion=model, flip=flip))
    batch = images(1)
    singles = {"image": jnp.tile(batch["image"], (200, 1, 1, 1))[:, None], "index": jnp.arange(200)[:, None]}
    params = {"output": jnp.zeros((4, 4, 1))}
    seen = -8 * np.asarray(jax.jit(jax.vmap(slope, in_axes=(None, 0)))(params, singles)["output"])
    x0 = np.asarray(batch["image"][0], np.float32) / 127.5 - 1
    same, mirrored = (np.abs(seen - x).max(axis=(1, 2, 3)) < 1e-5 for x in (x0, x0[:, ::-1]))
    assert (same ^ mirrored).all()
    assert abs(mirrored.sum() - 100) < 4 * np.sqrt(50) if flip else not mirrored.any()


@pytest.mark.parametrize(
    "options",
    [
        {"loss": "l1"},
        {"weighting": "snr"},
        {"weighting": "snr", "loss": "vlb"},
        {"steps": "all"},
        {"prediction": "noise"},
        {"variance": "unit", "loss": "vlb"},
    ],
)
def test_unknown_names(options: dict[str, str]):
    """A name that there is not is said, with those that there are or with what was given."""
    of_model = {name: options[name] for name in ("prediction", "variance") if name in options}
    of_loss = {name: value for name, value in options.items() if name not in of_model}
    name = next(iter(options.values()))
    with pytest.raises(ValueError, match=f"'{name}'.*expected one of"):
        loss_of({"output": jnp.zeros(2)}, points(2), diffusion=Diffusion(TEN, Constant((2,)), **of_model), **of_loss)


def test_parameters_of_sixteen_bits():
    """The loss is summed in float32 and is that of float32 parameters but for rounding; gradients keep their type."""
    model = Diffusion(TEN, models.MLP(hidden=(16,)))
    batch = points(64)
    params = init(model.model, batch["point"])
    params = jax.tree.map(lambda a: a + 0.1 * jnp.ones_like(a), params)  # The last layer starts at 0.
    slope = jax.jit(jax.value_and_grad(functools.partial(loss_of, diffusion=model)))
    full, full_slope = slope(params, batch)
    half, half_slope = slope(jax.tree.map(lambda a: a.astype(jnp.bfloat16), params), batch)
    assert half.dtype == jnp.float32 and half != full
    np.testing.assert_allclose(half, full, rtol=0.02)
    for a, b in zip(jax.tree.leaves(half_slope), jax.tree.leaves(full_slope), strict=True):
        assert a.dtype == jnp.bfloat16
        np.testing.assert_allclose(np.asarray(a, np.float32), b, atol=0.05 * np.abs(b).max())
