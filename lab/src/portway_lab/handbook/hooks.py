"""What mkdocs does to the handbook's pages beside rendering them: mkdocs.yml names this module.

Pages link to files of the repository, so that they can be read there too. Documents outside of docs/ that belong to the
handbook become pages of the site; a link to any other file becomes its text, with the file's path as its title, or a
link below PORTWAY_SOURCE_URL where that is set. Nothing that a page loads comes from elsewhere: the diagrams' script is
the one that `vendored` has, and the theme's own address of it is replaced.
"""

import os
import posixpath
import re
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any, Final

from mkdocs.structure.files import File, Files

from portway_lab.checkout import ROOT
from portway_lab.handbook.outside import PAGE_OF, SOURCE_OF
from portway_lab.handbook.vendored import MERMAID, mermaid

_FENCE: Final = re.compile(r"^ *(```|~~~)")
_LINK: Final = re.compile(r"(?<!!)\[([^][]*(?:\[[^][]*\][^][]*)*)\]\(([^()\s]+)\)", re.DOTALL)
_MERMAID_ELSEWHERE: Final = re.compile(r"https://unpkg\.com/mermaid@[\w.]+/dist/mermaid\.min\.js")


def on_files(files: Files, *, config: Any) -> Files:
    """Add the documents outside of docs/, and the script of the diagrams."""
    for source, page in PAGE_OF.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text()))
    files.append(File.generated(config, MERMAID, abs_src_path=str(mermaid())))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Files) -> str:
    """Let every link lead to where the file is on the site, or nowhere."""
    here: str = page.file.src_uri
    return "".join(
        block if code else _LINK.sub(lambda link: _target(link, here), block) for code, block in _blocks(markdown)
    )


def on_post_build(*, config: Any) -> None:
    """Take the address of the diagrams' script out of the theme's own script."""
    found = False
    for script in Path(config["site_dir"], "assets/javascripts").glob("bundle.*.js"):
        text, count = _MERMAID_ELSEWHERE.subn("about:blank", script.read_text())
        script.write_text(text)
        found = found or count > 0
    if not found:
        raise RuntimeError("the theme loads its diagrams' script in another way than before: see hooks.py")


def _blocks(markdown: str) -> Iterator[tuple[bool, str]]:
    """The parts of a page, and whether each is code."""
    kept: list[str] = []
    in_code = False
    for line in markdown.splitlines(keepends=True):
        if not _FENCE.match(line):
            kept.append(line)
            continue
        if in_code:
            yield True, "".join([*kept, line])
            kept = []
        else:
            yield False, "".join(kept)
            kept = [line]
        in_code = not in_code
    yield in_code, "".join(kept)


def _target(link: re.Match[str], here: str) -> str:
    text, address = link.groups()
    path, hash_, anchor = address.partition("#")
    if "://" in address or address.startswith("mailto:") or not path:
        return link[0]
    source = SOURCE_OF.get(here, f"docs/{here}")
    target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    on_site = PAGE_OF.get(target) or (target.removeprefix("docs/") if target.startswith("docs/") else None)
    if on_site is not None:
        return f"[{text}]({posixpath.relpath(on_site, posixpath.dirname(here) or '.')}{hash_}{anchor})"
    base = os.environ.get("PORTWAY_SOURCE_URL", "").rstrip("/")
    if base:
        return f"[{text}]({base}/{target}{hash_}{anchor})"
    return f'{text}<span class="file" title="{escape(target)}"></span>'
