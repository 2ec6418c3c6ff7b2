"""The vocabulary that every layer shares: types and records, no behaviour.

Shapes are written in brackets after the name: `[B, H, W, C]` is a batch of B images of height H, width W and C
channels. `B` is always the number of examples that the function at hand sees.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import jax
import numpy as np

Array = jax.Array
Key = jax.Array  # A typed PRNG key, `jax.random.key`.
Params = Any  # A pytree of floating-point arrays.
ModelState = Any  # A pytree of arrays that the model changes as it runs (batch statistics), or {}.
Terms = dict[str, Any]  # Of a loss: named numbers [], in the paper's unit.
Values = dict[str, Any]  # Of the examples of a batch: named arrays [B], or [B, ...] where each has several numbers.

# One batch. `index` is always there: the number of each example in the run, by which its noise is keyed.
# Image batches have:
#   image  [B, H, W, C] uint8
#   label  [B] int32, -1 where the set has none
#   row    [B] int32, which image of the data set this is
#   index  [B] uint32, `step * global batch size + position in the global batch`
# Batches of points in the plane have `point` [B, 2] float32 instead of the image, and
#   label  [B] int32, which mode of the distribution the point was drawn from
#   row    [B] int32, the number of the point in its endless stream, modulo 2^31
# Batches of rays have, for the pixels of photographs,
#   color       [B, C] uint8, of the pixel; C = 3, or 4 with (straight) alpha
#   pixel       [B, 2] float32, its centre (x, y), x to the right and y down
#   pose        [B, 3, 4] float32, of its camera to the world, with OpenGL's axes (x right, y up, z back)
#   focal       [B, 2] float32, f_x and f_y in pixels
#   center      [B, 2] float32, where the optical axis meets the image
#   distortion  [B, 4] float32, k_1, k_2, p_1, p_2 of the lens, as in OpenCV
#   row         [B] int32, the number of the pixel in the data set, modulo 2^31
# and in evaluation, of B views with R pixels each, color [B, R, C], pixel [B, R, 2] and row [B], the view's number.
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
      example_shape: the shape of one example, (H, W, C) for images, (2,) for points in the plane.
      fingerprint: a hexadecimal digest of every byte of the data, by which a later run knows it again.
      origin: where the data were found, for people.
      notes: what else a model is built by, as JSON has it (a scene's depths); recorded with the rest, so that a run
        whose data are gone can be read back.
    """

    num_examples: int
    example_shape: tuple[int, ...]
    fingerprint: str
    origin: str
    notes: Mapping[str, Any] = types.MappingProxyType({})

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
class Field:
    """A picture: a function over the plane in colours, points on top of it and a density's contours between them.

    What it shows has a fixed place in it, so that the pictures of a film lie on top of each other where `extent` and
    `value_range` stay the same.

    Attributes:
      title: what a person sees in it.
      values: [H, W]; `values[i, j]` is the function at x = linspace(x_min, x_max, W)[j] and
        y = linspace(y_min, y_max, H)[i], so that row 0 is at the bottom.
      extent: (x_min, x_max, y_min, y_max), which part of the plane is shown; points outside of it are counted only.
      points: [N, 2], N may be 0.
      density: [H', W'] laid out like `values`, as fine as it needs to be, or None for no contours.
      value_name: what the values are, beside the scale of colours.
      value_range: (low, high), the ends of the colours, whose neutral one is half-way; None for those of the values.
      axes: what the two coordinates are.
    """

    title: str
    values: np.ndarray
    extent: tuple[float, float, float, float]
    points: np.ndarray
    density: np.ndarray | None = None
    value_name: str = ""
    value_range: tuple[float, float] | None = None
    axes: tuple[str, str] = ("x", "y")


@dataclasses.dataclass(frozen=True)
class Panels:
    """A picture: several beside each other, to be compared.

    Attributes:
      panels: from left to right.
    """

    panels: tuple[Grid | Scatter | Curves | Field, ...]

    @property
    def title(self) -> str:
        """What a person sees in it: the titles of all of them."""
        return "; ".join(panel.title for panel in self.panels)


Still = Grid | Scatter | Curves | Field | Panels


@dataclasses.dataclass(frozen=True)
class Film:
    """A picture that moves: a video, and some of its frames beside each other where only a picture can be.

    Attributes:
      title: what a person sees in it.
      frames: in order, at least one; best all of one size.
      fps: frames a second.
    """

    title: str
    frames: tuple[Still, ...]
    fps: float = 8.0


Picture = Still | Film


@dataclasses.dataclass(frozen=True)
class Shot:
    """A view of a scene.

    Attributes:
      color: [H, W, 3] in [0, 1].
      depth: [H, W] along the optical axis, in the units of the scene's files.
      depth_image: [H, W, 3] in [0, 1], the depth for people.
    """

    color: np.ndarray
    depth: np.ndarray
    depth_image: np.ndarray


@dataclasses.dataclass(frozen=True)
class Mesh:
    """A surface of triangles, in the coordinates of the scene.

    Attributes:
      vertices: [V, 3].
      faces: [F, 3] numbers of vertices, counterclockwise as seen from outside.
      normals: [V, 3] of length 1, to the outside.
      colors: [V, 3] in [0, 1], or None.
    """

    vertices: np.ndarray
    faces: np.ndarray
    normals: np.ndarray
    colors: np.ndarray | None = None


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
      sample: `(state, keys [n]) -> images [n, H, W, C] in [0, 1]`, or points [n, 2]; sample i from key i alone.
      pictures: `state -> {file name without ending: Picture}`; what randomness they need comes from `state.key`. The
        name "training" is that of the film that `frame` makes.
      assess: `state -> {name: number}`, what takes whole sets to say (a linear probe, a distance between sets): once at
        the end of a run and in `--mode=eval`; None where there is nothing of the kind.
      likelihood_step: like `eval_step`, the slow and accurate evaluation of `--mode=eval`; None where there is none.
      headline: the names in `report` and `assess` that the last line of a run shows, in order, where they are there.
      steps_per_call: how many training steps one call of `train_step` makes.
      frame: `state -> Still`, what the run looks like now, of one size always: drawn before the first step, at every
        `train.eval_every` and at the end, and shown as a film of the training; None for none.
      settle: `state -> state`, what must be computed once before a trained state is shown, judged or sampled from
        (batch statistics that belong to averaged weights). `frame`, `pictures`, `assess` and `sample` get what it
        returns; `eval_step` and `likelihood_step` get the state as training left it, and so do checkpoints. Pure, and
        compiled by those who call it.
      warnings: by the name of a training metric, whose last part begins with "warning_" and which is 1 for a step at
        which something is wrong and 0 for any other: the sentence that a person is told, once, where it is 1 for more
        than half of the steps between two logged ones. `metrics.jsonl` has, as of every metric, the mean over the last
        call of `train_step` alone: a row may hold 0 beside a warning, and 1 without one.
      fly: `(state, path, count) -> shots` along a path of that name ("" for the scene's own), one by one; None where a
        model has no views.
      mesh: `state -> Mesh`, the surface of what a model has learned; None where it has none.
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
    frame: Callable[[Any], Still] | None = None
    settle: Callable[[Any], Any] = lambda state: state
    warnings: Mapping[str, str] = dataclasses.field(default_factory=dict)
    fly: Callable[[Any, str, int], Iterable[Shot]] | None = None
    mesh: Callable[[Any], Mesh] | None = None
