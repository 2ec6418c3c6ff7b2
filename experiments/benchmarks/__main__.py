"""Measures, and writes the benchmark table: `python -m experiments.benchmarks [--quick]`."""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import os
import pathlib
import platform

from experiments.benchmarks import table
from gen_jax import runtime
from gen_jax.files import replace_text

_README = pathlib.Path(__file__).parents[2] / "README.md"


def main() -> None:
    """Runs every benchmark, prints the table, writes it to a dated file, and shows it in the README."""
    parser = argparse.ArgumentParser(prog="python -m experiments.benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer turns and no files: a look, not a measurement")
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="the contests whose names have it; prints them alone"
    )
    options = parser.parse_args()
    seconds = 2.0 if options.quick else 10.0
    runtime.configure()

    import jax

    from experiments.benchmarks import autoencoder, contests, cost, diffusion, nerf, vae

    on_cpu = jax.default_backend() == "cpu"
    versions = f"Python {platform.python_version()}, JAX {jax.__version__}"
    outcomes, rows = [], []
    if importlib.util.find_spec("torch"):
        import torch

        versions += f", PyTorch {torch.__version__}"
        for number, contest in enumerate(contests.all_of_them()):
            if options.only in contest.what:
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
            lambda: diffusion.weight_gradient(seconds) if outcomes else [],
        ):
            for row in measure():
                print(*row, flush=True)
                rows.append(row)
    kind = "" if on_cpu else f", {jax.devices()[0].device_kind}"
    date = datetime.date.today()
    heading = f"{date}, {table.machine()}, {os.cpu_count()} cores{kind}; {versions}."
    text = table.table(heading, outcomes, rows)
    print(f"\n{text}")
    if not options.quick and not options.only:
        table.FOLDER.mkdir(exist_ok=True)
        path = table.FOLDER / f"{date}-{jax.devices()[0].device_kind.replace(' ', '-')}.md"
        replace_text(path, text)
        replace_text(_README, table.show(_README.read_text(encoding="utf-8"), text))
        print(f"Written: {path} and {_README}")


if __name__ == "__main__":
    main()
