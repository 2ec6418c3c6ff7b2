"""The README says what is there: experiments and their numbers, commands, files, notebooks."""

from __future__ import annotations

import pathlib
import re
import shlex

import pytest

from gen_jax import run

ROOT = pathlib.Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
NAMES = run.experiment_names()


def numbers(text):
    """The numbers in a text, with how many digits follow the point."""
    found = [number.replace(",", "").replace("−", "-") for number in re.findall(r"[-−]?\d+(?:,\d{3})*(?:\.\d+)?", text)]
    return [(float(number), len(number.partition(".")[2])) for number in found]


def family_rows():
    """The cells of the table of families, by experiment: the first of its rows."""
    rows: dict[str, list[str]] = {}
    for line in README.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        name = re.fullmatch(r"`python -m experiments\.(\w+).*`", cells[1]) if len(cells) == 5 else None
        if line.startswith("|") and name:
            rows.setdefault(name[1], cells)
    return rows


def commands():
    """The words of every `python -m experiments.NAME ...` in the README, without line breaks and comments."""
    text = README.replace("\\\n", " ")
    found = re.findall(r"python -m experiments\.\w+[^`\n]*", text)
    return [shlex.split(command.replace('"', " "), comments=True)[2:] for command in found]


@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_has_its_row_and_its_number(name):
    row = family_rows()[name]
    value, digits = numbers(run.describe(name).facts["Expected"])[0]
    assert any(round(other, digits) == value for other, _ in numbers(row[2])), row[2]
    assert re.search(r"\d+ (s|min)\b", row[3]), "how long it takes"


def test_every_command_is_one():
    assert len(commands()) > 20
    for module, *words in commands():
        name = module.removeprefix("experiments.")
        if name in ("demo", "benchmarks"):
            continue
        presets = [word.partition("=")[2] for word in words if word.startswith("--preset=")]
        config = run.find_experiment(name).get_config(*presets)
        for word in words:
            if word.startswith("--config."):
                section = config
                for key in word.removeprefix("--config.").partition("=")[0].split("."):
                    assert key in section, f"{module} {word}"
                    section = section[key]


def test_every_link_into_the_repository_leads_somewhere():
    links = re.findall(r"\]\((?!https?://|#)([^)]+)\)", README)
    files = re.findall(r"/github/gen-jax/gen_jax/blob/main/([^)]+)\)", README)
    named = re.findall(r"`((?:gen_jax|experiments|tests|colabs)/[\w/.]+)`", README)
    assert len(links) >= 3 and len(files) >= 6 and len(named) >= 10
    for path in {*links, *files, *named}:
        assert (ROOT / path).exists(), path


def test_every_notebook_of_a_family_has_its_badge_in_the_table():
    badges = set(re.findall(r"blob/main/colabs/(\w+)\.ipynb", README))
    assert badges == {path.stem for path in (ROOT / "colabs").glob("*.ipynb")}


def test_every_target_of_make_is_one():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([\w-]+):", makefile, re.MULTILINE))
    named = set(re.findall(r"`make ([\w-]+)", README)) | set(re.findall(r"^make ([\w-]+)$", README, re.MULTILINE))
    assert {"run", "test"} <= named <= targets
