"""Mixtures of Gaussians in the plane, as endless streams of points: a batch is a function of (seed, step)."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Iterator

import numpy as np

from gen_jax.contracts import UserError
from gen_jax.data.shared import SharedBatches

_WORDS = 4  # How many 64-bit words Philox gives a point, at one count of its counter; three of them are used.


@dataclasses.dataclass(frozen=True, eq=False)
class Mixture:
    """A mixture of equally likely round Gaussians: p(x) = 1/K Σ_k N(x; c_k, σ² I).

    Attributes:
      name: for people.
      centres: [K, 2] float64, c.
      std: σ > 0, of every mode in each coordinate.
    """

    name: str
    centres: np.ndarray
    std: float

    def __post_init__(self) -> None:
        """Checks the numbers.

        Raises:
          UserError: where there is no mode, or a number is not finite or not positive.
        """
        centres = np.asarray(self.centres, np.float64)
        if centres.ndim != 2 or centres.shape[1:] != (2,) or not len(centres) or not np.isfinite(centres).all():
            raise UserError(f"Centres {centres.shape} do not make a mixture in the plane; expected [K, 2], all finite.")
        if not 0 < self.std < np.inf:
            raise UserError(f"The standard deviation {self.std} of a mixture is out of range; expected one above 0.")
        object.__setattr__(self, "centres", centres)

    @classmethod
    def ring(cls, num_modes: int = 8, *, radius: float = 2.0, std: float = 0.02) -> Mixture:
        """Modes on a circle about the origin, at the angles 2πk/K, k = 0 ... K − 1, which are all different.

        See "Unrolled Generative Adversarial Networks", Metz et al., 2017 (arXiv:1611.02163).

        Args:
          num_modes: K ≥ 1.
          radius: of the circle.
          std: σ > 0, of every mode.

        Returns:
          The mixture.

        Raises:
          UserError: where a number is out of range.
        """
        _check_count("num_modes", num_modes)
        angles = 2 * np.pi * np.arange(num_modes) / num_modes
        centres = radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        return cls(f"{num_modes} Gaussians on a ring", centres, std)

    @classmethod
    def grid(cls, side: int = 5, *, spacing: float = 2.0, std: float = 0.05) -> Mixture:
        """Modes on a square grid about the origin: 5 a side are at -2, -1, 0, 1 and 2 times the spacing.

        See "PacGAN: The power of two samples in generative adversarial networks", Lin et al., 2018 (arXiv:1712.04086).

        Args:
          side: how many modes a row and a column have, ≥ 1; K = side².
          spacing: the distance of neighbours.
          std: σ > 0, of every mode.

        Returns:
          The mixture, its modes row by row from the lowest.

        Raises:
          UserError: where a number is out of range.
        """
        _check_count("side", side)
        ticks = spacing * (np.arange(side) - (side - 1) / 2)
        y, x = np.meshgrid(ticks, ticks, indexing="ij")
        return cls(f"{side * side} Gaussians on a grid", np.stack([x.ravel(), y.ravel()], axis=1), std)

    def log_density(self, points: np.ndarray) -> np.ndarray:
        """The mixture's log-density, log p(x) = log 1/K Σ_k N(x; c_k, σ² I).

        Args:
          points: [..., 2] x.

        Returns:
          [...] float64, in nats.
        """
        squares = np.sum((np.asarray(points, np.float64)[..., None, :] - self.centres) ** 2, axis=-1)
        terms = -squares / (2 * self.std**2)
        largest = terms.max(axis=-1)
        total = largest + np.log(np.mean(np.exp(terms - largest[..., None]), axis=-1))
        return total - np.log(2 * np.pi * self.std**2)


def _check_count(name: str, value: int) -> None:
    if value < 1:
        raise UserError(f"{name}={value} makes no mixture; expected at least 1.")


@dataclasses.dataclass(frozen=True, eq=False)
class PointBatches(SharedBatches):
    """An endless stream of independent points of a mixture; a `Source`.

    Training sees no point twice: its example number p = step * batch_size + j is made of the raw bits that the
    counter-based generator Philox has at the count p, which numpy promises not to change. So a point depends on the
    seed and its number alone, however the batches are dealt out. The held-out stream has another key and no seed: it
    is the same in all runs.

    Attributes:
      mixture: which the points are drawn from.
      num_examples: how many points count as an epoch, and how many `evaluation` gives: the first of the stream.
      batch_size: of training, over all processes.
      evaluation_batch_size: of evaluation, over all processes.
      seed: of the stream, in [0, 2^64); without effect on the held-out one.
      held_out: whether this is the held-out stream.
      process_index: which of the processes this is.
      process_count: how many processes share each batch; this one has the `process_index`-th equal part.
      example_shape: (2,).
      fingerprint: a hexadecimal digest of the centres, rounded to 9 decimals, and the standard deviation.
      origin: the mixture's name and standard deviation.
    """

    mixture: Mixture
    num_examples: int
    batch_size: int
    evaluation_batch_size: int
    seed: int
    held_out: bool = False
    process_index: int = 0
    process_count: int = 1
    example_shape: tuple[int, ...] = dataclasses.field(init=False, default=(2,))
    fingerprint: str = dataclasses.field(init=False)
    origin: str = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        """Checks the numbers.

        Raises:
          UserError: where a batch cannot be shared equally, or a number is out of range.
        """
        self.check_shares()
        if self.num_examples < 1:
            raise UserError(f"num_examples={self.num_examples} is out of range; expected at least 1.")
        # Rounded, so that a last bit of a cosine, which is not the same everywhere, makes no other data.
        centres = np.round(self.mixture.centres, 9) + 0.0
        numbers = np.append(centres.ravel(), self.mixture.std).astype("<f8")
        object.__setattr__(
            self, "fingerprint", hashlib.sha256(b"Gaussians in the plane" + numbers.tobytes()).hexdigest()
        )
        object.__setattr__(self, "origin", f"{self.mixture.name}, standard deviation {self.mixture.std:g}")

    def batch(self, step: int) -> dict[str, np.ndarray]:
        """The batch of one training step.

        Args:
          step: from 0 on.

        Returns:
          `point` [b, 2] float32, `label` [b] int32 (the mode), `row` [b] int32 (modulo 2^31) and `index` [b] uint32
          (modulo 2^32), where b = batch_size / process_count: this process's part.
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
        whole = self._points(step * self.batch_size, count * self.batch_size)
        part = self.part(self.batch_size)
        return {name: value.reshape(count, self.batch_size, *value.shape[1:])[:, part] for name, value in whole.items()}

    def whole(self) -> PointBatches:
        """The same batches as one process alone would have them."""
        return dataclasses.replace(self, process_index=0, process_count=1)

    def evaluation(self) -> Iterator[dict[str, np.ndarray]]:
        """The first `num_examples` points of the stream, in order.

        Yields:
          Batches of `point`, `label`, `row` and `index` as in training, and `mask` [b] float32,
          b = evaluation_batch_size / process_count. The padding of the last batch repeats the last point and has the
          mask 0.
        """
        size = self.evaluation_batch_size
        for start in range(0, self.num_examples, size):
            position = np.arange(start, start + size)
            points = self._points(start, min(size, self.num_examples - start))
            rows = np.minimum(position, self.num_examples - 1) - start
            batch = {name: value[rows] for name, value in points.items()}
            batch["mask"] = (position < self.num_examples).astype(np.float32)
            yield {name: value[self.part(size)] for name, value in batch.items()}

    def _points(self, start: int, count: int) -> dict[str, np.ndarray]:
        """The stream's points number `start` to `start + count - 1`."""
        key = np.array([0, 1] if self.held_out else [self.seed, 0], np.uint64)
        words = np.random.Philox(key=key, counter=start).random_raw(count * _WORDS).reshape(count, _WORDS)
        mode = (words[:, 0] % np.uint64(len(self.mixture.centres))).astype(np.int32)
        # Box and Muller (1958): two uniform numbers, the first above 0, make two independent normal ones.
        first, second = ((words[:, i] >> np.uint64(11)) * 2.0**-53 for i in (1, 2))
        length, angle = np.sqrt(-2 * np.log(first + 2.0**-53)), 2 * np.pi * second
        noise = np.stack([length * np.cos(angle), length * np.sin(angle)], axis=1)
        number = start + np.arange(count, dtype=np.int64)
        return {
            "point": (self.mixture.centres[mode] + self.mixture.std * noise).astype(np.float32),
            "label": mode,
            "row": (number % 2**31).astype(np.int32),
            "index": number.astype(np.uint32),  # Wraps modulo 2^32.
        }


def point_sources(
    mixture: Mixture,
    *,
    num_examples: int,
    num_test: int,
    batch_size: int,
    evaluation_batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
) -> tuple[PointBatches, PointBatches]:
    """The training and the test batches of a mixture.

    Args:
      mixture: which to draw from.
      num_examples: how many training points count as an epoch.
      num_test: how many points are held out.
      batch_size: of training, over all processes.
      evaluation_batch_size: of evaluation, over all processes.
      seed: of the training points, in [0, 2^64).
      process_index: which of the processes this is.
      process_count: how many processes share each batch.

    Returns:
      Two sources.

    Raises:
      UserError: where a batch cannot be shared equally, or a number is out of range.
    """
    make = functools.partial(
        PointBatches,
        mixture,
        batch_size=batch_size,
        evaluation_batch_size=evaluation_batch_size,
        seed=seed,
        process_index=process_index,
        process_count=process_count,
    )
    return make(num_examples=num_examples), make(num_examples=num_test, held_out=True)
