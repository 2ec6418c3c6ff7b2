"""What the batches of images, points and rays have in common: a seed, and processes that share each batch."""

from __future__ import annotations

from gen_jax.contracts import Source, UserError


class SharedBatches(Source):
    """A source of which each process has an equal part of every batch.

    Attributes:
      batch_size: of training, over all processes.
      evaluation_batch_size: of evaluation, over all processes.
      seed: in [0, 2^64).
      process_index: which of the processes this is.
      process_count: how many processes share each batch; this one has the `process_index`-th equal part.
    """

    batch_size: int
    evaluation_batch_size: int
    seed: int
    process_index: int
    process_count: int

    def check_shares(self) -> None:
        """Checks the numbers.

        Raises:
          UserError: where a batch cannot be shared equally, or a number is out of range.
        """
        if not 0 <= self.process_index < self.process_count:
            raise UserError(f"There is no process {self.process_index} among {self.process_count}; count from 0.")
        if not 0 <= self.seed < 2**64:
            raise UserError(f"The seed {self.seed} is out of range; expected 0 to 2^64 - 1.")
        for name in ("batch_size", "evaluation_batch_size"):
            size = getattr(self, name)
            if size < 1 or size % self.process_count:
                raise UserError(
                    f"{name}={size} cannot be shared by {self.process_count} process(es) in equal parts; expected a "
                    f"positive multiple of {self.process_count}."
                )

    def part(self, batch_size: int) -> slice:
        """Where this process's part of a batch of so many examples lies."""
        size = batch_size // self.process_count
        return slice(self.process_index * size, (self.process_index + 1) * size)
