"""The classifier's experiment: its config, the data it refuses, and its interval."""

import pathlib

import jax
import numpy as np
import pytest
import scipy.stats

from experiments import classifier
from gen_jax import rng
from gen_jax.contracts import UserError
from gen_jax.train.evaluation import evaluate
from gen_jax.train.parallel import Layout


@pytest.mark.parametrize("preset", ["default", "full", "mnist", "tiny"])
def test_every_preset_is_valid(preset: str):
    """The presets pass their own checks, and keep their names."""
    config = classifier.get_config(preset)
    classifier.validate(config)
    assert (config.experiment, config.preset) == ("classifier", preset)


def test_the_interval_is_about_the_accuracy():
    """The ends are Wilson's for the accuracy that the evaluation finds, which they hold."""
    experiment = classifier.build(classifier.get_config("tiny"))
    layout, state = Layout("jit", jax.devices()[:1]), jax.jit(experiment.init)(rng.root(0))
    means = evaluate(layout.wrap_eval(experiment.eval_step), layout.put_state(state), experiment.test_source, layout)
    accuracy = experiment.report(means)["accuracy_percent"]
    assert 2 < accuracy < 40, "so that what is wrong is told from what is right"
    expected = scipy.stats.binomtest(round(10 * accuracy), 1000).proportion_ci(method="wilson")
    found = experiment.assess(state)
    ends = [found["accuracy_percent_low"], found["accuracy_percent_high"]]
    np.testing.assert_allclose(ends, [100 * end for end in expected], atol=1e-6)
    assert ends[0] < accuracy < ends[1]


def write_set(folder: pathlib.Path, y_train: list[int], num_test: int = 16) -> pathlib.Path:
    """A set of 64 training images, with some labels first and then others from 0 to 9, and test images."""
    random = np.random.default_rng(0)
    folder.mkdir()
    np.savez(
        folder / "mine.npz",
        x_train=random.integers(0, 256, (64, 8, 8), np.uint8),
        y_train=np.array([*y_train, *(i % 10 for i in range(64 - len(y_train)))]),
        x_test=random.integers(0, 256, (num_test, 8, 8), np.uint8),
        y_test=np.arange(num_test) % 10,
    )
    return folder


def config_of(folder: pathlib.Path):
    config = classifier.get_config("tiny")
    config.data.name, config.data.dir = "mine", str(folder)
    config.train.batch_size = config.eval.batch_size = 16
    return config


@pytest.mark.parametrize(
    ("labels", "classes", "sentence"),
    [
        ([3, 17], 10, "num_classes=10 .* go from 0 to 17"),
        ([17, -1], 18, "num_classes=18 .* some of .* have none"),
        ([3, 9], 12, "num_classes=12 .* from 0 to 9"),
    ],
)
def test_data_that_cannot_be_classified_are_refused(tmp_path, labels: list[int], classes: int, sentence: str):
    """Images without labels, or of other classes than the model has, are refused before anything is trained."""
    config = config_of(write_set(tmp_path / "data", labels))
    config.model.num_classes = classes
    with pytest.raises(UserError, match=sentence):
        classifier.build(config)
    classifier.build(config_of(write_set(tmp_path / "other", [3, 9])))


@pytest.mark.parametrize(("num_test", "num_features", "drawn"), [(1, 16, False), (16, 1, False), (2, 2, True)])
def test_features_that_make_no_plane_are_left_out(tmp_path, num_test: int, num_features: int, drawn: bool):
    """A test set of one image, or features of one number, has every other picture and an interval."""
    config = config_of(write_set(tmp_path / "data", [], num_test))
    config.model.num_features = num_features
    experiment = classifier.build(config)
    state = jax.jit(experiment.init)(rng.root(0))
    pictures = experiment.pictures(state)
    others = {"predictions", "mistakes", "confusion", "class_images"}
    assert pictures.keys() == (others | {"features"} if drawn else others)
    found = experiment.assess(state)
    assert 0 <= found["accuracy_percent_low"] < found["accuracy_percent_high"] <= 100
