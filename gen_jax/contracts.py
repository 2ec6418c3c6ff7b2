"""The vocabulary that every layer shares: types and records, no behaviour.

Shapes are written in brackets after the name: `[B, H, W, C]` is a batch of B images of height H, width W and C
channels. `B` is always the number of examples that the function at hand sees.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import jax
import numpy as np

Array = jax.Array
Key = jax.Array  # A typed PRNG key, `jax.random.key`.
Params = Any  # A pytree of floating-point arrays.
ModelState = Any  # A pytree of arrays that the model changes as it runs (batch statistics), or {}.
Terms = dict[str, Any]  # Named scalars, in the paper's unit.

# One batch. `index` is always there: the number of each example in the run, by which its noise is keyed.
# Image batches have:
#   image  [B, H, W, C] uint8
#   label  [B] int32, -1 where the set has none
#   row    [B] int32, which image of the data set this is
#   index  [B] uint32, `step * global batch size + position in the global batch`
# Evaluation batches also have
#   mask   [B] float32, 1 for an example and 0 for the padding of the ragged last batch
# The train step adds
#   step   [] int32, so that an objective may anneal
Batch = Mapping[str, Any]


class UserError(Exception):
    """What a user can cause: one sentence with what was wrong, what was expected and what to do.

    The command line prints it without a traceback and exits with status 1.
    """


class Objective(Protocol):
    """What a train step differentiates; pure; `loss` is the mean over the batch it is given.

    An objective with statistics of the whole batch in it (`make_train_step(..., whole_batch=True)`) takes a keyword
    `axis_name` as well: the mapped axis of devices over which a statistic is to be averaged, or None.
    """

    def __call__(
        self, params: Params, model_state: ModelState, key: Key, batch: Batch
    ) -> tuple[Array, tuple[ModelState, Terms]]:
        """Returns `(loss [], (model_state, terms))`."""


class Source(Protocol):
    """Batches as a function of the step.

    Attributes:
      num_examples: how many examples one epoch has.
      example_shape: the shape of one example, (H, W, C) for images.
      fingerprint: a hexadecimal digest of every byte of the data, by which a later run knows it again.
      origin: where the data were found, for people.
    """

    num_examples: int
    example_shape: tuple[int, ...]
    fingerprint: str
    origin: str

    def batch(self, step: int) -> dict[str, np.ndarray]:
        """The batch of training step `step`; this process's part of it."""

    def batches(self, step: int, count: int) -> dict[str, np.ndarray]:
        """The batches of `count` steps from `step` on, along a new leading axis."""

    def whole(self) -> Source:
        """The same source as one process alone would have it: `batch` and `evaluation` give whole batches."""

    def evaluation(self) -> Iterable[dict[str, np.ndarray]]:
        """Every example once, in order, in equal batches with a `mask`; this process's part of each."""


@dataclasses.dataclass(frozen=True)
class Grid:
    """A picture: images in rows and columns.

    Attributes:
      title: what a person sees in it.
      images: [rows, columns, H, W, C] in [0, 1], C = 1 or 3.
      row_labels: one short text a row, or empty.
    """

    title: str
    images: np.ndarray
    row_labels: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Scatter:
    """A picture: labelled points in the plane.

    Attributes:
      title: what a person sees in it.
      points: [N, 2].
      labels: [N] integers, by which the points are coloured.
      axes: what the two coordinates are.
    """

    title: str
    points: np.ndarray
    labels: np.ndarray
    axes: tuple[str, str] = ("x", "y")


@dataclasses.dataclass(frozen=True)
class Curves:
    """A picture: lines over one axis.

    Attributes:
      title: what a person sees in it.
      lines: by name, the (x [N], y [N]) of each.
      axes: what the two coordinates are.
      log_y: whether the second has a logarithmic scale.
    """

    title: str
    lines: Mapping[str, tuple[np.ndarray, np.ndarray]]
    axes: tuple[str, str] = ("x", "y")
    log_y: bool = False


@dataclasses.dataclass(frozen=True)
class Panels:
    """A picture: several beside each other, to be compared.

    Attributes:
      panels: from left to right.
    """

    panels: tuple[Grid | Scatter | Curves, ...]

    @property
    def title(self) -> str:
        """What a person sees in it: the titles of all of them."""
        return "; ".join(panel.title for panel in self.panels)


Picture = Grid | Scatter | Curves | Panels


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One run as a record of pure functions; `experiments/<name>.py: build(config)` makes it.

    Attributes:
      train_source: the training examples.
      test_source: the held-out examples.
      init: `key -> TrainState`, the state before the first step.
      train_step: `(state, batch, *, axis_name=None) -> (state, metrics)`. With `steps_per_call` k > 1 every array
        of `batch` has a leading axis [k] and so has every metric.
      eval_step: `(state, batch, *, axis_name=None) -> {name: (sum, count)}` over one evaluation batch.
      report: `{name: mean} -> {name: number}`, the numbers people read, from the means over the whole test set.
      sample: `(state, keys [n]) -> images [n, H, W, C] in [0, 1]`, sample i from key i alone.
      pictures: `state -> {file name without ending: Picture}`; what randomness they need comes from `state.key`.
      assess: `state -> {name: number}`, what takes whole sets to say (a linear probe, a distance between sets): once at
        the end of a run and in `--mode=eval`; None where there is nothing of the kind.
      likelihood_step: like `eval_step`, the slow and accurate evaluation of `--mode=eval`; None where there is none.
      headline: the names in `report` and `assess` that the last line of a run shows, in order, where they are there.
      steps_per_call: how many training steps one call of `train_step` makes.
    """

    train_source: Source
    test_source: Source
    init: Callable[[Key], Any]
    train_step: Callable[..., tuple[Any, Terms]]
    eval_step: Callable[..., dict[str, tuple[Array, Array]]]
    report: Callable[[dict[str, np.ndarray]], dict[str, float]]
    sample: Callable[[Any, Array], Array]
    pictures: Callable[[Any], dict[str, Picture]]
    assess: Callable[[Any], dict[str, float]] | None = None
    likelihood_step: Callable[..., dict[str, tuple[Array, Array]]] | None = None
    headline: tuple[str, ...] = ()
    steps_per_call: int = 1
