"""Builds the embedded classifier's weights from a finished run of `experiments.classifier`.

  python -m experiments.classifier --workdir=runs/classifier
  python -m gen_jax.eval.embedded.build --workdir=runs/classifier --target=weights.npz

The same run gives the same bytes with one version of zlib. The training's last digits depend on the machine, so another
machine's run is another classifier: a new name for its numbers is then due.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from gen_jax.checkpoint import to_arrays
from gen_jax.contracts import UserError
from gen_jax.eval import features


def build(workdir: pathlib.Path, target: pathlib.Path) -> str:
    """Writes the weights of a run as one file.

    Args:
      workdir: of the run.
      target: the .npz file to write.

    Returns:
      `features.digest` of the weights.

    Raises:
      UserError: the workdir has no such run.
    """
    params, _, _ = features.read_run(workdir)
    arrays: dict[str, Any] = dict(sorted(to_arrays(params).items()))
    with target.open("wb") as file:
        np.savez_compressed(file, **arrays)
    return features.digest(params)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line.

    Args:
      arguments: of the command; None for the process's own.
    """
    parser = argparse.ArgumentParser(description="Builds the weights of the embedded classifier.")
    parser.add_argument("--workdir", required=True, type=pathlib.Path, help="of a run of experiments.classifier")
    parser.add_argument("--target", required=True, type=pathlib.Path, help="the .npz file to write")
    options = parser.parse_args(arguments)
    try:
        print(build(options.workdir, options.target))
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
