"""The batches of a run as a function of (seed, step)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np

from gen_jax.contracts import UserError
from gen_jax.data.shared import SharedBatches
from gen_jax.data.sources import ImageSet, load_images


# A batch lies in one epoch or two, except in tiny sets, for which an order costs nothing.
@functools.lru_cache(maxsize=8)
def epoch_order(num_examples: int, seed: int, epoch: int) -> np.ndarray:
    """The order in which an epoch goes through a set: a permutation keyed by (seed, epoch), and nothing else.

    Args:
      num_examples: N, at least 1.
      seed: in [0, 2^64).
      epoch: in [0, 2^64).

    Returns:
      [N] int64, each of 0 to N - 1 once; read-only, as it is cached.
    """
    philox = np.random.Philox(key=np.array([seed, epoch], np.uint64))
    # numpy promises that raw bits stay the same between versions; of `Generator.permutation` it does not.
    order = np.argsort(philox.random_raw(num_examples), kind="stable").astype(np.int64)
    order.flags.writeable = False
    return order


@dataclasses.dataclass(frozen=True, eq=False)
class ImageBatches(SharedBatches):
    """The batches of a set of images that fits in memory; a `Source`.

    Training is one continuous stream: its example number p = step * batch_size + j is image
    `epoch_order(N, seed, p // N)[p % N]`. So every epoch is exactly a permutation and no image is ever dropped,
    whatever the batch size; the last batch of an epoch goes on into the next.

    Attributes:
      images: [N, H, W, C] uint8.
      labels: [N] int32, -1 where the set has none.
      batch_size: of training, over all processes.
      evaluation_batch_size: of evaluation, over all processes.
      seed: of the order, in [0, 2^64).
      fingerprint: a hexadecimal digest of the images and labels.
      origin: where the images were found.
      process_index: which of the processes this is.
      process_count: how many processes share each batch; this one has the `process_index`-th equal part.
      num_examples: N.
      example_shape: (H, W, C).
    """

    images: np.ndarray
    labels: np.ndarray
    batch_size: int
    evaluation_batch_size: int
    seed: int
    fingerprint: str
    origin: str
    process_index: int = 0
    process_count: int = 1
    num_examples: int = dataclasses.field(init=False)
    example_shape: tuple[int, ...] = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        """Checks the numbers.

        Raises:
          UserError: where a batch cannot be shared equally, or a number is out of range.
        """
        self.check_shares()
        if len(self.images) == 0 or len(self.images) != len(self.labels):
            raise UserError(
                f"There are {len(self.images)} images but {len(self.labels)} labels; expected one each, and some."
            )
        object.__setattr__(self, "num_examples", len(self.images))
        object.__setattr__(self, "example_shape", self.images.shape[1:])

    @classmethod
    def of(
        cls,
        image_set: ImageSet,
        *,
        batch_size: int,
        evaluation_batch_size: int,
        seed: int,
        process_index: int = 0,
        process_count: int = 1,
    ) -> ImageBatches:
        """The batches of a loaded set.

        Args:
          image_set: as `load_images` gives it.
          batch_size: of training, over all processes.
          evaluation_batch_size: of evaluation, over all processes.
          seed: of the order, in [0, 2^64).
          process_index: which of the processes this is.
          process_count: how many processes share each batch.

        Returns:
          A `Source`.

        Raises:
          UserError: where a batch cannot be shared equally, or a number is out of range.
        """
        return cls(
            image_set.images,
            image_set.labels,
            batch_size,
            evaluation_batch_size,
            seed,
            image_set.fingerprint,
            image_set.origin,
            process_index,
            process_count,
        )

    def batch(self, step: int) -> dict[str, np.ndarray]:
        """The batch of one training step.

        Args:
          step: from 0 on.

        Returns:
          `image` [b, H, W, C] uint8, `label` [b] int32, `row` [b] int32 and `index` [b] uint32 (modulo 2^32), where
          b = batch_size / process_count: this process's part.
        """
        return {name: value[0] for name, value in self.batches(step, 1).items()}

    def batches(self, step: int, count: int) -> dict[str, np.ndarray]:
        """The batches of several training steps at once.

        Args:
          step: the first, from 0 on.
          count: how many, at least 1.

        Returns:
          What `batch` gives for step, step + 1, ..., along a new leading axis [count].
        """
        start = step * self.batch_size
        part = self.part(self.batch_size)
        shape = (count, self.batch_size)
        rows = self._rows(start, count * self.batch_size).reshape(shape)[:, part]
        index = np.arange(start, start + count * self.batch_size, dtype=np.int64).reshape(shape)[:, part]
        return self._examples(rows, index)

    def whole(self) -> ImageBatches:
        """The same batches as one process alone would have them."""
        return dataclasses.replace(self, process_index=0, process_count=1)

    def evaluation(self) -> Iterator[dict[str, np.ndarray]]:
        """Every example once, in order.

        Yields:
          Batches of `image`, `label`, `row` and `index` as in training, with row = index = position in the set, and
          `mask` [b] float32, b = evaluation_batch_size / process_count. The padding of the last batch repeats the last
          example and has the mask 0.
        """
        part = self.part(self.evaluation_batch_size)
        for start in range(0, self.num_examples, self.evaluation_batch_size):
            position = np.arange(start, start + self.evaluation_batch_size)[part]
            rows = np.minimum(position, self.num_examples - 1)
            yield {**self._examples(rows, rows), "mask": (position < self.num_examples).astype(np.float32)}

    def _rows(self, start: int, count: int) -> np.ndarray:
        """The images of the stream's numbers `start` to `start + count - 1`, [count] int64."""
        end = start + count
        parts = []
        while start < end:
            epoch, offset = divmod(start, self.num_examples)
            part = epoch_order(self.num_examples, self.seed, epoch)[offset : offset + end - start]
            parts.append(part)
            start += len(part)
        return np.concatenate(parts)

    def _examples(self, rows: np.ndarray, index: np.ndarray) -> dict[str, np.ndarray]:
        return {
            "image": self.images[rows],
            "label": self.labels[rows],
            "row": rows.astype(np.int32),
            "index": index.astype(np.uint32),  # Wraps modulo 2^32.
        }


def image_sources(
    name: str,
    data_dir: str | None = None,
    *,
    batch_size: int,
    evaluation_batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
) -> tuple[ImageBatches, ImageBatches]:
    """The training and the test batches of an image set.

    Args:
      name: of the set, as in `load_images`.
      data_dir: as in `load_images`.
      batch_size: of training, over all processes.
      evaluation_batch_size: of evaluation, over all processes.
      seed: of the order, in [0, 2^64).
      process_index: which of the processes this is.
      process_count: how many processes share each batch.

    Returns:
      Two sources.

    Raises:
      UserError: where the set cannot be found or read, or its two splits differ in the shape of their images.
    """
    train, test = (load_images(name, split, data_dir) for split in ("train", "test"))
    if train.images.shape[1:] != test.images.shape[1:]:
        raise UserError(
            f"The training images of {name} are {train.images.shape[1:]} and its test images "
            f"{test.images.shape[1:]}; bring them to one size."
        )
    make = functools.partial(
        ImageBatches.of,
        batch_size=batch_size,
        evaluation_batch_size=evaluation_batch_size,
        seed=seed,
        process_index=process_index,
        process_count=process_count,
    )
    return make(train), make(test)
