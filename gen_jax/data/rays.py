"""The rays of a scene's photographs as batches: a batch is a function of (seed, step)."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from gen_jax.contracts import UserError
from gen_jax.data.scenes import Scene, Views
from gen_jax.data.shared import SharedBatches


@dataclasses.dataclass(frozen=True, eq=False)
class RayBatches(SharedBatches):
    """Rays of views: for training, pixels drawn from all views or from one; for evaluation, whole views.

    The pixels of step s are drawn with replacement, by bits that depend on (seed, s) alone.

    Attributes:
      views: the photographs and cameras.
      batch_size: rays of a training step, over all processes.
      evaluation_batch_size: views of an evaluation batch, over all processes.
      seed: of the drawing, in [0, 2^64).
      fingerprint: of the scene.
      origin: where the scene was found.
      one_view: whether all rays of a step are of one view, as in NeRF's recipe for Blender scenes.
      stride: of the pixels of an evaluation view: every so many-th in both directions; 1 for all.
      notes: what else a model is built by.
      process_index: which of the processes this is.
      process_count: how many processes share each batch; this one has the `process_index`-th equal part.
      by_view: whether an example is a view, as it is where views are judged, and not a pixel.
      num_examples: how many pixels the views have, or how many views there are.
      example_shape: (H, W, C).
    """

    views: Views
    batch_size: int
    evaluation_batch_size: int
    seed: int
    fingerprint: str
    origin: str
    one_view: bool = False
    stride: int = 1
    notes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    process_index: int = 0
    process_count: int = 1
    by_view: bool = False
    num_examples: int = dataclasses.field(init=False)
    example_shape: tuple[int, ...] = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        """Checks the numbers.

        Raises:
          UserError: where a batch cannot be shared equally, or a number is out of range.
        """
        self.check_shares()
        if self.stride < 1:
            raise UserError(f"stride={self.stride}; every so many-th pixel is evaluated, so expected 1 or more.")
        num_examples = len(self.views) if self.by_view else int(np.prod(self.views.images.shape[:3]))
        object.__setattr__(self, "num_examples", num_examples)
        object.__setattr__(self, "example_shape", self.views.images.shape[1:])

    def batch(self, step: int) -> dict[str, np.ndarray]:
        """The rays of one training step.

        Args:
          step: from 0 on.

        Returns:
          `color` [b, C] uint8, `pixel` [b, 2] float32 the centre of each pixel, the camera `pose` [b, 3, 4], `focal`
          [b, 2], `center` [b, 2] and `distortion` [b, 4] float32, `row` [b] int32 the number of the pixel modulo 2^31,
          and `index` [b] uint32, where b = batch_size / process_count: this process's part.
        """
        bits = np.random.Philox(key=np.array([self.seed, step], np.uint64)).random_raw(self.batch_size + 1)
        count, height, width = self.views.images.shape[:3]
        if self.one_view:
            rows = (bits[-1] % np.uint64(count)) * np.uint64(height * width) + bits[:-1] % np.uint64(height * width)
        else:
            rows = bits[:-1] % np.uint64(count * height * width)
        part = self.part(self.batch_size)
        view, pixel = np.divmod(rows.astype(np.int64)[part], height * width)
        y, x = np.divmod(pixel, width)
        index = np.arange(step * self.batch_size, (step + 1) * self.batch_size, dtype=np.int64)[part]
        return self._rays(view, y, x) | {
            "row": (rows[part] % np.uint64(2**31)).astype(np.int32),
            "index": index.astype(np.uint32),  # Wraps modulo 2^32.
        }

    def batches(self, step: int, count: int) -> dict[str, np.ndarray]:
        """The rays of several training steps, along a new leading axis [count]."""
        found = [self.batch(step + i) for i in range(count)]
        return {name: np.stack([batch[name] for batch in found]) for name in found[0]}

    def whole(self) -> RayBatches:
        """The same batches as one process alone would have them."""
        return dataclasses.replace(self, process_index=0, process_count=1)

    def evaluation(self) -> Iterator[dict[str, np.ndarray]]:
        """Every view once, in order.

        Yields:
          Batches of views: `color` [b, R, C], `pixel` [b, R, 2], the cameras `pose`, `focal`, `center` and
          `distortion` as in training, `row` and `index` the view's number, and `mask` [b] float32. R pixels of each are
          on a grid of the stride; the padding of the last batch repeats the last view and has the mask 0.
        """
        height, width = self.views.images.shape[1:3]
        y, x = (a.ravel() for a in np.mgrid[: height : self.stride, : width : self.stride])
        part = self.part(self.evaluation_batch_size)
        for start in range(0, len(self.views), self.evaluation_batch_size):
            position = np.arange(start, start + self.evaluation_batch_size)[part]
            rows = np.minimum(position, len(self.views) - 1)
            yield self._rays(rows, y, x, whole=True) | {
                "row": rows.astype(np.int32),
                "index": rows.astype(np.uint32),
                "mask": (position < len(self.views)).astype(np.float32),
            }

    def _rays(self, view: np.ndarray, y: np.ndarray, x: np.ndarray, *, whole: bool = False) -> dict[str, np.ndarray]:
        """Pixels of views, one each, or all of them of each view."""
        pixel = np.stack([x, y], axis=-1).astype(np.float32) + 0.5
        images = self.views.images
        return {
            "color": images[view[:, None], y[None], x[None]] if whole else images[view, y, x],
            "pixel": np.broadcast_to(pixel, (len(view), *pixel.shape)) if whole else pixel,
            "pose": self.views.poses[view],
            "focal": self.views.focal[view],
            "center": self.views.center[view],
            "distortion": self.views.distortion[view],
        }


def ray_sources(
    scene: Scene,
    *,
    batch_size: int,
    evaluation_batch_size: int,
    seed: int,
    one_view: bool = False,
    stride: int = 1,
    notes: Mapping[str, Any] = types.MappingProxyType({}),
    process_index: int = 0,
    process_count: int = 1,
) -> tuple[RayBatches, RayBatches]:
    """The training and the test rays of a scene.

    Args:
      scene: the scene.
      batch_size: rays of a training step, over all processes.
      evaluation_batch_size: views of an evaluation batch, over all processes.
      seed: of the drawing, in [0, 2^64).
      one_view: whether all rays of a step are of one view.
      stride: of the pixels of test views.
      notes: what else a model is built by.
      process_index: which of the processes this is.
      process_count: how many processes share each batch.

    Returns:
      Two sources.

    Raises:
      UserError: as `RayBatches`.
    """
    train, test = (
        RayBatches(
            views,
            batch_size,
            evaluation_batch_size,
            seed,
            scene.fingerprint,
            scene.origin,
            one_view,
            stride,
            notes,
            process_index,
            process_count,
            by_view,
        )
        for views, by_view in ((scene.train, False), (scene.test, True))
    )
    return train, test
