"""Chromium as a visitor somewhere: names from the resolver there, trust in the test's own CA alone.

Here: starting it, and using a notebook. Not here: the notebook (laptop.py).
"""

import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from portway_lab.cluster.chromium import ALONE
from portway_lab.field_test.visitors import Visitor

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext

_SHOWN_WITHIN: Final = 60_000.0  # milliseconds: a browser and a kernel that start, on two cores
_LAUNCHER: Final = ".jp-LauncherCard[data-category='Notebook']"
_CELL: Final = ".jp-Notebook .jp-Cell .cm-content"
_KERNEL_IDLE: Final = "Python 3 (ipykernel) | Idle"  # what is run before a kernel is there is dropped
_OUTPUT: Final = ".jp-Notebook .jp-OutputArea-output"


@contextmanager
def chromium(visitor: Visitor, folder: Path) -> "Iterator[BrowserContext]":
    """The browser, with a profile of its own below a folder."""
    from playwright.sync_api import sync_playwright  # there with the e2e group alone

    home = folder / f"chromium-{visitor.place}"
    database = home / ".pki/nssdb"
    database.mkdir(parents=True)
    for words in (
        ["-N", "--empty-password"],
        ["-A", "-n", "the test's own CA", "-t", "C,,", "-i", str(visitor.trusted)],
    ):
        subprocess.run(["certutil", "-d", f"sql:{database}", *words], check=True, capture_output=True)
    program = home / "chromium"
    inside = shlex.join([*visitor.words(), "env", f"HOME={home}", shutil.which("chromium") or ""])
    program.write_text(f'#!/bin/sh\nexec {inside} "$@"\n')
    program.chmod(0o755)
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            home / "profile",
            executable_path=program,
            headless=True,
            args=list(ALONE),
        )
        context.set_default_timeout(_SHOWN_WITHIN)
        yield context
        context.close()


def use_notebook(browser: "BrowserContext", url: str) -> tuple[str, float]:
    """Open JupyterLab at its URL, run a cell, and read its output; the address of the node that served the page, and
    seconds until the output was there. Raises playwright.sync_api.Error, AssertionError."""
    from playwright.sync_api import expect

    began = time.monotonic()
    page = browser.new_page()
    answer = page.goto(url)
    assert answer is not None
    address = answer.server_addr()
    assert address is not None
    page.locator(_LAUNCHER).first.click()
    page.get_by_text(_KERNEL_IDLE).wait_for()
    cell = page.locator(_CELL).first  # running it adds another one
    cell.fill("import socket; print(socket.gethostname(), 6 * 7)")
    cell.press("Shift+Enter")
    expect(page.locator(_OUTPUT).first).to_contain_text("laptop 42", timeout=_SHOWN_WITHIN)
    page.close()
    return address["ipAddress"], time.monotonic() - began
