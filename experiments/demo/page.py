"""One HTML page of many runs: records in, text out. It needs no network and no script."""

from __future__ import annotations

import html
import urllib.parse
from collections.abc import Sequence
from typing import NamedTuple

from gen_jax.run import Description

_WIDE = 2.2  # A picture so many times wider than high has a row of its own.

_STYLE = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --ink: #1b1f24; --faint: #57606a; --line: #d0d7de; --box: #f6f8fa;
  --link: #0550ae; --bad: #a40e26;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #0d1117; --ink: #e6edf3; --faint: #9da7b1; --line: #30363d; --box: #161b22;
    --link: #79c0ff; --bad: #ff9492;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 1rem; max-width: 80rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere;
}
h1, h2 { line-height: 1.2; }
h2 { margin: 0; font-size: 1.4rem; }
a { color: var(--link); }
code { font: 0.875rem/1.5 ui-monospace, monospace; background: var(--box); padding: 0.1rem 0.3rem; border-radius: 4px; }
code span { display: inline-block; }
nav ul { display: flex; flex-wrap: wrap; gap: 0.25rem 1rem; margin: 0; padding: 0; list-style: none; }
nav a { display: inline-block; padding: 0.25rem 0; }
article { margin-top: 2.5rem; padding-top: 1.5rem; border-top: 1px solid var(--line); }
.what { display: grid; grid-template-columns: max-content 1fr; gap: 0.25rem 1rem; margin: 1rem 0; }
.what dt { color: var(--faint); }
.what dd { margin: 0; }
.trouble { color: var(--bad); }
.body { display: grid; gap: 1.5rem; grid-template-columns: minmax(0, 1fr); align-items: start; }
.gallery {
  display: grid; gap: 1rem; grid-auto-flow: dense;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 17rem), 1fr));
}
figure { margin: 0; }
figure.wide { grid-column: 1 / -1; }
img, video { display: block; max-width: 100%; height: auto; border-radius: 4px; background: #ffffff; }
video { width: 100%; }
figcaption { margin-top: 0.25rem; color: var(--faint); font-size: 0.875rem; }
table { border-collapse: collapse; width: 100%; font-size: 0.875rem; }
caption { padding-bottom: 0.25rem; color: var(--faint); text-align: left; }
th, td { padding: 0.2rem 0; border-bottom: 1px solid var(--line); text-align: left; font-weight: normal; }
td { padding-left: 1rem; text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
@media (max-width: 30rem) { .what { grid-template-columns: 1fr; gap: 0; } .what dd { margin-bottom: 0.5rem; } }
@media (min-width: 60rem) { .body { grid-template-columns: 20rem minmax(0, 1fr); } }
"""


class Media(NamedTuple):
    """A picture or a film.

    Attributes:
      path: from the page to the file; one that ends in .mp4 is a film.
      title: what a person sees in it.
      size: width and height in pixels, of a picture; of a film those of the picture with the same name.
    """

    path: str
    title: str
    size: tuple[int, int] | None = None


class Entry(NamedTuple):
    """What the page says of one experiment.

    Attributes:
      name: of the experiment; its workdir lies beside the page under this name.
      description: what its docstring says.
      command: what was run.
      numbers: by name.
      media: its pictures and films.
      trouble: why it could not be run; "" where it could.
    """

    name: str
    description: Description
    command: str
    numbers: dict[str, float]
    media: tuple[Media, ...]
    trouble: str = ""


def page(entries: Sequence[Entry], made: str) -> str:
    """The whole page.

    Args:
      entries: one an experiment, in order.
      made: when and with what the page was made.

    Returns:
      HTML.
    """
    failed = [entry for entry in entries if entry.trouble]
    said = f"{len(entries) - len(failed)} of {len(entries)} experiments were run."
    if failed:
        said += f' <strong class="trouble">Could not be run: {", ".join(map(_link, failed))}.</strong>'
    items = "\n".join(f"<li>{_link(entry)}</li>" for entry in entries)
    articles = "\n".join(map(_article, entries))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>gen_jax: every experiment at its tiny preset</title>
<link rel="icon" href="data:,">
<style>{_STYLE}</style>
</head>
<body>
<header>
<h1>gen_jax: every experiment at its tiny preset</h1>
<p>The <code>tiny</code> presets train for a few steps, to show that each experiment runs and what it draws: the
pictures and numbers here are not what an experiment reaches. That is <em>Expected</em>, of its full command.</p>
<p>{said} {_text(made)}.</p>
<nav aria-label="Experiments">
<ul>
{items}
</ul>
</nav>
</header>
<main>
{articles}
</main>
</body>
</html>
"""


def _text(text: str) -> str:
    return html.escape(text)


def _href(path: str) -> str:
    return html.escape(urllib.parse.quote(path))


def _link(entry: Entry) -> str:
    return f'<a href="#{_text(entry.name)}">{_text(entry.name)}</a>'


def _command(text: str) -> str:
    """A command, which a narrow window breaks between words alone, not after their hyphens."""
    return f"<code>{' '.join(f'<span>{_text(word)}</span>' for word in text.split())}</code>"


def _article(entry: Entry) -> str:
    facts = entry.description.facts
    rows = {
        "Full command": _command(facts.get("Command", "")),
        "Expected": _text(facts.get("Expected", "")),
        "Time": _text(facts.get("Time", "")),
        "Run here": _command(entry.command),
    }
    what = "\n".join(f"<dt>{key}</dt><dd>{value}</dd>" for key, value in rows.items())
    name = _text(entry.name)
    place = _href(entry.name)
    body = f"""<p class="trouble"><strong>Could not be run.</strong> {_text(entry.trouble)}</p>
<p><a href="{place}.txt">What it printed</a></p>"""
    if not entry.trouble:
        figures = "\n".join(_figure(entry.name, media) for media in entry.media)
        body = f"""<div class="body">
<div>
{_table(entry)}
<p><a href="{place}/README.md">Run card</a>, <a href="{place}/">workdir</a>,
<a href="{place}.txt">what it printed</a></p>
</div>
<div class="gallery">
{figures}
</div>
</div>"""
    return f"""<article id="{name}" aria-labelledby="{name}-title">
<h2 id="{name}-title">{name}</h2>
<p>{_text(entry.description.summary)}</p>
<dl class="what">
{what}
</dl>
{body}
</article>"""


def _table(entry: Entry) -> str:
    rows = "\n".join(
        f'<tr><th scope="row">{_text(name)}</th><td>{value:.6g}</td></tr>' for name, value in entry.numbers.items()
    )
    return f"<table>\n<caption>The numbers of this tiny run</caption>\n<tbody>\n{rows}\n</tbody>\n</table>"


def _figure(name: str, media: Media) -> str:
    title, place = _text(f"{name}: {media.title}"), _href(media.path)
    wide = ' class="wide"' if media.size and media.size[0] > _WIDE * media.size[1] else ""
    if media.path.endswith(".mp4"):
        shown = (
            f'<video src="{place}" aria-label="{title}" controls loop muted playsinline preload="auto">'
            f'<a href="{place}">{title}</a></video>'
        )
        return f"<figure>{shown}<figcaption>{_text(media.title)} (film)</figcaption></figure>"
    size = f' width="{media.size[0]}" height="{media.size[1]}"' if media.size else ""
    shown = f'<a href="{place}"><img src="{place}" alt="{title}"{size}></a>'
    return f"<figure{wide}>{shown}<figcaption>{_text(media.title)}</figcaption></figure>"
