"""How much of the label a linear classifier reads from a code."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gen_jax.contracts import UserError

# Of the largest entry of the mean loss's gradient. scikit-learn's 1e-4 ends fits to wide codes too early, as their
# gradient is spread over many small entries.
TOLERANCE = 3e-5


@dataclasses.dataclass(frozen=True)
class Probe:
    """What a linear probe found.

    Attributes:
      accuracy: the fraction of the test examples that it classifies rightly, in [0, 1].
      strength: C, the inverse strength of its L2 penalty, as chosen.
      converged: whether the optimiser reached its tolerance; where it did not, more iterations may change `accuracy`.
      num_test: how many test examples there are.
    """

    accuracy: float
    strength: float
    converged: bool
    num_test: int

    @property
    def error_percent(self) -> float:
        """The test error in percent, as the papers have it."""
        return 100 * (1 - self.accuracy)


def linear_probe(
    train_codes: np.ndarray,
    train_labels: np.ndarray,
    test_codes: np.ndarray,
    test_labels: np.ndarray,
    *,
    strengths: Sequence[float] = (0.01, 0.1, 1.0, 10.0, 100.0),
    held_out: float = 0.1,
    max_iterations: int = 500,
    seed: int = 0,
) -> Probe:
    """The test accuracy of multinomial logistic regression on codes, here by way of scikit-learn's L-BFGS in float32.

    min_{W, b} ½‖W‖² − C Σ_n log softmax(W z_n + b)[y_n],
    for two classes with one row of W, the other being 0 and free of penalty.

    The codes are centred on the training mean and divided by one number, the root of their mean squared norm. So the
    result is the same for codes shifted or scaled as a whole, and for codes with dead units added, while a unit that
    varies little still counts little: scaling unit by unit would raise the rarest units of a sparse code above all
    others. C is the one of `strengths` with the best accuracy on a part of the training set, drawn class by class, that
    was not fitted to; of equals the smallest, which is the strongest penalty. The fit with it is to all of the training
    set. The test set serves for nothing but the accuracy.

    See "Understanding intermediate layers using linear classifier probes", Alain and Bengio, 2016 (arXiv:1610.01644),
    Section 3.

    Args:
      train_codes: [N, d] z, finite.
      train_labels: [N] y, integers ≥ 0, of two classes or more and two examples of each or more.
      test_codes: [M, d], finite.
      test_labels: [M] integers ≥ 0.
      strengths: the values of C to choose from, > 0; a single one leaves no choice, and nothing is held out.
      held_out: the fraction of each class to choose C by, in (0, 1); at least one example, and never all.
      max_iterations: of L-BFGS, for each fit.
      seed: of the part held out.

    Returns:
      The accuracy and how it came about.

    Raises:
      UserError: the codes or labels are not as above.
    """
    train_codes, train_labels = _checked("training", train_codes, train_labels)
    test_codes, test_labels = _checked("test", test_codes, test_labels)
    _check_fit(train_codes, train_labels, test_codes, strengths, held_out)
    mean = train_codes.mean(axis=0, dtype=np.float64)
    scale = _scale(train_codes, mean)
    codes = _normalised(train_codes, mean, scale)
    strength = min(strengths)
    if len(strengths) > 1:
        away = _held_out(train_labels, held_out, seed)
        strength = _choose_strength(codes, train_labels, away, sorted(strengths), max_iterations)
    model, converged = _fit(codes, train_labels, strength, max_iterations)
    right = model.predict(_normalised(test_codes, mean, scale)) == test_labels
    return Probe(float(right.mean()), strength, converged, len(right))


def _checked(name: str, codes: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes [N, d] and labels [N] as arrays, if a probe can use them."""
    codes, labels = np.asarray(codes), np.asarray(labels)
    if codes.ndim != 2 or 0 in codes.shape:
        raise UserError(f"The {name} codes have the shape {codes.shape}; give at least one vector, as [N, d].")
    if labels.shape != codes.shape[:1]:
        raise UserError(
            f"The {name} set has {len(codes)} codes but labels of the shape {labels.shape}; give one label a code."
        )
    if not np.isfinite(codes).all():
        raise UserError(f"The {name} codes are not all finite; a probe needs finite codes, so look for a diverged run.")
    if labels.min() < 0:
        raise UserError(
            f"The {name} set has the label {labels.min()}, which says that there is none; use a set with labels from 0"
            " up."
        )
    return codes, labels


def _check_fit(
    codes: np.ndarray, labels: np.ndarray, test_codes: np.ndarray, strengths: Sequence[float], held_out: float
) -> None:
    """Refuses what no probe can be fitted to, or no strength chosen by."""
    if codes.shape[1] != test_codes.shape[1]:
        raise UserError(
            f"The training codes have {codes.shape[1]} units and the test codes {test_codes.shape[1]}; give codes of"
            " one encoder."
        )
    classes, counts = np.unique(labels, return_counts=True)
    if len(classes) < 2:
        raise UserError(f"All training labels are {classes[0]}; a probe needs two classes or more, so use another set.")
    if not (len(strengths) and min(strengths) > 0 and 0 < held_out < 1):
        raise UserError(
            f"A probe cannot choose from strengths={tuple(strengths)} by held_out={held_out}; give strengths above 0"
            " and a fraction between 0 and 1."
        )
    if len(strengths) > 1 and counts.min() < 2:
        raise UserError(
            f"The label {classes[counts.argmin()]} has one training example; give two of each class or more, one to fit"
            " and one to choose the strength by, or a single strength."
        )


def _scale(codes: np.ndarray, mean: np.ndarray) -> float:
    """The root of the mean squared norm of centred codes, or 1 where they are all alike."""
    centred = codes - mean
    return math.sqrt(np.vdot(centred, centred) / len(centred)) or 1.0


def _normalised(codes: np.ndarray, mean: np.ndarray, scale: float) -> np.ndarray:
    """(z − μ) / s, computed in float64 and rounded to float32, [N, d]."""
    centred = codes - mean
    centred /= scale
    return centred.astype(np.float32)


def _held_out(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """A random `fraction` of the examples of each class, but one at least and never all; [N] bool."""
    random = np.random.default_rng(seed)
    away = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        rows = random.permutation(np.flatnonzero(labels == label))
        away[rows[: min(max(1, round(fraction * len(rows))), len(rows) - 1)]] = True
    return away


def _choose_strength(
    codes: np.ndarray, labels: np.ndarray, away: np.ndarray, strengths: Sequence[float], max_iterations: int
) -> float:
    """Of rising strengths, the first with the best accuracy on the examples that are `away` from the fit."""
    best, chosen = -1.0, strengths[0]
    fit_codes, fit_labels = codes[~away], labels[~away]
    for strength in strengths:
        model, _ = _fit(fit_codes, fit_labels, strength, max_iterations)
        accuracy = float(np.mean(model.predict(codes[away]) == labels[away]))
        if accuracy > best:
            best, chosen = accuracy, strength
    return chosen


def _fit(codes: np.ndarray, labels: np.ndarray, strength: float, max_iterations: int) -> tuple[Any, bool]:
    """scikit-learn's fitted model, and whether it converged."""
    # scikit-learn takes longer to import than JAX: only who fits something waits for it.
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    # No warm start: from a stronger penalty's solution a weaker one's tolerance is met before the first iteration.
    model = LogisticRegression(C=strength, tol=TOLERANCE, max_iter=max_iterations)
    # One thread: on an idle machine of two cores a second gains nothing, on a busy one both wait, at 15 times the time.
    with threadpool_limits(1), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        model.fit(codes, labels)
    return model, not any(issubclass(warning.category, ConvergenceWarning) for warning in caught)


def probe_errors(
    representations: Mapping[str, Sequence[np.ndarray]], labels: Sequence[np.ndarray], max_examples: int, seed: int = 0
) -> dict[str, float]:
    """Linear probes of several representations of the same data.

    Args:
      representations: by name, the training codes [N, ...] and the test codes [M, ...], finite.
      labels: the training labels [N] and the test labels [M].
      max_examples: how many training examples the probes see: the first ones of a random order.
      seed: of that order, and of the part that the strength of the penalty is chosen by.

    Returns:
      `{name}_probe_error_percent` for each; nothing where there is no probe: the data have no labels, `max_examples` is
      0, or the examples seen are of one class or have but one of some class.

    Raises:
      UserError: where the codes cannot be used.
    """
    train_labels, test_labels = labels
    if not max_examples or min(train_labels.min(), test_labels.min()) < 0:
        return {}
    seen = np.sort(np.random.default_rng(seed).permutation(len(train_labels))[:max_examples])
    classes, counts = np.unique(train_labels[seen], return_counts=True)
    if len(classes) < 2 or counts.min() < 2:
        return {}
    errors = {}
    for name, (train, test) in representations.items():
        flat_train, flat_test = train[seen].reshape(len(seen), -1), test.reshape(len(test), -1)
        probe = linear_probe(flat_train, train_labels[seen], flat_test, test_labels, seed=seed)
        errors[f"{name}_probe_error_percent"] = probe.error_percent
    return errors
