"""The page of all experiments, looked at in a browser; what the browser must find is tried on broken pages too."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import html.parser
import json
import os
import pathlib
import select
import shutil
import signal
import subprocess
import time
import urllib.parse

import numpy as np
import pytest
from PIL import Image

from experiments.demo import __main__ as demo
from experiments.demo import page, results
from gen_jax import run
from gen_jax.contracts import UserError
from gen_jax.train.film import write_video

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")

# What the browser itself says of a page: which images and films it could not read, whether the page is wider than the
# window, and the least contrast of text with what is behind it (WCAG 2, 1.4.3).
LOOK = """(async () => {
  const unread = [];
  const images = [...document.images], films = [...document.querySelectorAll("video")];
  for (const image of images) {
    await image.decode().catch(() => unread.push(image.getAttribute("src")));
    if (!(image.naturalWidth > 0)) unread.push(image.getAttribute("src"));
  }
  for (const film of films) {
    if (!film.error && film.readyState < 2)
      await new Promise((done) => { film.onloadeddata = film.onerror = done; });
    if (film.error || !(film.videoWidth > 0)) unread.push(film.getAttribute("src"));
  }
  const numbers = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = (color) => {
    const parts = numbers(color).map((c) => c / 255);
    const [r, g, b] = parts.map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    const color = element ? getComputedStyle(element).backgroundColor : "rgb(255, 255, 255)";
    return numbers(color)[3] === 0 ? behind(element.parentElement) : color;
  };
  const texts = "h1, h2, p, a, li, code, dt, dd, th, td, caption, figcaption, strong";
  const contrasts = [...document.querySelectorAll(texts)].filter((e) => e.checkVisibility())
    .map((e) => [light(getComputedStyle(e).color), light(behind(e))])
    .map(([a, b]) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05));
  return {
    unread, images: images.length, films: films.length, contrast: Math.min(...contrasts),
    too_wide: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    paper: getComputedStyle(document.body).backgroundColor,
  };
})()"""


class Browser:
    """Headless Chromium, driven over two pipes by its DevTools protocol: JSON messages, each with a 0 at its end."""

    def __init__(self, folder: pathlib.Path):
        """Starts it with its files in a folder."""
        here, there = os.pipe(), os.pipe()
        # Above 9, so that neither is overwritten when they become the numbers 3 and 4 that Chromium reads and writes.
        reads, writes = (fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (here[0], there[1]))
        os.close(here[0]), os.close(there[1])
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        flags += ["--remote-debugging-pipe", f"--user-data-dir={folder}", "about:blank"]
        start = f'exec "$@" 3<&{reads} 4>&{writes}'
        self._log = (folder / "log.txt").open("wb")
        self._process = subprocess.Popen(
            ["bash", "-c", start, "bash", CHROMIUM, *flags],
            pass_fds=(reads, writes),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )
        os.close(reads), os.close(writes)
        self._write, self._read = here[1], there[0]
        self._unread, self._count, self._events = b"", 0, []

    def close(self):
        """Ends it and all its processes."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._write), os.close(self._read)
        self._log.close()

    def _message(self, seconds: float = 60.0) -> dict:
        deadline = time.monotonic() + seconds
        while b"\0" not in self._unread:
            ready, _, _ = select.select([self._read], [], [], max(0.0, deadline - time.monotonic()))
            part = os.read(self._read, 1 << 20) if ready else b""
            if not part:
                raise TimeoutError(f"Chromium does not answer: {pathlib.Path(self._log.name).read_text()}")
            self._unread += part
        message, self._unread = self._unread.split(b"\0", 1)
        return json.loads(message)

    def call(self, method: str, session: str | None = None, **params) -> dict:
        """The answer to one command; the events that come before it are kept."""
        self._count += 1
        words = {"id": self._count, "method": method, "params": params} | ({"sessionId": session} if session else {})
        os.write(self._write, json.dumps(words).encode() + b"\0")
        while True:
            message = self._message()
            if message.get("id") == self._count:
                assert "error" not in message, message
                return message["result"]
            self._events.append(message)

    def look(self, path: pathlib.Path, width: int = 1280, scheme: str = "light", picture: pathlib.Path | None = None):
        """What `LOOK` says of a page, with the errors and warnings of the console and the addresses asked for."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._events.clear()
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable", session)
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", session, **size)
        media = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", session, features=media)
        self.call("Page.navigate", session, url=path.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self._events):
            self._events.append(self._message())
        options = {"awaitPromise": True, "returnByValue": True}
        answer = self.call("Runtime.evaluate", session, expression=LOOK, **options)
        assert "exceptionDetails" not in answer, answer
        if picture is not None:
            shot = self.call("Page.captureScreenshot", session, captureBeyondViewport=True)
            picture.write_bytes(base64.b64decode(shot["data"]))
        self.call("Target.closeTarget", targetId=target)
        happened = [(event["method"], event["params"]) for event in self._events if event.get("sessionId") == session]
        said = [text for method, params in happened for text in complaints(method, params)]
        asked = [params["request"]["url"] for method, params in happened if method == "Network.requestWillBeSent"]
        return answer["result"]["value"] | {"said": said, "asked": asked}


def complaints(method: str, params: dict) -> list[str]:
    """What an event of the protocol adds to the console as an error or a warning."""
    if method == "Runtime.exceptionThrown":
        return [params["exceptionDetails"].get("exception", {}).get("description", "an exception")]
    if method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
        return [" ".join(str(argument.get("value")) for argument in params["args"])]
    if method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
        return [f"{params['entry']['text']} {params['entry'].get('url', '')}"]
    return []


def flaws(browser: Browser, path: pathlib.Path) -> list[str]:
    """All that is wrong with a page, on a desktop and on a phone, light and dark."""
    found, papers = [], []
    for width, scheme in ((1280, "light"), (390, "dark")):
        seen = browser.look(path, width, scheme)
        found += [f"not read: {place}" for place in seen["unread"]] + seen["said"]
        found += [f"asks for {url}" for url in seen["asked"] if not url.startswith(("file:", "data:"))]
        if seen["too_wide"] > 0:
            found.append(f"{seen['too_wide']} pixels wider than a window of {width}")
        if seen["contrast"] < 4.5:
            found.append(f"contrast {seen['contrast']:.1f} in {scheme}")
        papers.append(seen["paper"])
    if papers[0] == papers[1]:
        found.append(f"{papers[0]} in the light and in the dark")
    return found


class Outline(html.parser.HTMLParser):
    """The elements of a page; one that is not closed where it was opened is an error."""

    VOID = ("meta", "link", "img", "br")

    def __init__(self, text: str):
        """Reads a page."""
        super().__init__()
        self.elements, self.words, self._open = [], [], []
        self.feed(text)
        self.close()
        assert not self._open, self._open

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs), attrs
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag, (tag, self.getpos())

    def handle_data(self, data):
        self.words.append(data)

    def all(self, tag: str, attribute: str) -> list:
        return [attributes.get(attribute) for name, attributes in self.elements if name == tag]


def check_outline(path: pathlib.Path, names) -> Outline:
    """Checks headings, texts beside pictures, and that every link leads to a file beside the page."""
    outline = Outline(path.read_text())
    tags = [tag for tag, _ in outline.elements]
    assert tags.count("h1") == tags.count("main") == 1 and tags.count("h2") == len(names)
    ids = [attributes["id"] for _, attributes in outline.elements if "id" in attributes]
    assert len(set(ids)) == len(ids) and set(names) <= set(ids)
    assert all(outline.all("img", "alt")) and all(outline.all("video", "aria-label"))
    links = [attributes.get(key) for _, attributes in outline.elements for key in ("href", "src")]
    for link in filter(None, links):
        parts = urllib.parse.urlsplit(link)
        if parts.scheme == "data":
            continue
        assert not parts.scheme and not parts.netloc and not parts.path.startswith("/"), link
        assert not parts.path or (path.parent / urllib.parse.unquote(parts.path)).exists(), link
        assert not parts.fragment or parts.fragment in ids, link
    return outline


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with contextlib.closing(Browser(tmp_path_factory.mktemp("chromium"))) as opened:
        yield opened


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The page of a run and one that is refused, since its folder holds a run of something else."""
    out = tmp_path_factory.mktemp("demo")
    (out / "gan").mkdir()
    (out / "gan" / "config.json").write_text('{"experiment": "vae"}')
    assert demo.main(["gan", "tiny_nerf", f"--out={out}"]) == 1
    return out


def test_the_page_says_what_was_run_and_what_came_of_it(built):
    name = "tiny_nerf"
    outline = check_outline(built / "index.html", ["gan", name])
    text = " ".join("".join(outline.words).split())
    said = run.describe(name)
    for part in (said.summary, *said.facts.values(), f"python -m experiments.{name} --preset=tiny"):
        assert part in text, part
    for key, value in json.loads((built / name / "results.json").read_text()).items():
        assert key in text and f"{value:.6g}" in text
    drawn = sorted(path.name for path in (built / name / "pictures").iterdir())
    shown = outline.all("img", "src") + outline.all("video", "src")
    assert sorted(pathlib.Path(place).name for place in shown if place.startswith(f"{name}/")) == drawn
    assert f"{name}/pictures/training.mp4" in outline.all("video", "src")
    alts = dict(zip(outline.all("img", "src"), outline.all("img", "alt"), strict=True))
    for picture in ("views", "flight"):
        with Image.open(built / name / "pictures" / f"{picture}.png") as image:
            title = image.info["Title"]
        assert len(title) > 10 and alts[f"{name}/pictures/{picture}.png"] == f"{name}: {title}"


def test_the_page_says_what_could_not_be_run_and_why(built):
    words = (built / "index.html").read_text()
    assert "1 of 2 experiments were run." in words
    assert "holds a run of &#x27;vae&#x27;, not of &#x27;gan&#x27;" in words
    assert "gan/pictures" not in words


def test_running_again_trains_nothing_again(built, capsys):
    def files():
        return {path: path.stat().st_mtime_ns for path in (built / "tiny_nerf").rglob("*") if path.is_file()}

    page_before, before = (built / "index.html").read_text(), files()
    try:
        assert demo.main(["tiny_nerf", f"--out={built}"]) == 0
        assert files() == before
        assert "This run is finished" in (built / "tiny_nerf.txt").read_text()
        assert "index.html" in capsys.readouterr().out
    finally:
        (built / "index.html").write_text(page_before)


@needs_chromium
def test_a_browser_reads_every_picture_and_logs_no_error(built, browser):
    assert flaws(browser, built / "index.html") == []
    seen = browser.look(built / "index.html")
    pictures = list(built.glob("*/pictures/*"))
    assert seen["images"] + seen["films"] == len(pictures) > 4 and seen["films"] >= 2


def small_page(folder: pathlib.Path, body: str = "") -> pathlib.Path:
    """A page of a picture and a film that are there, with something more in its body."""
    write_video([np.full((16, 16, 3), level, np.uint8) for level in (0, 99)], folder / "film.mp4", 8.0)
    Image.new("RGB", (40, 20)).save(folder / "there.png")
    for name in ("README.md", "x.txt"):
        (folder / "x").mkdir(exist_ok=True)
        (folder / "x" / name).write_text("")
        (folder / name).write_text("")
    media = (page.Media("there.png", "a picture", (40, 20)), page.Media("film.mp4", "a film"))
    entry = page.Entry("x", run.describe("vae"), "python", {"number": 1.0}, media)
    (folder / "index.html").write_text(page.page([entry], "today").replace("</main>", f"{body}</main>"))
    return folder / "index.html"


@needs_chromium
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("", None),
        ('<img src="absent.png" alt="">', "not read: absent.png"),
        ('<img src="x.txt" alt="">', "not read: x.txt"),
        ('<video src="absent.mp4"></video>', "not read: absent.mp4"),
        ('<video src="x.txt"></video>', "not read: x.txt"),
        ('<script>throw new Error("it broke")</script>', "it broke"),
        ('<script>Promise.reject(new Error("it broke later"))</script>', "it broke later"),
        ('<script>console.error("it is wrong")</script>', "it is wrong"),
        ('<script src="absent.js"></script>', "absent.js"),
        ('<img src="http://127.0.0.1:9/there.png" alt="">', "asks for http://127.0.0.1:9/there.png"),
        ('<p style="width: 500px">wide</p>', "pixels wider than a window of 390"),
        ('<p style="color: #999999">faint</p>', "contrast 2.8 in light"),
        ("<style>:root { --paper: #777777 !important }</style>", "in the light and in the dark"),
    ],
    ids=lambda value: value or "nothing" if isinstance(value, str) else "",
)
def test_the_browser_finds_what_is_broken(body, expected, browser, tmp_path):
    found = flaws(browser, small_page(tmp_path, body))
    assert found == [] if expected is None else any(expected in flaw for flaw in found), found


def test_what_is_written_is_text_and_no_markup(tmp_path):
    evil = "<script>alert(1)</script> & \"quotes\" 'and' </p>"
    description = run.Description(evil, {"Command": evil, "Expected": evil, "Time": evil}, evil)
    media = page.Media('a "b" <c>#?.png', evil, (3, 2))
    good = page.Entry("good", description, evil, {evil: 1.5}, (media, media._replace(path="d&e.mp4")))
    bad = page.Entry("bad", description, evil, {}, (), evil)
    outline = Outline(page.page([good, bad], evil))
    assert "script" not in [tag for tag, _ in outline.elements]
    text = " ".join("".join(outline.words).split())
    assert text.count(" ".join(evil.split())) >= 12
    [source], [alt] = outline.all("img", "src"), outline.all("img", "alt")
    assert urllib.parse.unquote(source) == media.path and "#" not in source and "?" not in source
    assert alt == f"good: {evil}"


def test_a_run_that_was_stopped_is_one_that_could_not_be_run(tmp_path):
    (tmp_path / "vae.txt").write_text("10%\r20%\nStopped by SIGTERM at step 20 of 40, saved.\n\n")
    entry = results.read(tmp_path, "vae", run.describe("vae"), "python", "")
    assert entry.trouble == "Stopped by SIGTERM at step 20 of 40, saved."
    (tmp_path / "vae" / "pictures").mkdir(parents=True)
    (tmp_path / "vae" / "results.json").write_text('{"step": 40')
    assert "cannot be read" in results.read(tmp_path, "vae", run.describe("vae"), "python", "").trouble
    (tmp_path / "vae" / "results.json").write_text('{"step": 40}')
    (tmp_path / "vae" / "pictures" / "samples.png").write_bytes(b"no picture")
    assert "cannot be read" in results.read(tmp_path, "vae", run.describe("vae"), "python", "").trouble


def test_an_unknown_experiment_is_refused_before_anything_is_run(tmp_path):
    with pytest.raises(UserError, match="did you mean vae"):
        demo.main(["ddpm", "vaee", f"--out={tmp_path / 'out'}"])
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@needs_chromium
def test_every_experiment_is_on_the_page(browser, tmp_path):
    assert demo.main([f"--out={tmp_path}"]) == 0
    check_outline(tmp_path / "index.html", run.experiment_names())
    assert flaws(browser, tmp_path / "index.html") == []
