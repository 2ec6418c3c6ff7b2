"""The benchmark table: how contestants are timed, what the table says, and that the README shows the newest."""

from __future__ import annotations

import importlib.util
import pathlib
import time

import pytest

from experiments.benchmarks import __main__ as command
from experiments.benchmarks import contests, cost, table, timing
from experiments.benchmarks.contests import Outcome
from experiments.benchmarks.timing import Contest
from gen_jax.contracts import UserError

README = pathlib.Path(__file__).parents[2] / "README.md"


def test_a_ratio_is_ours_over_theirs():
    ratios = timing.interleave(lambda: time.sleep(0.02), {"slow": lambda: time.sleep(0.08)}, seconds=0.0)
    assert ratios["slow"].turns == 5
    assert 0.2 < ratios["slow"].median < 0.35
    assert ratios["slow"].low <= ratios["slow"].median <= ratios["slow"].high
    assert 0.02 <= ratios["slow"].seconds < 0.05


def test_turns_end_when_the_time_is_up_or_there_are_enough():
    assert timing.ratio(lambda: time.sleep(0.3), lambda: None, seconds=2.0).turns in (6, 7, 8)
    assert timing.ratio(lambda: time.sleep(0.2), lambda: None, seconds=60.0).turns == 25


def test_a_row_of_the_table():
    contest = Contest("a step", lambda: lambda: None, lambda: {}, steps=10, bound=1.0)
    ratio = timing.Ratio(seconds=0.05, reference=0.1, median=0.5, low=0.4, high=0.6, turns=7)
    costs = cost.Cost(12.0, 900.0), cost.Cost(1.5, 800.0), cost.Cost(0.0, 1000.0)
    text = table.table("Today, here.", [Outcome(contest, "eager", ratio, *costs)], [("memory", "1 MiB", "≤ 2 MiB")])
    row = "| a step | 5.0 ms | 10.0 ms, eager | 0.50x (0.40 to 0.60), 7 | ≤ 1.0x | 900 and 1,000 MiB | 12.0 and 1.5 s |"
    assert row in text.splitlines()
    assert "| memory | 1 MiB | ≤ 2 MiB |" in text.splitlines()
    assert text.startswith("Today, here.\n\n|")
    cells = {line.count("|") for line in text.splitlines() if "MiB |" in line or "bound" in line or "---" in line}
    assert cells == {4, 8}, "header, rule and row are as wide as each other"


def test_the_readme_shows_the_newest_table():
    readme = README.read_text(encoding="utf-8")
    assert table.shown(readme) == table.newest()
    assert table.shown(table.show(readme, "another\n")) == "another\n"
    assert table.show(table.show(readme, "another\n"), table.newest()) == readme


def test_the_newest_table_of_each_kind_of_device_is_shown(tmp_path):
    """A table of a GPU does not take the place of that of the CPU, which comes first."""
    for name in ("2026-11-21-cpu", "2026-11-22-cpu", "2026-11-22-NVIDIA-H200", "2026-11-20-TPU-v4"):
        (tmp_path / f"{name}.md").write_text(f"{name}\n", encoding="utf-8")
    assert table.newest(tmp_path) == "2026-11-22-cpu\n\n2026-11-22-NVIDIA-H200\n\n2026-11-20-TPU-v4\n"


def test_contests_are_chosen_by_a_part_of_their_names():
    names = [contest.what for contest in contests.all_of_them()]
    assert contests.chosen("") == list(range(len(names)))
    assert [names[number] for number in contests.chosen("deep auto")] == [n for n in names if n.startswith("deep auto")]
    for text, nearest in (("dcgna", "dcgan"), ("vae", "VAE"), ("NERF", "NeRF"), ("U-Ned", "U-Net")):
        with pytest.raises(UserError, match=f"No contest has '{text}' in its name; the nearest is '.*{nearest}"):
            contests.chosen(text)


@pytest.mark.parametrize("arguments", [[], ["--quick"], ["--only=VAE"]])
def test_without_peers_nothing_is_measured_or_written(monkeypatch, tmp_path, arguments):
    """A table without contests would replace one that has them."""
    monkeypatch.setattr(command.runtime, "configure", lambda: None)  # This process has been set up by the tests.
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(command, "_README", tmp_path / "README.md")
    monkeypatch.setattr(table, "FOLDER", tmp_path / "tables")
    monkeypatch.setattr(contests, "hold", lambda *_: pytest.fail("a contest was held"))
    with pytest.raises(UserError, match="need PyTorch; `make bench` installs it"):
        command.main(arguments)
    assert not list(tmp_path.iterdir())


def test_peers_are_on_the_same_device():
    with pytest.raises(UserError, match="JAX on a gpu; set JAX_PLATFORMS=cpu"):
        command.check_peers("gpu")


def test_every_family_has_its_contests():
    names = [contest.what for contest in contests.all_of_them()]
    assert len(set(names)) == len(names)
    for family in ("VAE", "autoencoder", "dcgan", "wgan_gp", "DDPM", "NeRF"):
        assert any(family in name for name in names), family


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(contests.all_of_them())), ids=lambda n: contests.all_of_them()[n].what)
def test_both_sides_of_a_contest_compute_the_same(number):
    contests.all_of_them()[number].check()


@pytest.mark.slow
def test_a_contest_is_held():
    [number] = [i for i, contest in enumerate(contests.all_of_them()) if "deep autoencoder" in contest.what]
    outcome = contests.hold(number, seconds=0.0)
    assert outcome.peer == "eager"
    assert 0.1 < outcome.ratio.median < 10
    assert outcome.cold.first > outcome.warm.first > 0
    assert 100 < outcome.cold.peak < 5000
    assert 100 < outcome.theirs.peak < 5000
