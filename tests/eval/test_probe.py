"""The linear probe against Bayes accuracies, an independent fit, and the invariances that it promises."""

import dataclasses
import itertools

import numpy as np
import pytest
import scipy.optimize
import scipy.special
import scipy.stats

from gen_jax.contracts import UserError
from gen_jax.eval import probe

Split = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def gaussians(num_train: int, num_test: int, means: np.ndarray, seed: int) -> Split:
    """Codes N(means[y], I) of labels y drawn evenly, as (train codes, train labels, test codes, test labels)."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, len(means), num_train + num_test)
    codes = means[labels] + random.standard_normal((len(labels), means.shape[1]))
    return codes[:num_train], labels[:num_train], codes[num_train:], labels[num_train:]


@pytest.fixture(scope="module")
def overlapping() -> Split:
    """Three classes in six dimensions that overlap."""
    return gaussians(60, 2000, 1.2 * np.eye(3, 6), seed=1)


@pytest.mark.parametrize("distance", [0.5, 1.0, 2.0])
def test_bayes_accuracy(distance: float):
    """Two Gaussians N(±μ, I) are told apart with the accuracy Φ(‖μ‖), within 3 standard errors."""
    mean = distance * np.ones(4) / 2
    found = probe.linear_probe(*gaussians(20_000, 20_000, np.stack([mean, -mean]), seed=0))
    bayes = scipy.stats.norm.cdf(distance)
    assert abs(found.accuracy - bayes) < 3 * np.sqrt(bayes * (1 - bayes) / 20_000)
    assert found.converged
    assert found.num_test == 20_000


def test_shuffled_labels_give_chance():
    """Labels that have nothing to do with the codes are guessed as often as chance has it, within 3 standard errors."""
    codes, labels, test_codes, test_labels = gaussians(2000, 10_000, 3 * np.eye(4, 8), seed=2)
    random = np.random.default_rng(3)
    found = probe.linear_probe(codes, random.permutation(labels), test_codes, random.permutation(test_labels))
    assert abs(found.accuracy - 0.25) < 3 * np.sqrt(0.25 * 0.75 / 10_000)


@pytest.mark.parametrize("strength", [0.1, 30.0])
def test_is_the_stated_minimum_over_all_training_examples(overlapping: Split, strength: float):
    """The accuracy is that of an independent fit, in float64, of the stated objective to all training examples."""
    codes, labels, test_codes, test_labels = overlapping
    mean = codes.mean(0)
    scale = np.sqrt(((codes - mean) ** 2).sum(1).mean())

    def logits(flat: np.ndarray, z: np.ndarray) -> np.ndarray:
        return (z - mean) / scale @ flat[:18].reshape(6, 3) + flat[18:]

    def objective(flat: np.ndarray, rows: slice) -> float:
        log_p = scipy.special.log_softmax(logits(flat, codes[rows]), axis=1)
        return 0.5 * np.sum(flat[:18] ** 2) - strength * log_p[np.arange(len(log_p)), labels[rows]].sum()

    def accuracy(rows: slice) -> float:
        flat = scipy.optimize.minimize(objective, np.zeros(21), args=(rows,), options={"gtol": 1e-4}).x
        return float((logits(flat, test_codes).argmax(1) == test_labels).mean())

    found = probe.linear_probe(*overlapping, strengths=(strength,))
    assert found.strength == strength
    assert found.accuracy == pytest.approx(accuracy(slice(None)), abs=1e-3)
    assert abs(found.accuracy - accuracy(slice(54))) > 1e-3  # A fit to 9/10 of them would be noticed.


def test_same_call_same_result(overlapping: Split):
    """Nothing is random but the part held out, and that is the seed's."""
    first = probe.linear_probe(*overlapping, seed=5)
    assert probe.linear_probe(*overlapping, seed=5) == first
    strengths = {probe.linear_probe(*overlapping, seed=seed).strength for seed in range(8)}
    assert len(strengths) > 1


@pytest.mark.parametrize(("scale", "shift"), [(1e-6, 0.0), (1e6, 0.0), (-3.0, 0.0), (1.0, 1e4), (0.1, -7.0)])
def test_scale_and_origin_are_of_no_account(overlapping: Split, scale: float, shift: float):
    """Codes times one number plus another give the same probe."""
    codes, labels, test_codes, test_labels = overlapping
    found = probe.linear_probe(scale * codes + shift, labels, scale * test_codes + shift, test_labels)
    assert found == probe.linear_probe(*overlapping)


@pytest.mark.parametrize("value", [0.0, 0.3])
def test_dead_units_are_harmless(overlapping: Split, value: float):
    """Twenty units that never change give the same probe: they have no part in the scale either."""
    codes, labels, test_codes, test_labels = overlapping
    dead = np.full((2060, 20), value)
    padded = np.concatenate([codes, dead[:60]], axis=1), labels, np.concatenate([test_codes, dead[60:]], 1), test_labels
    assert probe.linear_probe(*padded) == probe.linear_probe(*overlapping)


def test_the_units_relative_scale_stays():
    """A unit that tells the classes apart but varies 1000 times less than the others is read at weak penalties only."""
    random = np.random.default_rng(6)
    labels = random.integers(0, 2, 3000)
    codes = random.standard_normal((3000, 5))
    codes[:, 0] = 1e-3 * (2 * labels - 1)
    split = codes[:1000], labels[:1000], codes[1000:], labels[1000:]
    assert probe.linear_probe(*split, strengths=(1.0,)).accuracy < 0.7
    chosen = probe.linear_probe(*split, strengths=(1.0, 1e7))
    assert (chosen.strength, chosen.accuracy) == (1e7, 1.0)


def test_noise_calls_for_the_strong_penalty():
    """Where 3 of 10 training labels are wrong and a weak penalty fits them, the strong one is chosen and better."""
    codes, labels, test_codes, test_labels = gaussians(600, 2000, 0.1 * np.ones((2, 200)) * [[1], [-1]], seed=7)
    labels = np.where(np.random.default_rng(8).random(600) < 0.3, 1 - labels, labels)
    found = probe.linear_probe(codes, labels, test_codes, test_labels, strengths=(1e4, 0.1), held_out=0.5)
    assert found.strength == 0.1
    weak = probe.linear_probe(codes, labels, test_codes, test_labels, strengths=(1e4,))
    assert found.accuracy > weak.accuracy + 0.05


def test_ties_go_to_the_stronger_penalty():
    """Where every strength is perfect the smallest C is chosen, whatever their order."""
    split = gaussians(200, 100, 20 * np.eye(2, 3), seed=8)
    found = probe.linear_probe(*split, strengths=(10.0, 0.1, 1.0))
    assert (found.strength, found.accuracy) == (0.1, 1.0)


def test_test_set_serves_for_accuracy_only():
    """Wrong test labels give the complement, and parts of the test set the parts of the accuracy."""
    codes, labels, test_codes, test_labels = gaussians(100, 1000, np.array([[0.5, 0.2], [-0.5, -0.2]]), seed=9)
    order = np.argsort(test_labels, kind="stable")  # So that the parts, unlike the whole, have one class each.
    test_codes, test_labels = test_codes[order], test_labels[order]
    whole = probe.linear_probe(codes, labels, test_codes, test_labels)
    wrong = probe.linear_probe(codes, labels, test_codes, 1 - test_labels)
    assert wrong == dataclasses.replace(whole, accuracy=pytest.approx(1 - whole.accuracy))
    ends = [0, int((test_labels == 0).sum()), 1000]
    parts = [probe.linear_probe(codes, labels, test_codes[a:b], test_labels[a:b]) for a, b in itertools.pairwise(ends)]
    assert {part.strength for part in parts} == {whole.strength}
    right = sum(round(part.accuracy * part.num_test) for part in parts)
    assert right == round(whole.accuracy * 1000)


def test_held_out_part_is_drawn_class_by_class():
    """Of every class the fraction is held out, but of a rare one an example at least, and never all."""
    labels = np.repeat([3, 5, 8], [100, 50, 2])
    away = probe._held_out(labels, 0.1, seed=0)
    assert [int(away[labels == label].sum()) for label in (3, 5, 8)] == [10, 5, 1]
    assert [int(probe._held_out(labels, 0.999, 0)[labels == label].sum()) for label in (3, 5, 8)] == [99, 49, 1]
    assert (away != probe._held_out(labels, 0.1, seed=1)).any()


def test_a_class_that_only_the_test_set_has_is_an_error(overlapping: Split):
    """Test examples of a class that there was none to learn from count as errors."""
    codes, labels, test_codes, _ = overlapping
    assert probe.linear_probe(codes, labels, test_codes, np.full(2000, 7)).accuracy == 0


@pytest.mark.parametrize("value", [0.0, 0.1])
def test_codes_that_are_all_alike_give_the_commonest_class(value: float):
    """A collapsed code tells nothing: the probe says the commonest class."""
    labels = np.repeat([0, 1], [30, 70])
    found = probe.linear_probe(np.full((100, 4), value), labels, np.full((50, 4), value), np.repeat([0, 1], [20, 30]))
    assert (found.accuracy, found.converged, found.strength) == (0.6, True, 0.01)
    assert found.error_percent == pytest.approx(40)


def test_too_few_iterations_are_reported(overlapping: Split):
    """A fit that ends early says so, and raises no warning."""
    assert not probe.linear_probe(*overlapping, max_iterations=1).converged
    assert probe.linear_probe(*overlapping).converged


def replaced(split: Split, **changes: np.ndarray) -> Split:
    names = ("train_codes", "train_labels", "test_codes", "test_labels")
    return tuple(changes.get(name, value) for name, value in zip(names, split, strict=True))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"train_labels": np.zeros(59, int)}, r"training set has 60 codes but labels of the shape \(59,\)"),
        ({"test_labels": np.zeros((2000, 1), int)}, r"test set has 2000 codes but labels of the shape \(2000, 1\)"),
        ({"train_labels": np.full(60, 4)}, "All training labels are 4; .* two classes"),
        ({"train_labels": np.full(60, -1)}, "training set has the label -1"),
        ({"test_labels": np.full(2000, -1)}, "test set has the label -1"),
        ({"train_codes": np.full((60, 6), np.nan)}, "training codes are not all finite"),
        ({"test_codes": np.full((2000, 6), np.inf)}, "test codes are not all finite"),
        ({"test_codes": np.zeros((2000, 5))}, "training codes have 6 units and the test codes 5"),
        ({"test_codes": np.zeros((2000, 3, 2))}, r"test codes have the shape \(2000, 3, 2\)"),
        ({"test_codes": np.zeros((0, 6)), "test_labels": np.zeros(0, int)}, r"test codes have the shape \(0, 6\)"),
        ({"train_labels": np.arange(60) // 59}, "label 1 has one training example"),
    ],
)
def test_unusable_sets_are_refused(overlapping: Split, changes: dict[str, np.ndarray], sentence: str):
    """Each thing wrong with the codes or labels is a sentence that names it."""
    with pytest.raises(UserError, match=sentence):
        probe.linear_probe(*replaced(overlapping, **changes))


@pytest.mark.parametrize("choice", [{"strengths": ()}, {"strengths": (1.0, 0.0)}, {"held_out": 0.0}, {"held_out": 1.0}])
def test_unusable_choices_are_refused(overlapping: Split, choice: dict):
    """Strengths must be there and above 0, and a part but not all held out."""
    with pytest.raises(UserError, match="cannot choose from strengths"):
        probe.linear_probe(*overlapping, **choice)
