"""The handbook as a site: built with every warning an error, and nothing that a page loads comes from elsewhere."""

import http.server
import re
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from portway_testkit.processes.running_program import needed

_ROOT = Path(__file__).resolve().parents[2]
# What a browser follows only when a person clicks on it, or is a name and no address.
_NOT_LOADED = {("a", "href"), ("svg", "xmlns")}
_LOADED_BY_STYLES = re.compile(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//")
_CODE_FROM_ELSEWHERE = re.compile(r"unpkg\.com/mermaid|cdn\.jsdelivr|cdnjs\.|fonts\.(?:googleapis|gstatic)")

# Of a browser on a busy machine, which makes the index of the search first.
_PATIENCE_MS = 90_000

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("handbook")
    needed("npm")
    done = subprocess.run(
        [_ROOT / "scripts/docs", "--out", folder], capture_output=True, text=True, timeout=150, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class _Addresses(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.loaded: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value and re.match(r"(?:https?:)?//", value) and (tag, name) not in _NOT_LOADED:
                self.loaded.add(f"<{tag} {name}={value}>")


def test_every_page_is_built_and_loads_nothing_from_elsewhere(site: Path) -> None:
    """No element, no style and no script has an address of another host that is loaded."""
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > len(list((_ROOT / "docs").rglob("*.md"))), "not all pages were built"
    found = {}
    for page in pages:
        addresses = _Addresses()
        addresses.feed(page.read_text())
        if addresses.loaded:
            found[str(page.relative_to(site))] = addresses.loaded
    for style in site.rglob("*.css"):
        if match := _LOADED_BY_STYLES.search(style.read_text()):
            found[str(style.relative_to(site))] = {match[0]}
    for script in site.rglob("*.js"):
        if match := _CODE_FROM_ELSEWHERE.search(script.read_text()):
            found[str(script.relative_to(site))] = {match[0]}
    assert found == {}


def test_the_api_s_pages_are_the_docstrings(site: Path) -> None:
    """Each public name of `portway` is there, with its docstring."""
    import portway

    text = "".join((site / page / "index.html").read_text() for page in ("api", "api/errors"))
    for name in portway.__all__:
        assert re.search(rf"\b{name}\b", text), name
    assert "Put a local port on the Internet for as long as a with-block runs." in text
    assert "<li><code>unencrypted</code>: a random TCP port without TLS" in text
    assert '<span class="nf">forward</span>' in text or re.search(r">forward</span>\s*<span[^>]*>\(", text)
    assert "The quota of the tenant, or of the token, is used up." in text


@pytest.fixture
def served(site: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site))) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.mark.browser
def test_a_browser_asks_nobody_else_and_draws_the_diagrams(served: str) -> None:
    """With its search, its diagrams and its styles, as a reader sees them."""
    from playwright.sync_api import sync_playwright  # there with the e2e group alone; other tests do without

    asked: list[str] = []
    failed: list[str] = []

    def look(route: Any) -> None:
        asked.append(route.request.url)
        if route.request.url.startswith(served):
            route.continue_()
        else:
            route.abort()

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=needed("chromium"), headless=True, args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page()
        page.set_default_timeout(_PATIENCE_MS)
        page.route("**/*", look)
        page.on("response", lambda answer: failed.extend([answer.url] if answer.status >= 400 else []))
        page.goto(f"{served}/architecture/")
        page.wait_for_selector("div.mermaid", state="attached")
        page.wait_for_function("document.querySelector('div.mermaid').getBoundingClientRect().height > 50")
        assert page.locator("pre.mermaid").count() == 0, "a diagram was not drawn"
        field = page.locator("input[name=query]").first
        field.click()
        field.press_sequentially("half-close")
        page.wait_for_selector("li.md-search-result__item")
        browser.close()
    assert [url for url in asked if not url.startswith((served, "data:", "blob:"))] == []
    assert failed == []
