"""Measures, and writes the benchmark table: `python -m experiments.benchmarks [--quick]`."""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import os
import pathlib
import platform
import sys
from collections.abc import Sequence

from experiments.benchmarks import table
from gen_jax import runtime
from gen_jax.contracts import UserError
from gen_jax.files import replace_text

_README = pathlib.Path(__file__).parents[2] / "README.md"


def main(arguments: Sequence[str]) -> None:
    """Runs every benchmark, prints the table, writes it to a dated file, and shows it in the README.

    Args:
      arguments: those of the command line.

    Raises:
      UserError: where contests are to be held that cannot be, before anything is measured.
    """
    parser = argparse.ArgumentParser(prog="python -m experiments.benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer turns and no files: a look, not a measurement")
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="the contests whose names have it; prints them alone"
    )
    options = parser.parse_args(arguments)
    seconds = 2.0 if options.quick else 10.0
    runtime.configure()

    import jax

    from experiments.benchmarks import autoencoder, contests, cost, diffusion, nerf, vae

    kind = jax.devices()[0].device_kind
    on_cpu = jax.default_backend() == "cpu"
    versions = f"Python {platform.python_version()}, JAX {jax.__version__}"
    outcomes, rows = [], []
    if on_cpu or options.only:
        check_peers(jax.default_backend())
        import torch

        versions += f", PyTorch {torch.__version__}"
        for number in contests.chosen(options.only):
            outcomes.append(contests.hold(number, seconds))
            print(table.line(outcomes[-1]), flush=True)
    if not options.only:
        peak = "peak memory of a run of the VAE, data and pictures included"
        for measure in (
            lambda: [vae.loop_overhead(seconds)],
            vae.launch,
            lambda: [vae.loader(seconds)],
            lambda: [(peak, f"{cost.peak_of_a_run():,.0f} MiB", "")],
            lambda: [autoencoder.contraction(seconds)],
            lambda: [diffusion.one_program(seconds)],
            diffusion.remat_memory,
            lambda: [diffusion.group_norm(seconds)],
            lambda: [nerf.view_memory()],
            lambda: [diffusion.flags()] if on_cpu else [*diffusion.accelerator(), *nerf.accelerator()],
            lambda: diffusion.convolutions(seconds) if on_cpu else [],
        ):
            for row in measure():
                print(*row, flush=True)
                rows.append(row)
    date = datetime.date.today()
    heading = f"{date}, {table.machine()}, {os.cpu_count()} cores{'' if on_cpu else f', {kind}'}; {versions}."
    text = table.table(heading, outcomes, rows)
    print(f"\n{text}")
    if not options.quick and not options.only:
        table.FOLDER.mkdir(exist_ok=True)
        path = table.FOLDER / f"{date}-{kind.replace(' ', '-')}.md"
        replace_text(path, text)
        replace_text(_README, table.show(_README.read_text(encoding="utf-8"), table.newest()))
        print(f"Written: {path} and {_README}")


def check_peers(backend: str) -> None:
    """Refuses to hold contests where there is no peer to hold them against: a table without them would replace one.

    Args:
      backend: of JAX.

    Raises:
      UserError: where PyTorch is not installed, or would compute on another device than JAX.
    """
    if backend != "cpu":
        raise UserError(f"The peers compute on the CPU, and JAX on a {backend}; set JAX_PLATFORMS=cpu for contests.")
    if not importlib.util.find_spec("torch"):
        raise UserError("The contests against PyTorch need PyTorch; `make bench` installs it.")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"error: {error}")
