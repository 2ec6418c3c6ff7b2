"""Runs the `tiny` preset of every experiment and writes one page of their pictures and numbers.

`python -m experiments.demo` runs all, `python -m experiments.demo vae nerf` some. Each is a process of its own, which
the command line of the experiment starts; its workdir is a folder beside the page. The same command again does not
train what is finished. The status is 1 where an experiment could not be run; the page then says which, and why.
"""

from __future__ import annotations

import argparse
import datetime
import pathlib
import platform
import shlex
import time
from collections.abc import Sequence

from experiments.demo import page, results, running
from gen_jax.files import absolute, replace_text
from gen_jax.run import describe, experiment_names


def main(arguments: Sequence[str]) -> int:
    """Runs the experiments one after another, and writes the page.

    Args:
      arguments: those of the command line.

    Returns:
      The exit status: 1 where an experiment could not be run, else 0.

    Raises:
      UserError: for an unknown experiment, before anything is run.
    """
    parser = argparse.ArgumentParser(prog="python -m experiments.demo", description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="an experiment; all of them by default")
    parser.add_argument("--out", default="runs/demo", metavar="DIR", help="where the page is; runs/demo by default")
    options = parser.parse_args(arguments)
    out = absolute(options.out)
    names = list(dict.fromkeys(options.names)) or experiment_names()
    descriptions = {name: describe(name) for name in names}
    out.mkdir(parents=True, exist_ok=True)
    entries = []
    for count, name in enumerate(names, 1):
        print(f"[{count:2} of {len(names)}] {name} ... ", end="", flush=True)
        started = time.monotonic()
        words = ["-m", f"experiments.{name}", "--preset=tiny", f"--workdir={pathlib.Path(options.out, name)}"]
        trouble = running.run(words, out / f"{name}.txt")
        entries.append(results.read(out, name, descriptions[name], shlex.join(["python", *words]), trouble))
        print(f"{time.monotonic() - started:.0f} s{entries[-1].trouble and ': ' + entries[-1].trouble}")
    made = f"{datetime.date.today()}, Python {platform.python_version()}, {platform.machine()}"
    replace_text(out / "index.html", page.page(entries, made))
    print(f"Open in a browser: {out / 'index.html'}")
    return int(any(entry.trouble for entry in entries))


if __name__ == "__main__":
    running.exit_with(main)
