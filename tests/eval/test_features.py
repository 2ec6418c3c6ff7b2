"""Extractors, where they come from, and what judging by them says of data, noise and the same data again."""

import functools
import hashlib
import json
import pathlib
import re
import shutil

import jax
import numpy as np
import pytest
import scipy.stats

from gen_jax import rng
from gen_jax.checkpoint import Checkpoints, to_arrays
from gen_jax.contracts import UserError
from gen_jax.data import load_images
from gen_jax.eval import bootstrap, coverage, distances, features
from gen_jax.eval.embedded import build
from gen_jax.nn.small_classifier import SmallClassifier

NAME = features.EMBEDDED


@pytest.fixture(scope="module")
def extractor() -> features.FeatureExtractor:
    return features.embedded_classifier()


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return load_images("fashion_mnist_10k", "test").images / np.float32(255)


def test_the_embedded_classifier_is_as_accurate_as_its_readme_says(extractor, images):
    """It is right for 887 of the 1,000 test images, and its features are 64 of mean 0 and variance 1."""
    found, probs = extractor.extract(images)
    labels = load_images("fashion_mnist_10k", "test").labels
    assert np.mean(probs.argmax(axis=1) == labels) == pytest.approx(0.887, abs=0.0015)
    assert found.shape == (1000, 64) and found.dtype == np.float32
    np.testing.assert_allclose(found.mean(axis=1), 0, atol=1e-5)
    np.testing.assert_allclose(found.var(axis=1), 1, atol=1e-3)
    np.testing.assert_allclose(probs.sum(axis=1), 1, rtol=1e-5)


def test_the_embedded_weights_are_the_readmes():
    """The README beside the weights has their digests."""
    text = (features.EMBEDDED_FILE.parent / "README.md").read_text()
    params, model = features.read_classifier(features.EMBEDDED_FILE)
    assert hashlib.sha256(features.EMBEDDED_FILE.read_bytes()).hexdigest() in text
    assert features.digest(params) in text
    assert model == SmallClassifier(10, (16, 32, 64), 64)
    assert sum(a.size for a in jax.tree.leaves(params)) == 89_546
    assert features.EMBEDDED_FILE.stat().st_size < 400_000


@pytest.mark.parametrize("num", [1, 249, 250, 251, 700])
def test_batches_are_of_no_account(extractor, images, num: int):
    """Any number of images has the features of the images one batch at a time, in order."""
    found = extractor.extract(images[:num])[0]
    assert found.shape == (num, 64)
    whole = extractor.extract(images)[0]
    np.testing.assert_allclose(found, whole[:num], atol=1e-5)


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        (np.zeros((3, 32, 32, 1), np.float32), r"\(28, 28, 1\), not \(32, 32, 1\)"),
        (np.zeros((28, 28, 1), np.float32), r"not \(28, 1\)"),
        (np.zeros((3, 28, 28, 1), np.uint8), "uint8"),
        (np.zeros((0, 28, 28, 1), np.float32), r"\(0, 28, 28, 1\)"),
        (np.full((3, 28, 28, 1), 1.1, np.float32), "between 1.1 and 1.1"),
        (np.full((3, 28, 28, 1), -0.5, np.float32), "between -0.5 and -0.5"),
        (np.full((3, 28, 28, 1), np.nan, np.float32), "nan"),
    ],
)
def test_what_is_no_image_is_refused(extractor, images: np.ndarray, sentence: str):
    """Other shapes, levels of 8 bits and numbers beyond [0, 1] are refused by a sentence that says why."""
    with pytest.raises(UserError, match=sentence):
        extractor.extract(images)


def test_judge_gives_the_numbers_of_the_metrics(extractor, images):
    """Each value is the metric of the features, by the extractor's name, with its own reach; few examples are said.

    The reach of 30 halves is Student's t times a deviation that 30 other halves have too, within a factor of 2, which
    is nearly 4 standard errors of the two deviations' ratio.
    """
    real, fake = images[:500], np.clip(images[500:] + 0.1, 0, 1)
    found = features.judge(extractor, real, fake, seed=1, num_resamples=30)
    one, other = extractor.extract(real)[0], extractor.extract(fake)[0]
    probs = np.random.default_rng(1).permutation(extractor.extract(fake)[1])  # Splits in the order of the same seed.
    random = np.random.default_rng(0)

    def metrics(real: np.ndarray, fake: np.ndarray, probs: np.ndarray) -> dict[str, float]:
        pair, dense = coverage.precision_recall(real, fake), coverage.density_coverage(real, fake)
        return {
            "frechet_distance": distances.frechet_distance_of_features(real, fake),
            "kernel_distance": distances.kernel_distance(real, fake),
            "precision": pair.precision,
            "recall": pair.recall,
            "density": dense.density,
            "coverage": dense.coverage,
            "inception_score": distances.inception_score(probs).value,
        }

    expected = metrics(one, other, probs)
    halves = [metrics(*(x[random.permutation(500)[:250]] for x in (one, other, probs))) for _ in range(30)]
    for metric, value in expected.items():
        given, low, high = (found.pop(f"{metric}_{NAME}{end}") for end in ("", "_low", "_high"))
        assert given == pytest.approx(value, rel=1e-6), metric
        reach = scipy.stats.t.ppf(0.975, 29) * np.std([half[metric] for half in halves], ddof=1)
        assert high - given == pytest.approx(given - low, rel=1e-6), metric
        assert 0.5 < (high - given) / reach < 2, metric
    facts = {"num_real": 500.0, "num_fake": 500.0, "num_neighbour_examples": 500.0, "too_few_examples": 1.0}
    assert found == {f"{fact}_{NAME}": value for fact, value in facts.items()}


def test_judge_tells_better_samples_from_worse(extractor, images):
    """The data's other half is nearer than the half with noise on it, that nearer than noise, beyond its interval."""
    random = np.random.default_rng(0)
    real, fake = images[::2], images[1::2]
    noisy = np.clip(fake + 0.2 * random.standard_normal(fake.shape), 0, 1).astype(np.float32)
    noise = random.random(fake.shape, np.float32)
    by_kind = [features.judge(extractor, real, x, seed=0, num_resamples=10) for x in (fake, noisy, noise)]
    for metric, sign in (("frechet_distance", 1), ("kernel_distance", 1), ("precision", -1), ("coverage", -1)):
        values = [sign * found[f"{metric}_{NAME}"] for found in by_kind]
        assert values == sorted(values), metric
        ends = ("high", "low") if sign > 0 else ("low", "high")
        near, far = (sign * found[f"{metric}_{NAME}_{end}"] for found, end in zip(by_kind[1:], ends, strict=True))
        assert near < far, metric
    assert by_kind[0][f"kernel_distance_{NAME}_low"] < 0 < by_kind[0][f"kernel_distance_{NAME}_high"]
    assert by_kind[2][f"precision_{NAME}"] < 0.1


@pytest.mark.parametrize(("num_real", "num_fake", "few"), [(400, 400, 0.0), (399, 400, 1.0), (30, 40, 1.0)])
def test_too_few_examples_are_a_number(monkeypatch, num_real: int, num_fake: int, few: float):
    """Below 10,000, here 400, of either the flag is 1, beside the numbers; without probabilities no inception score."""
    assert features.MIN_EXAMPLES == 10_000
    monkeypatch.setattr(features, "MIN_EXAMPLES", 400)
    points = np.random.default_rng(0).standard_normal((400, 2))
    found = features.judge_features(
        "x", points[:num_real], points[:num_fake], seed=0, num_resamples=2, max_neighbour_examples=50
    )
    assert found["too_few_examples_x"] == few
    assert (found["num_real_x"], found["num_fake_x"]) == (num_real, num_fake)
    assert found["num_neighbour_examples_x"] == min(50, max(num_real, num_fake))
    assert not any(name.startswith("inception_score") for name in found)


def test_a_frechet_distance_is_not_below_zero():
    """Of samples as good as data the interval's low end would be below 0, and is 0."""
    real, fake = np.random.default_rng(0).standard_normal((2, 500, 1))
    found = features.judge_features("x", real, fake, seed=0, max_neighbour_examples=50)
    assert found["frechet_distance_x_low"] == 0 < found["frechet_distance_x"] < found["frechet_distance_x_high"]
    assert found["kernel_distance_x_low"] < 0


@pytest.mark.parametrize(("dims", "asked", "expected"), [(64, None, 50), (2048, None, 10), (2048, 7, 7), (64, 7, 7)])
def test_slow_distances_are_of_fewer_halves(monkeypatch, dims: int, asked: int | None, expected: int):
    """A Fréchet distance of many numbers, which takes long, is of 10 halves where nobody asks for another number."""
    calls, points = [], np.random.default_rng(0).standard_normal((30, dims))

    def distance(one: np.ndarray, other: np.ndarray) -> float:
        calls.append(len(one))
        return float(one[0, 0])

    monkeypatch.setattr(distances, "frechet_distance_of_features", distance)
    features.judge_features("x", points, points[::-1], seed=0, num_resamples=asked)
    assert calls == [30] + expected * [15]


def test_features_do_not_depend_on_a_devices_precision():
    """What a network multiplies is asked for in full float32, whatever a device's default is."""
    seen = []

    def network(x):
        flat = x.reshape(len(x), -1)
        seen.append(str(jax.make_jaxpr(lambda a: a @ a.T)(flat)))
        return flat, flat

    features.in_batches(network, np.zeros((3, 4, 4, 1), np.float32), 2)
    assert len(seen) == 2 and all("HIGHEST" in text for text in seen)


def test_neighbours_are_those_of_a_random_part():
    """Of a set in order the part whose neighbours are looked for is drawn at random, and is as large as asked."""
    real = np.repeat(np.arange(4.0), 100)[:, None] + np.random.default_rng(0).random((400, 1)) / 10
    sizes = []

    def spy(one, other, **options):
        sizes.append((len(one), len(other), len(np.unique(np.floor(one)))))
        return {"coverage": bootstrap.Interval(0.0, 0.0, 0.0)}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coverage, "neighbour_intervals", spy)
        features.judge_features("x", real, real[:90], seed=0, num_resamples=2, max_neighbour_examples=100)
    assert sizes == [(100, 90, 4)]


def test_the_splits_of_an_inception_score_know_nothing_of_the_order():
    """Certain classes in order have the score of the same classes shuffled: nearly K, where a split in order has 1."""
    probs, points = np.repeat(np.eye(10), 100, axis=0), np.random.default_rng(0).standard_normal((1000, 2))
    found = features.judge_features("x", points, points, probs, seed=0, num_resamples=5, max_neighbour_examples=50)
    assert 9 < found["inception_score_x"] <= 10


def test_judge_refuses_a_handful():
    """A few examples have no distance."""
    with pytest.raises(UserError, match="19 real examples and 30 samples"):
        features.judge_features("x", np.ones((19, 2)), np.ones((30, 2)), seed=0)


MODEL = SmallClassifier(3, (4, 6), 5)
init, classify = jax.jit(MODEL.init), jax.jit(functools.partial(MODEL.apply, method="classify"))
SHAPE = (12, 10, 3)


@functools.cache
def params_of(seed: int):
    return jax.tree.map(np.asarray, init(rng.root(seed), np.zeros((1, *SHAPE), np.float32))["params"])


def write_run(folder: pathlib.Path, ema: bool = False, experiment: str = "classifier"):
    """A workdir with one checkpoint of random parameters; returns those to evaluate with."""
    kept, average = (params_of(seed) for seed in (1, 2))
    folder.mkdir()
    model = {"num_classes": 3, "channels": [4, 6], "num_features": 5, "dropout": 0.5}
    train = {"ema_decay": 0.9 if ema else 0.0, "ema_half_life": ""}
    config = {"experiment": experiment, "data": {"name": "My-photos/v1"}, "model": model, "train": train}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "provenance.json").write_text(json.dumps({"data": {"train": {"example_shape": SHAPE}}}))
    state = {"params": kept, "ema_params": average if ema else None, "step": np.int32(7)}
    saver = Checkpoints(folder / "checkpoints")
    saver.save(7, state)
    saver.wait()
    saver.close()
    return average if ema else kept


def write_changed(folder: pathlib.Path, **changes):
    """A run's workdir whose config.json has been edited."""
    write_run(folder)
    config = json.loads((folder / "config.json").read_text())
    config["model"] |= changes
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("ema", [False, True])
def test_a_run_is_an_extractor_by_its_data_and_digest(tmp_path, ema: bool):
    """A workdir's classifier has the parameters to evaluate with, and a name that says which it is."""
    params = write_run(tmp_path / "run", ema)
    found = features.load(str(tmp_path / "run"), SHAPE)
    assert found.name == f"classifier_my_photos_v1_{features.digest(params)[:8]}"
    x = np.random.default_rng(0).random((6, *SHAPE), np.float32)
    expected, logits = classify({"params": params}, x)
    np.testing.assert_allclose(found.extract(x)[0], expected, atol=1e-5)
    np.testing.assert_allclose(found.extract(x)[1], jax.nn.softmax(logits), atol=1e-6)
    with pytest.raises(UserError, match=r"\(12, 10, 3\), not \(28, 28, 1\)"):
        features.load(str(tmp_path / "run"), (28, 28, 1))


def test_the_digest_tells_weights_apart(tmp_path):
    """One number's last bit, or another name of a layer, makes another digest; how the arrays are held does not."""
    params = write_run(tmp_path / "run")
    digest = features.digest(params)
    assert re.fullmatch("[0-9a-f]{64}", digest)
    assert features.digest(jax.tree.map(lambda a: np.asfortranarray(a), params)) == digest
    other = jax.tree.map(np.copy, params)
    other["hidden"]["bias"][0] = 1e-30
    assert features.digest(other) != digest
    assert features.digest({"h" if k == "hidden" else k: v for k, v in params.items()}) != digest


def test_a_built_file_is_read_back(tmp_path):
    """What `embedded.build` writes of a run is that run's parameters and model, the same bytes twice."""
    params = write_run(tmp_path / "run")
    digests = [build.build(tmp_path / "run", tmp_path / name) for name in ("one.npz", "two.npz")]
    assert digests == 2 * [features.digest(params)]
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    found, model = features.read_classifier(tmp_path / "one.npz")
    assert model == MODEL
    assert to_arrays(found).keys() == to_arrays(params).keys()
    jax.tree.map(np.testing.assert_array_equal, found, dict(params))


def test_arrays_alone_are_written(tmp_path, monkeypatch):
    """As numpy 2.0 takes every named argument for an array, none but arrays is given."""
    write_run(tmp_path / "run")
    names = []
    monkeypatch.setattr(build.np, "savez_compressed", lambda file, **arrays: names.extend(arrays))
    build.build(tmp_path / "run", tmp_path / "one.npz")
    layers = ("hidden", "logits", "stages_0", "stages_1")
    assert names == [f"{layer}/{kind}" for layer in layers for kind in ("bias", "kernel")]


def test_without_a_path_only_small_grey_images_have_an_extractor():
    """The embedded classifier is for 28x28 grey images; for others there is none."""
    assert features.load("", (28, 28, 1)).name == NAME
    assert features.load("", (32, 32, 3)) is None


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda p: None, "There is no .*place"),
        (lambda p: p.mkdir(), "place is not the workdir of a run"),
        (lambda p: write_run(p, experiment="vae"), "place holds a run of 'vae'"),
        (lambda p: p.mkdir() or (p / "config.json").write_text("[]"), "place is not the workdir"),
        (lambda p: p.write_text("text"), "place cannot be read as PyTorch's|place needs PyTorch"),
        (lambda p: write_changed(p, channels="abc"), "place is not the workdir of a run"),
        (lambda p: write_changed(p, channels=[0]), "place is not the workdir of a run|place has no|another model's"),
        (lambda p: write_changed(p, num_classes=-1), "place is not the workdir of a run"),
    ],
)
def test_what_is_no_extractor_is_refused(tmp_path, make, sentence: str):
    """What a path cannot name is refused by a sentence that says what it should be."""
    make(tmp_path / "place")
    with pytest.raises(UserError, match=sentence):
        features.load(str(tmp_path / "place"), SHAPE)


def test_a_run_without_a_checkpoint_is_refused(tmp_path):
    """A run that has saved nothing yet has no features."""
    write_run(tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    with pytest.raises(UserError, match="no checkpoint yet"):
        features.load(str(tmp_path / "run"), SHAPE)


def test_a_broken_file_of_the_package_is_refused(tmp_path):
    """Weights cut short are refused by one sentence."""
    (tmp_path / "weights.npz").write_bytes(features.EMBEDDED_FILE.read_bytes()[:1000])
    with pytest.raises(UserError, match="cannot be read as a classifier's weights"):
        features.read_classifier(tmp_path / "weights.npz")


def test_other_bytes_in_a_file_of_the_package_are_refused(tmp_path):
    """Weights with a byte flipped are refused by one sentence, whichever array it is in."""
    whole = features.EMBEDDED_FILE.read_bytes()
    for place in range(2000, len(whole) - 2000, len(whole) // 50):
        changed = bytearray(whole)
        changed[place] ^= 0xFF
        (tmp_path / "weights.npz").write_bytes(changed)
        with pytest.raises(UserError, match="cannot be read as a classifier's weights"):
            features.read_classifier(tmp_path / "weights.npz")


@pytest.mark.parametrize("shape", [(32, 32, 2), (32, 32)])
def test_inception_takes_grey_and_rgb_images(tmp_path, shape: tuple[int, ...]):
    """Images of two channels are refused before the weights are read."""
    (tmp_path / "weights.npz").write_bytes(b"")
    with pytest.raises(UserError, match="grey and RGB"):
        features.load(str(tmp_path / "weights.npz"), shape)
