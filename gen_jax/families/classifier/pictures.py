"""The pictures of a classifier: what it takes images for, where it is wrong, and what it looks for."""

from __future__ import annotations

import numpy as np

from gen_jax.contracts import Grid
from gen_jax.families.classifier.evaluation import Classified

CELL = 12  # Pixels of a confusion matrix's cell, before it is enlarged.


def predictions(found: Classified, columns: int = 12) -> Grid:
    """The first images that are taken for each class, rightly or not, in rows.

    Args:
      found: a test set.
      columns: how many images a class.

    Returns:
      A grid; what is missing of a row is black.
    """
    rows = [np.flatnonzero(found.predicted == c)[:columns] for c in range(found.probs.shape[1])]
    return _rows("Test images by the class they are taken for", found, rows, columns, "class")


def mistakes(found: Classified, columns: int = 12) -> Grid:
    """The wrongly classified images that the classifier is surest of, in rows of the class they are taken for.

    Args:
      found: a test set.
      columns: how many images a class.

    Returns:
      A grid; what is missing of a row is black.
    """
    sure = np.argsort(-found.probs.max(axis=1), kind="stable")
    wrong = sure[(found.predicted != found.labels)[sure]]
    rows = [wrong[found.predicted[wrong] == c][:columns] for c in range(found.probs.shape[1])]
    return _rows("The surest mistakes, by the class they are wrongly taken for", found, rows, columns, "class")


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Which part of each class is taken for which.

    Args:
      labels: [N] from 0 to K − 1.
      predicted: [N] from 0 to K − 1.
      num_classes: K.

    Returns:
      [K, K], the share of class i (row) that is taken for j (column); a row without examples is 0.
    """
    counts = np.bincount(labels * num_classes + predicted, minlength=num_classes**2).reshape(num_classes, num_classes)
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


def confusion(found: Classified) -> Grid:
    """The confusion matrix as a picture, a cell the brighter the larger the root of the share.

    Args:
      found: a test set.

    Returns:
      A grid with a row for each class and a column for each it is taken for.
    """
    num_classes = found.probs.shape[1]
    shares = np.sqrt(confusion_matrix(found.labels, found.predicted, num_classes))
    cells = np.broadcast_to(shares[:, :, None, None, None], (num_classes, num_classes, CELL, CELL, 1))
    labels = tuple(f"class {c}" for c in range(num_classes))
    return Grid("Root of the share of each class (row) taken for each (column)", cells.astype(np.float32), labels)


def _rows(title: str, found: Classified, rows: list[np.ndarray], columns: int, label: str) -> Grid:
    """Rows of chosen images, padded with black."""
    grid = np.zeros((len(rows), columns, *found.images.shape[1:]), np.float32)
    for row, chosen in zip(grid, rows, strict=True):
        row[: len(chosen)] = found.images[chosen]
    return Grid(title, grid, tuple(f"{label} {c}" for c in range(len(rows))))
