"""The classifier of noisy images: its objective and values against loops, and its gradient for guidance."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from gen_jax import rng
from gen_jax.families import diffusion
from gen_jax.families.diffusion.classifier import (
    AttentionPool,
    NoisyClassifier,
    class_images,
    classifier_objective,
    classifier_report,
    classifier_values,
    log_prob,
)
from gen_jax.families.diffusion.timesteps import uniform

SHAPE, CLASSES, STEPS = (4, 4, 2), 5, 20
MODEL = NoisyClassifier(
    channels=4, channel_mult=(1,), num_blocks=1, attention_at=(), head_channels=2, num_classes=CLASSES
)
# Told other times than its steps, so that the two are not taken for each other.
PROCESS = diffusion.make_process(diffusion.linear_betas(STEPS, 1e-3, 0.3), np.arange(STEPS) * 50)


@functools.cache
def _params() -> Any:
    """Random everywhere, so that every branch is alive."""
    x = jnp.zeros((1, *SHAPE))
    shapes = jax.eval_shape(MODEL.init, jax.random.key(0), x, jnp.zeros(1))["params"]
    random = np.random.default_rng(0)
    return jax.tree.map(lambda a: jnp.asarray(random.normal(0, 0.4, a.shape), jnp.float32), shapes)


def _without_logits() -> Any:
    pool = _params()["pool"]
    return _params() | {"pool": pool | {"out": jax.tree.map(jnp.zeros_like, pool["out"])}}


def _batch(num: int = 6, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {
        "image": random.integers(0, 256, (num, *SHAPE), np.uint8),
        "label": random.integers(0, CLASSES, num).astype(np.int32),
        "index": 40 + np.arange(num, dtype=np.uint32),
    }


@functools.cache
def _logits() -> Any:
    return jax.jit(lambda x, time: MODEL.apply({"params": _params()}, x, time))


@functools.cache
def _objective() -> Any:
    return jax.jit(functools.partial(classifier_objective, model=MODEL, process=PROCESS))


@functools.cache
def _values(steps: tuple[int, ...] = (0, 7, 19)) -> Any:
    return jax.jit(functools.partial(classifier_values, model=MODEL, process=PROCESS, steps=steps))


def _noisy(image: np.ndarray, t: int, key: jax.Array) -> np.ndarray:
    """One image after the step t, in float64."""
    epsilon = np.asarray(jax.random.normal(key, image.shape), np.float64)
    return np.sqrt(PROCESS.alphas_bar[t]) * (image / 127.5 - 1) + np.sqrt(1 - PROCESS.alphas_bar[t]) * epsilon


def test_attention_pool_is_the_loops():
    """The mean of all positions is one more; each head of it attends to all, itself too, each told its place."""
    random = np.random.default_rng(1)
    x = random.standard_normal((2, 2, 3, 4)).astype(np.float32)
    pool = AttentionPool(features=3, head_channels=2)
    shapes = jax.eval_shape(pool.init, jax.random.key(0), x)
    params = jax.tree.map(lambda a: random.standard_normal(a.shape).astype(np.float32), shapes)
    p = jax.tree.map(lambda a: a.astype(np.float64), params["params"])
    expected = []
    for image in x.astype(np.float64).reshape(2, 6, 4):
        h = np.concatenate([image.mean(axis=0, keepdims=True), image]) + p["places"]
        q, k, v = np.split(h @ p["qkv"]["kernel"] + p["qkv"]["bias"], 3, axis=1)
        heads = [slice(0, 2), slice(2, 4)]
        found = [scipy.special.softmax(k[:, head] @ q[0, head] / np.sqrt(2)) @ v[:, head] for head in heads]
        expected.append(np.concatenate(found) @ p["out"]["kernel"] + p["out"]["bias"])
    np.testing.assert_allclose(jax.jit(pool.apply)(params, x), expected, rtol=1e-4, atol=1e-4)


def test_no_knowledge_costs_the_logarithm_of_the_classes():
    """With logits of 0 every class has 1 / K: the loss is ln K whatever the images, and so is every value."""
    params = _without_logits()
    loss, (state, terms) = _objective()(params, {}, rng.root(0), _batch())
    assert loss == pytest.approx(np.log(CLASSES), rel=1e-6)
    assert terms["cross_entropy"] == loss and state == {}
    values = _values()(params, rng.root(0), _batch())
    np.testing.assert_allclose(values["cross_entropy_by_step"], np.log(CLASSES), rtol=1e-6)
    np.testing.assert_array_equal(values["correct"], _batch()["label"] == 0)  # The first of equals is taken.


def test_the_objective_is_the_mean_over_noisy_images():
    """Each image has its own step and noise by its index; the classifier is told the process's time."""
    key, batch = rng.root(3), _batch()
    loss, (_, terms) = _objective()(_params(), {}, key, batch)
    t, _ = uniform(rng.stream(key, "timestep"), batch["index"], STEPS)
    keys = rng.per_example(rng.stream(key, "noise"), batch["index"])
    x_t = np.stack([_noisy(*args) for args in zip(batch["image"], np.asarray(t), keys, strict=True)])
    logs = scipy.special.log_softmax(_logits()(x_t.astype(np.float32), 50 * t), axis=1)
    assert loss == pytest.approx(-logs[np.arange(6), batch["label"]].mean(), rel=1e-4)
    assert terms["accuracy"] == pytest.approx(np.mean(logs.argmax(axis=1) == batch["label"]))
    assert len(np.unique(t)) > 2


def test_the_objective_does_not_depend_on_the_layout():
    """The mean over halves is that over the whole, and another step has other noise."""
    batch = _batch()
    loss, _ = _objective()(_params(), {}, rng.root(0), batch)
    halves = [_objective()(_params(), {}, rng.root(0), {k: v[part] for k, v in batch.items()})[0]
              for part in (slice(0, 3), slice(3, 6))]  # fmt: skip
    assert loss == pytest.approx(np.mean(halves), rel=1e-5)
    assert abs(loss - _objective()(_params(), {}, rng.root(1), batch)[0]) > 1e-3


def test_values_at_some_steps():
    """Each image at each step, and the means; the noise is of the image's index and the step, and of no other."""
    key, batch, steps = rng.root(5), _batch(), (0, 7, 19)
    values = _values()(_params(), key, batch)
    keys = rng.per_example(rng.stream(rng.stream(key, "eval"), "noise"), batch["index"])
    for s, t in enumerate(steps):
        x_t = np.stack(
            [_noisy(image, t, jax.random.fold_in(k, t)) for image, k in zip(batch["image"], keys, strict=True)]
        )
        logs = scipy.special.log_softmax(_logits()(x_t.astype(np.float32), np.full(6, 50 * t)), axis=1)
        expected = -logs[np.arange(6), batch["label"]]
        np.testing.assert_allclose(values["cross_entropy_by_step"][:, s], expected, rtol=1e-3, atol=1e-4)
        np.testing.assert_array_equal(values["correct_by_step"][:, s], logs.argmax(axis=1) == batch["label"])
    for name in ("correct", "cross_entropy"):
        np.testing.assert_allclose(values[name], np.mean(values[f"{name}_by_step"], axis=1), rtol=1e-6)
    turned = _values()(_params(), key, {name: array[::-1] for name, array in batch.items()})
    np.testing.assert_allclose(turned["cross_entropy_by_step"][::-1], values["cross_entropy_by_step"], rtol=1e-4)
    fewer = _values((7,))(_params(), key, batch)
    np.testing.assert_allclose(fewer["cross_entropy"], values["cross_entropy_by_step"][:, 1], rtol=1e-4)


def test_the_gradient_for_guidance_is_per_example():
    """The log-probability is the log-softmax, sums to 1 over y, and its gradient is that of a difference quotient.

    An example's neither sees nor touches another's.
    """
    random = np.random.default_rng(2)
    x = random.standard_normal((3, *SHAPE)).astype(np.float32)
    time, label = np.array([0, 400, 950]), np.array([4, 0, 2])
    apply = jax.jit(lambda x, label: log_prob(_params(), x, jnp.asarray(time), label, model=MODEL))
    found = apply(x, label)
    logs = scipy.special.log_softmax(_logits()(x, time), axis=1)
    np.testing.assert_allclose(found, logs[np.arange(3), label], rtol=1e-4, atol=1e-5)
    total = sum(np.exp(apply(x, np.full(3, c))) for c in range(CLASSES))
    np.testing.assert_allclose(total, 1, rtol=1e-5)
    jacobian = jax.jit(jax.jacrev(lambda x: apply(x, label)))(x)
    for one in range(3):
        for other in range(3):
            assert jacobian[one, other].any() == (one == other)
    direction = random.standard_normal(x.shape).astype(np.float32)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: np.asarray(a, np.float64), _params())
        log = jax.jit(lambda x: log_prob(wide, x, jnp.asarray(time), label, model=MODEL))
        quotient = (log(x + 1e-5 * direction.astype(np.float64)) - log(x - 1e-5 * direction.astype(np.float64))) / 2e-5
        quotient = np.asarray(quotient)
    np.testing.assert_allclose(np.einsum("iihwc,ihwc->i", jacobian, direction), quotient, rtol=1e-3, atol=1e-5)


def test_guides_take_it():
    """A guide moves a step by what the classifier's gradient says at the process's time."""
    x = np.random.default_rng(4).standard_normal((2, *SHAPE)).astype(np.float32)
    label = jnp.array([1, 3])
    wanted = lambda x, time: log_prob(_params(), x, time, label, model=MODEL)  # noqa: E731
    step = jax.jit(jax.vmap(lambda x: diffusion.reverse(PROCESS, x, x, jnp.int32(7))))(x)
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(wanted(x, jnp.full(2, 350)))))(x)
    moved = jax.jit(lambda x: diffusion.shift_mean(wanted, 2.0).apply(PROCESS, x, jnp.int32(7), step).mean)(x)
    np.testing.assert_allclose(moved - step.mean, 2 * np.exp(step.log_var) * gradient, atol=1e-5)
    assert np.abs(moved - step.mean).max() > 1e-4


def test_images_of_a_class_are_its_loop():
    """DDIM with the best ε for N(0, ¼), less 30 √(1 − ᾱ) times the classifier's gradient, from the keys' noise."""
    keys, label = rng.per_example(rng.root(6), np.arange(3)), jnp.array([4, 0, 2])
    draw = functools.partial(class_images, model=MODEL, process=PROCESS, shape=SHAPE)
    found = jax.jit(draw)(_params(), keys, label)
    gradient = jax.jit(jax.grad(lambda x, time: jnp.sum(log_prob(_params(), x, time, label, model=MODEL))))
    x = np.stack([jax.random.normal(rng.stream(key, "start"), SHAPE) for key in keys]).astype(np.float64)
    bar = np.append(1.0, PROCESS.alphas_bar)
    for t in range(STEPS - 1, -1, -1):
        noise = np.sqrt(1 - bar[t + 1])
        pull = np.asarray(gradient(jnp.asarray(x, jnp.float32), jnp.full(3, 50 * t)), np.float64)
        epsilon = noise / (bar[t + 1] / 4 + noise**2) * x - 30 * noise * pull
        x = np.sqrt(bar[t] / bar[t + 1]) * (x - noise * epsilon) + np.sqrt(1 - bar[t]) * epsilon
    np.testing.assert_allclose(found, np.clip((x + 1) / 2, 0, 1), atol=1e-3)
    assert np.mean((found > 0) & (found < 1)) > 0.02 and np.std(found) > 0.05


def test_report():
    """Per cent over all steps, at the first, and at each."""
    means = {
        "correct": np.float32(0.5), "cross_entropy": np.float32(1.25), "correct_by_step": np.array([0.75, 0.5, 0.25]),
    }  # fmt: skip
    assert classifier_report(means, steps=np.array([0, 7, 19])) == {
        "accuracy_percent": 50.0,
        "accuracy_percent_clean": 75.0,
        "cross_entropy_nats": 1.25,
        "accuracy_percent_0": 75.0,
        "accuracy_percent_7": 50.0,
        "accuracy_percent_19": 25.0,
    }


def test_parameters_in_half_precision():
    """bfloat16 parameters give a float32 loss, near that in float32."""
    half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), _params())
    loss, _ = _objective()(half, {}, rng.root(0), _batch())
    assert loss.dtype == jnp.float32
    assert loss == pytest.approx(float(_objective()(_params(), {}, rng.root(0), _batch())[0]), rel=0.1)
