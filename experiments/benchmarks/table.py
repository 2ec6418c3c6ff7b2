"""The benchmark table as Markdown: results in, text out."""

from __future__ import annotations

import pathlib
import platform
import re
from collections.abc import Sequence

from experiments.benchmarks.contests import Outcome
from experiments.benchmarks.timing import Row

FOLDER = pathlib.Path(__file__).parent / "tables"
_BEGIN, _END = "<!-- benchmarks: written by `make bench` -->", "<!-- end of benchmarks -->"


def table(heading: str, outcomes: Sequence[Outcome], rows: Sequence[Row]) -> str:
    """The text of a table.

    Args:
      heading: when it was made, and on what.
      outcomes: of the contests.
      rows: what was measured of ours alone.

    Returns:
      Markdown.
    """
    lines = [heading, ""]
    if outcomes:
        lines += [
            "| against PyTorch | ours | PyTorch | ratio (10 to 90 %), turns | bound | peak memory, ours and theirs "
            "| compile, cold and warm |",
            "|---|---|---|---|---|---|---|",
            *map(line, outcomes),
            "",
        ]
    lines += ["| ours alone | measured | bound |", "|---|---|---|"]
    lines += [f"| {what} | {measured} | {bound} |" for what, measured, bound in rows]
    return "\n".join(lines) + "\n"


def line(outcome: Outcome) -> str:
    """The line of a contest.

    Args:
      outcome: what came out of it.

    Returns:
      Markdown.
    """
    contest, peer, ratio, cold, warm, theirs = outcome
    ours_ms, theirs_ms = (1e3 * seconds / contest.steps for seconds in (ratio.seconds, ratio.reference))
    cells = (
        contest.what,
        f"{ours_ms:,.1f} ms",
        f"{theirs_ms:,.1f} ms, {peer}",
        f"{ratio.median:.2f}x ({ratio.low:.2f} to {ratio.high:.2f}), {ratio.turns}",
        f"≤ {contest.bound:.1f}x" if contest.bound else "",
        f"{cold.peak:,.0f} and {theirs.peak:,.0f} MiB",
        f"{cold.first:.1f} and {warm.first:.1f} s",
    )
    return f"| {' | '.join(cells)} |"


def machine() -> str:
    """The processor's name, how many of its cores there are, and the system."""
    info = pathlib.Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.+)$", info.read_text(), re.MULTILINE) if info.exists() else None
    return f"{found[1] if found else platform.processor()} ({platform.machine()}), {platform.system()}"


def newest(folder: pathlib.Path = FOLDER) -> str:
    """The newest table of each kind of device, that of the CPU first.

    Args:
      folder: of the tables, whose files are named `YYYY-MM-DD-KIND.md`.

    Returns:
      Their texts, a line between each two.
    """
    by_kind = {path.stem.split("-", 3)[3]: path for path in sorted(folder.glob("*.md"))}
    kinds = sorted(by_kind, key=lambda kind: (kind != "cpu", kind))
    return "\n".join(by_kind[kind].read_text(encoding="utf-8") for kind in kinds)


def shown(readme: str) -> str:
    """What a README shows between the marks."""
    return readme[slice(*_place(readme))]


def show(readme: str, text: str) -> str:
    """A README with another table between its marks."""
    begin, end = _place(readme)
    return readme[:begin] + text + readme[end:]


def _place(readme: str) -> tuple[int, int]:
    return readme.index(_BEGIN) + len(_BEGIN) + 2, readme.index(_END) - 1
