"""The code blocks of a page of docs/ that tests run: each follows a comment `<!-- runs: NAME -->`."""

import re
from pathlib import Path
from typing import Final

DOCS: Final = Path(__file__).resolve().parents[4] / "docs"


def runnable(page: str, name: str, replaced: dict[str, str]) -> str:
    """The block of this name, with texts replaced that are a matter of the machine, such as ports; each of them must be
    there. Raises LookupError."""
    found = re.findall(
        rf"^<!-- runs: {name} -->\n```\w+\n(.*?)^```$", (DOCS / page).read_text(), re.DOTALL | re.MULTILINE
    )
    if len(found) != 1:
        raise LookupError(f"{page} has {len(found)} blocks for {name}")
    (block,) = found
    for before, after in replaced.items():
        if before not in block:
            raise LookupError(f"{page}: {before!r} is not in the block for {name}")
        block = block.replace(before, after)
    return str(block)


def haproxy_file(block: str) -> str:
    """A whole configuration for HAProxy, which wants time limits beside what a page shows."""
    return f"defaults\n    timeout connect 10s\n    timeout client 1m\n    timeout server 1m\n{block}"
