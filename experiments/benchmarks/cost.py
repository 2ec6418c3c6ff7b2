"""What a function takes in a process of its own: time to compile, and memory.

`python -m experiments.benchmarks.cost NUMBER ours` does the work in this process, for a contest by its number in the
table and one who takes part in it, and prints the result as JSON.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

from gen_jax import runtime


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a process took.

    Attributes:
      first: seconds of the first call over those of a later one: tracing and compiling.
      peak: the largest resident memory of the process, libraries and data included, in MiB.
    """

    first: float
    peak: float


def measure(number: int, name: str, cache: pathlib.Path) -> Cost:
    """Calls one side of a contest in a process of its own.

    Args:
      number: of the contest, in the order of `contests.all_of_them`.
      name: "ours", or that of a peer.
      cache: the folder of compiled programs.

    Returns:
      What it took.
    """
    return Cost(**json.loads(_said("experiments.benchmarks.cost", str(number), name, cache=cache)))


def peak_of_a_run() -> float:
    """The largest resident memory of a whole default run of the VAE, shortened to 200 steps, in MiB."""
    with tempfile.TemporaryDirectory() as folder:
        return float(_said("experiments.benchmarks.cost", "run", folder, cache=pathlib.Path(folder, "cache")))


def _said(module: str, *words: str, cache: pathlib.Path) -> str:
    """The last line that a process printed."""
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache)}
    done = subprocess.run([sys.executable, "-m", module, *words], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)} failed: {done.stderr[-2000:]}")
    return done.stdout.splitlines()[-1]


def _peak() -> float:
    """The largest resident memory of this process so far, in MiB."""
    status = pathlib.Path("/proc/self/status")
    if status.exists():  # What getrusage says on Linux includes the memory of the process that started this one.
        [line] = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        return int(line.split()[1]) / 1024
    scale = 1 if sys.platform == "darwin" else 1024  # Bytes on macOS, KiB elsewhere.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 2**20


def _run(folder: str) -> float:
    from gen_jax import cli

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        cli.main("vae", [f"--workdir={folder}/run", "--config.train.duration=200 steps"])
    return _peak()


def _calls(number: int, name: str) -> Cost:
    runtime.configure()
    from experiments.benchmarks import contests

    contest = contests.all_of_them()[number]
    function = contest.ours() if name == "ours" else contest.peers()[name]
    times = []
    for _ in range(4):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return Cost(max(0.0, times[0] - min(times[1:])), _peak())


if __name__ == "__main__":
    first, second = sys.argv[1:]
    print(_run(second) if first == "run" else json.dumps(dataclasses.asdict(_calls(int(first), second))))
