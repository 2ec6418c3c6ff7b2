"""The classifier's loss, evaluation, pictures and climbs against closed forms and scipy."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from gen_jax import rng
from gen_jax.families.classifier import class_images, cross_entropy, evaluation, objective, pictures, sampling
from gen_jax.nn.small_classifier import SmallClassifier

MODEL = SmallClassifier(num_classes=3, channels=(4, 6), num_features=5, dropout=0.5)
SHAPE = (9, 7, 2)


# By itself each operation of a network would be compiled alone.
objective = jax.jit(objective, static_argnames="model")
class_images = jax.jit(class_images, static_argnames=("model", "image_shape", "weight", "num_steps", "step_size"))


@pytest.fixture(scope="module")
def params():
    found = jax.jit(MODEL.init)(rng.root(0), jnp.zeros((1, *SHAPE)))["params"]
    biases = iter(np.random.default_rng(0).normal(0, 0.3, 100))
    return jax.tree.map(lambda a: a + jnp.float32(next(biases)) if a.ndim == 1 else a, found)


def batch_of(num: int, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {
        "image": random.integers(0, 256, (num, *SHAPE), np.uint8),
        "label": random.integers(0, 3, num).astype(np.int32),
        "index": np.arange(num, dtype=np.uint32),
        "mask": (np.arange(num) < num - 2).astype(np.float32),
    }


def slow_network(params, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The network by loops in float64; the edge as "SAME" pads it for stride 2, the odd pixel at the end."""

    def gelu(x):
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))

    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    h = 2 * x.astype(np.float64) - 1
    for i in range(2):
        kernel = p[f"stages_{i}"]["kernel"]
        sizes = [-(-s // 2) for s in h.shape[1:3]]
        pads = [max(0, (n - 1) * 2 + 3 - s) for n, s in zip(sizes, h.shape[1:3], strict=True)]
        h = np.pad(h, ((0, 0), *((a // 2, a - a // 2) for a in pads), (0, 0)))
        out = np.empty((len(h), *sizes, kernel.shape[-1]))
        for r in range(sizes[0]):
            for c in range(sizes[1]):
                out[:, r, c] = np.tensordot(h[:, 2 * r : 2 * r + 3, 2 * c : 2 * c + 3], kernel, 3)
        h = gelu(out + p[f"stages_{i}"]["bias"])
    h = gelu(h.reshape(len(h), -1) @ p["hidden"]["kernel"] + p["hidden"]["bias"])
    h = (h - h.mean(axis=1, keepdims=True)) / np.sqrt(h.var(axis=1, keepdims=True) + 1e-6)
    return h, h @ p["logits"]["kernel"] + p["logits"]["bias"]


def test_the_network_is_its_loops(params):
    """Features and logits are those of loops over the pixels."""
    x = np.random.default_rng(1).random((4, *SHAPE))
    with jax.enable_x64(True):
        doubled = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
        found = jax.jit(lambda p, x: MODEL.apply({"params": p}, x, method="classify"))(doubled, x)
    for one, expected in zip(found, slow_network(params, x), strict=True):
        np.testing.assert_allclose(one, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("logits", [[0.0, 0.0, 0.0], [3.0, -1.0, 0.5], [100.0, -100.0, 0.0]])
@pytest.mark.parametrize("label", [0, 1, 2])
def test_cross_entropy_is_scipys(logits: list[float], label: int):
    """It is minus the log-softmax, also where a probability underflows; its gradient is softmax minus one-hot."""
    value, gradient = jax.jit(jax.value_and_grad(cross_entropy))(jnp.array(logits), jnp.array(label))
    assert value == pytest.approx(-scipy.special.log_softmax(logits)[label], rel=1e-6, abs=1e-6)
    np.testing.assert_allclose(gradient, scipy.special.softmax(logits) - np.eye(3)[label], atol=1e-6)


def test_the_objective_is_the_mean_over_the_batch(params):
    """Without dropout the loss is the mean cross-entropy of the loops' logits, beside their accuracy."""
    batch = batch_of(8)
    model = MODEL.clone(dropout=0.0)
    loss, (state, terms) = objective(params, {}, rng.root(1), batch, model=model)
    _, logits = slow_network(params, batch["image"] / 255)
    logs = scipy.special.log_softmax(logits, axis=1)
    assert loss == pytest.approx(-logs[np.arange(8), batch["label"]].mean(), rel=1e-4)
    assert terms == {"accuracy": pytest.approx(np.mean(logits.argmax(axis=1) == batch["label"]))}
    assert state == {}


def test_dropout_belongs_to_the_example(params):
    """With dropout the loss of a batch is the mean of those of its examples by their index, and differs by step."""
    batch = batch_of(6)
    whole, _ = objective(params, {}, rng.root(1), batch, model=MODEL)
    alone = [
        objective(params, {}, rng.root(1), {k: v[i : i + 1] for k, v in batch.items()}, model=MODEL)[0]
        for i in range(6)
    ]
    assert whole == pytest.approx(np.mean(alone), rel=1e-5)
    assert abs(whole - objective(params, {}, rng.root(2), batch, model=MODEL)[0]) > 1e-4


def test_values_are_of_each_example_without_dropout(params):
    """Each test image has its own cross-entropy and whether it is right; the report has per cent and nats."""
    batch = batch_of(8)
    found = jax.jit(functools.partial(evaluation.class_values, model=MODEL))(params, rng.root(0), batch)
    _, logits = slow_network(params, batch["image"] / 255)
    expected = -scipy.special.log_softmax(logits, axis=1)[np.arange(8), batch["label"]]
    np.testing.assert_allclose(found["cross_entropy"], expected, rtol=1e-4)
    np.testing.assert_array_equal(found["correct"], logits.argmax(axis=1) == batch["label"])
    means = {"correct": np.float32(0.25), "cross_entropy": np.float32(1.5)}
    assert evaluation.report(means) == {"accuracy_percent": 25.0, "cross_entropy_nats": 1.5}


def test_classify_all_leaves_padding_out(params):
    """A whole set in order, without what fills up its last batch."""
    batches = [batch_of(8, seed=1), batch_of(8, seed=2)]
    source = types.SimpleNamespace(evaluation=lambda: iter(batches))
    source.whole = lambda: source
    found = evaluation.classify_all(params, source, model=MODEL)
    images = np.concatenate([b["image"][:6] for b in batches]) / 255
    features, logits = slow_network(params, images)
    np.testing.assert_allclose(found.images, images, rtol=1e-6)
    np.testing.assert_array_equal(found.labels, np.concatenate([b["label"][:6] for b in batches]))
    np.testing.assert_allclose(found.features, features, atol=1e-4)
    np.testing.assert_allclose(found.probs, scipy.special.softmax(logits, axis=1), atol=1e-5)
    np.testing.assert_array_equal(found.predicted, logits.argmax(axis=1))


def linear_model(weights: np.ndarray):
    """A classifier of images [3, 3, 1] whose logits are linear, for climbs of a known direction."""

    class Linear(SmallClassifier):
        def setup(self):
            self.kernel = self.param("kernel", lambda key: jnp.asarray(weights, jnp.float32))

        def classify(self, x, dropout_keys=None):
            logits = x.reshape(len(x), -1) @ self.kernel
            return logits, logits

    return Linear(num_classes=weights.shape[1])


def smoothed(x: np.ndarray) -> np.ndarray:
    """An image [H, W] times the binomial weights along both axes, 0 beyond the edge, by matrices."""
    weights = np.array([1, 4, 6, 4, 1]) / 16
    blur = [sum(np.diag(np.full(n - abs(k), weights[k + 2]), k) for k in range(-2, 3) if abs(k) < n) for n in x.shape]
    return blur[0] @ x @ blur[1].T


@pytest.mark.parametrize("weight", [0.0, 0.7])
def test_a_climb_is_its_loop(weight: float):
    """Two steps on linear scores are the stated moves: along the smoothed gradient, of one length, within [0, 1]."""
    weights = np.random.default_rng(0).normal(size=(20, 2))
    model, keys, labels = linear_model(weights), rng.per_example(rng.root(3), np.arange(2)), jnp.array([1, 0])
    found = class_images(
        {"kernel": jnp.asarray(weights, jnp.float32)},
        keys,
        labels,
        model=model,
        image_shape=(5, 4, 1),
        weight=weight,
        num_steps=2,
        step_size=0.2,
    )
    for key, label, image in zip(keys, labels, found, strict=True):
        x = 0.5 * smoothed(np.asarray(jax.random.uniform(rng.stream(key, "noise"), (5, 4, 1)))[..., 0])
        for _ in range(2):
            g = smoothed(weights[:, label].reshape(5, 4) - 2 * weight * x)
            x = np.clip(x + 0.2 * np.sqrt(20) * g / np.linalg.norm(g), 0, 1)
        np.testing.assert_allclose(image[..., 0], x, atol=1e-5)
    assert (np.asarray(found) == 0).any() or (np.asarray(found) == 1).any()  # The clip took part.


def test_a_climb_raises_the_score(params):
    """The score of the class climbed to is above that of every other climb's start and of other classes' images."""
    model = MODEL.clone(dropout=0.0)
    labels = jnp.arange(3).repeat(4)
    keys = rng.per_example(rng.root(0), np.arange(12))
    arguments = {"model": model, "image_shape": SHAPE}
    start, end = (class_images(params, keys, labels, num_steps=n, **arguments) for n in (0, 30))
    before, after = (jax.jit(model.apply)({"params": params}, x) for x in (start, end))
    rows = np.arange(12)
    assert (after[rows, labels] > before[rows, labels]).all()
    assert (np.asarray(end) >= 0).all() and (np.asarray(end) <= 1).all()


def test_random_climbs_draw_their_class_from_their_key(params):
    """All classes are drawn, and image i is `class_images` of key i and its class."""
    keys = rng.per_example(rng.root(0), np.arange(12))
    draw = functools.partial(sampling.random_class_images, model=MODEL, image_shape=SHAPE)
    found = jax.jit(draw)(params, keys)
    labels = jax.jit(jax.vmap(lambda key: jax.random.randint(rng.stream(key, "class"), (), 0, 3)))(keys).tolist()
    assert set(labels) == {0, 1, 2}
    expected = class_images(params, keys, jnp.array(labels), model=MODEL, image_shape=SHAPE)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def classified() -> evaluation.Classified:
    """Six images of brightness 0.1 to 0.6: classes 0 0 1 1 2 2, taken for 0 1 1 0 0 0, the surer the later."""
    predicted, sure = np.array([0, 1, 1, 0, 0, 0]), np.array([0.5, 0.55, 0.6, 0.7, 0.8, 0.9])
    probs = np.repeat((1 - sure)[:, None] / 2, 3, axis=1)
    probs[np.arange(6), predicted] = sure
    images = np.arange(1, 7)[:, None, None, None] / 10 * np.ones((6, 2, 2, 1))
    return evaluation.Classified(images, np.array([0, 0, 1, 1, 2, 2]), np.zeros((6, 4)), probs)


def test_pictures_show_the_right_images():
    """Predictions are the first of each predicted class, mistakes the surest; what is missing is black."""
    brightness = [
        grid.images[:, :, 0, 0, 0]
        for grid in (pictures.predictions(classified(), 3), pictures.mistakes(classified(), 3))
    ]
    np.testing.assert_allclose(brightness[0], [[0.1, 0.4, 0.5], [0.2, 0.3, 0], [0, 0, 0]])
    np.testing.assert_allclose(brightness[1], [[0.6, 0.5, 0.4], [0.2, 0, 0], [0, 0, 0]])


def test_the_confusion_matrix_is_that_of_shares():
    """Its rows are shares of each class, and the picture has their roots; a class without examples is 0."""
    found = classified()
    expected = [[0.5, 0.5, 0], [0.5, 0.5, 0], [1, 0, 0]]
    np.testing.assert_allclose(pictures.confusion_matrix(found.labels, found.predicted, 3), expected)
    np.testing.assert_allclose(pictures.confusion(found).images[:, :, 3, 4, 0], np.sqrt(expected), rtol=1e-6)
    np.testing.assert_allclose(pictures.confusion_matrix(np.array([0]), np.array([2]), 3)[1:], 0)
