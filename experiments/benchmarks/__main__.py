"""Prints the benchmark table: `python -m experiments.benchmarks [--quick]`."""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import platform

from gen_jax import runtime


def main() -> None:
    """Runs every benchmark and prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer turns: a look, not a measurement")
    quick = parser.parse_args().quick
    runtime.configure()

    import jax

    from experiments.benchmarks import autoencoder, diffusion, gan, nerf, vae

    on_cpu = jax.default_backend() == "cpu"
    turns = 5 if quick else 25
    rows = [
        vae.loop_overhead(turns),
        *vae.launch(),
        vae.loader(),
        vae.peak_memory(),
        autoencoder.contraction(turns),
        diffusion.one_program(turns),
        *diffusion.remat_memory(),
        diffusion.group_norm(turns),
        nerf.view_memory(),
        *([diffusion.flags(turns)] if on_cpu else [*diffusion.accelerator(), *nerf.accelerator()]),
    ]
    if importlib.util.find_spec("torch"):
        rows += [*vae.against_torch(turns), autoencoder.against_torch(turns), *gan.against_torch(turns)]
        rows += [*diffusion.weight_gradient(turns), *diffusion.against_torch(turns)]
        rows += nerf.against_torch(turns)
    print(f"\n{datetime.date.today()}, {platform.machine()}, {jax.devices()[0].device_kind}, JAX {jax.__version__}\n")
    print("| what | measured | bound |\n|---|---|---|")
    for what, measured, bound in rows:
        print(f"| {what} | {measured} | {bound} |")


if __name__ == "__main__":
    main()
