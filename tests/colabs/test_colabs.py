"""The notebooks: each is its source's, keeps the form of all, and runs from the top without a complaint."""

from __future__ import annotations

import base64
import io
import pathlib
import re
import resource
import tomllib

import jax
import nbclient
import nbformat
import pytest
import tqdm

from colabs import __main__ as colabs

ROOT = pathlib.Path(__file__).parents[2]
REPOSITORY = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
SOURCES = colabs.sources()
MOST_CODE_CELLS = 15
MOST_SECONDS = 180

INSTALL = f"""\
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("gen_jax") is None:  # As on a fresh Colab machine. Its CPU is enough.
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "git+{REPOSITORY}"], check=True)"""

# Run before a notebook's first cell: what would pass with a warning, or by way of the network, fails.
STRICT = """\
import socket
import warnings

warnings.simplefilter("error")
warnings.filterwarnings("default", module="ipykernel")  # The kernel's own affairs, at its end.


def connect(self, address):
    raise AssertionError(f"The notebook wants the network: {address}.")


socket.socket.connect = socket.socket.connect_ex = connect
del connect"""

# What tqdm draws: "loss:  12%|█▏   | 50/400 [00:01<00:07, 45.1step/s]", and the blanks by which it clears a line.
PROGRESS = re.compile(r"\s*([^|]*\d+%\|.*\|\s*\S+/\S+ \[.*\]\s*)?(\x1b\[A)*")

each = pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)


def cells(source: pathlib.Path, kind: str) -> list[str]:
    notebook = nbformat.reads(colabs.notebook(source), as_version=4)
    return [cell.source for cell in notebook.cells if cell.cell_type == kind]


def headings(source: pathlib.Path) -> list[str]:
    lines = "\n".join(cells(source, "markdown")).splitlines()
    return [line.lstrip("# ") for line in lines if re.match(r"#+ ", line)]


def test_every_notebook_has_a_source():
    assert SOURCES
    assert [source.with_suffix(".ipynb") for source in SOURCES] == sorted((ROOT / "colabs").glob("*.ipynb"))


@each
def test_the_page_of_the_notebooks_has_its_row(source):
    assert f"| `{source.stem}` |" in (ROOT / "colabs" / "README.md").read_text(encoding="utf-8")


@each
def test_notebook_is_what_its_source_makes(source):
    """Byte for byte, and so without outputs; `make colabs` writes it."""
    assert source.with_suffix(".ipynb").read_text(encoding="utf-8") == colabs.notebook(source)


def test_notebooks_have_no_outputs_and_are_valid():
    for source in SOURCES:
        notebook = nbformat.reads(colabs.notebook(source), as_version=4)
        nbformat.validate(notebook)
        for cell in notebook.cells:
            assert cell.get("outputs", []) == []
            assert cell.get("execution_count") is None


@each
def test_opens_in_colab_by_its_badge(source):
    path = REPOSITORY.removeprefix("https://github.com/") + f"/blob/main/colabs/{source.stem}.ipynb"
    first = cells(source, "markdown")[0].splitlines()[0]
    assert first == (
        "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
        f"(https://colab.research.google.com/github/{path})"
    )


@each
def test_installs_once_and_only_where_the_package_is_missing(source):
    code = cells(source, "code")
    assert code[0] == INSTALL
    assert not any(re.search(r"\bpip\b", cell) for cell in code[1:])


@each
def test_is_short_and_holds_no_model_code(source):
    code = cells(source, "code")
    assert len(code) <= MOST_CODE_CELLS
    text = "\n".join(code)
    assert re.search(r"^import gen_jax$", text, re.MULTILINE)
    assert not re.search(r"(?<!jax\.)\bnn\.|\bflax\b|\bhaiku\b|\bequinox\b|^\s*class ", text, re.MULTILINE)


@each
def test_ends_with_what_it_leaves_out(source):
    assert headings(source)[-1] == "What this leaves out"
    assert headings(source).count("What this leaves out") == 1


@each
def test_reads_a_workdir_back_and_has_something_to_turn(source):
    text = "\n".join(cells(source, "code"))
    assert "gen_jax.load(" in text
    assert re.search(r'^\w+ = \S+ {2}# @param \{"?type"?: ?"slider"', text, re.MULTILINE)


def processor_seconds() -> float:
    """What processes begun here and ended have computed: how long it takes one core, however busy the machine is."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.fixture
def run_strictly(tmp_path, monkeypatch):
    """Runs a notebook headless, offline and in an empty folder; gives its outputs and what it complained of."""
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "TMPDIR"):
        folder = tmp_path / name.lower()  # A person's own settings and kernels have no say.
        folder.mkdir()
        monkeypatch.setenv(name, str(folder))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(jax.config.jax_compilation_cache_dir))
    work = tmp_path / "work"
    work.mkdir()

    def run(notebook, name):
        strict = nbformat.v4.new_code_cell(STRICT)
        del strict["id"]
        notebook.cells.insert(0, strict)
        resources = {"metadata": {"path": str(work)}}
        client = nbclient.NotebookClient(notebook, timeout=3 * MOST_SECONDS, kernel_name="python3", resources=resources)
        try:
            client.execute()
        finally:
            nbformat.write(notebook, tmp_path / name)  # To be looked at, with its pictures.
        outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
        errors = [o.text for o in outputs if o.output_type == "stream" and o.name == "stderr"]
        lines = [line for text in errors for line in re.split(r"[\r\n]", text)]
        return outputs, [line for line in lines if not PROGRESS.fullmatch(line)]

    return run


@each
def test_runs_without_an_error_or_a_warning(source, run_strictly):
    before = processor_seconds()
    path = source.with_suffix(".ipynb")
    outputs, complaints = run_strictly(nbformat.read(path, as_version=4), path.name)
    assert complaints == []
    assert processor_seconds() - before < MOST_SECONDS
    pictures = [output.data["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    assert pictures
    assert all(base64.b64decode(picture).startswith(b"\x89PNG") for picture in pictures)


BAD = {
    "error": "1 / 0",
    "warning": "import warnings\nwarnings.warn('this')",
    "network": "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:9')",
    "stderr": "import sys\nprint('this: 50% of it | is bad', file=sys.stderr)",
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_notebook_would_not_pass(name, run_strictly):
    """What the test above rests on: each of these is seen."""
    cell = nbformat.v4.new_code_cell(BAD[name])
    del cell["id"]
    notebook = nbformat.v4.new_notebook(cells=[cell], nbformat_minor=4)
    if name == "stderr":
        assert run_strictly(notebook, "bad.ipynb")[1] == ["this: 50% of it | is bad"]
    else:
        expected = {"error": "ZeroDivisionError", "warning": "UserWarning", "network": "wants the network"}
        with pytest.raises(nbclient.exceptions.CellExecutionError, match=expected[name]):
            run_strictly(notebook, "bad.ipynb")


def test_a_progress_bar_is_no_complaint():
    bar = tqdm.tqdm(total=400, unit="step", file=io.StringIO())
    bar.update(130)
    bar.set_postfix(loss="300.4")
    drawn = str(bar)
    bar.close()
    assert "130/400" in drawn and PROGRESS.fullmatch(drawn)
    assert not PROGRESS.fullmatch("WARNING: 12% of it")
