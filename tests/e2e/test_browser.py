"""A real browser and two tunnels whose certificate and address are the same: connections stay apart."""

from contextlib import ExitStack

import portway
import pytest
from playwright.sync_api import BrowserContext, Page
from portway_testkit.visitors.origins import HttpOrigin

pytestmark = [
    pytest.mark.usefixtures("client_environment"),
    pytest.mark.shares_sockets,
    pytest.mark.browser,
    pytest.mark.timeout(180),
]

ROUNDS = 3
AT_ONCE = 30
# Asks the other tunnel many times at once, as anybody and with what cookies there are, and this one in between. What
# each answered, and the protocol that each answer came by.
ASK = """
async ([here, there, count]) => {
    const text = async (url) => (await (await fetch(url, {credentials: "omit", cache: "no-store"})).text()).trim();
    const answers = await Promise.all(Array.from({length: count}, async (_, number) => {
        await fetch(`${there}/?cookies=${number}`, {mode: "no-cors", credentials: "include", cache: "no-store"});
        return [await text(`${there}/?${number}`), await text(`${here}/?${number}`)];
    }));
    const protocols = performance.getEntriesByType("resource").map((entry) => entry.nextHopProtocol);
    performance.clearResourceTimings();
    return [answers, protocols];
}
"""


def ask(page: Page, here: portway.Tunnel, there: portway.Tunnel) -> None:
    """Fails the test when an answer is another server's, or did not come over HTTP/1.1."""
    answers, protocols = page.evaluate(ASK, [here.url, there.url, AT_ONCE])
    assert answers == [[there.host, here.host]] * AT_ONCE
    assert set(protocols) == {"http/1.1"}


def test_no_request_reaches_the_other_tunnel(browser: BrowserContext) -> None:
    """Two `h2_enabled` tunnels in one browser: pages of each ask the other many times, and no request for one is ever
    seen by the server of the other; the browser speaks HTTP/1.1 to both."""
    with ExitStack() as stack:
        origins = [stack.enter_context(HttpOrigin()) for _ in range(2)]
        tunnels = [stack.enter_context(portway.forward(origin.port, h2_enabled=True)) for origin in origins]
        for origin, tunnel in zip(origins, tunnels, strict=True):
            origin.name = tunnel.host
        pages = [browser.new_page() for _ in tunnels]
        for page, tunnel in zip(pages, tunnels, strict=True):
            answer = page.goto(tunnel.url)
            assert answer is not None
            assert answer.text() == f"{tunnel.host}\n"
        for _ in range(ROUNDS):
            ask(pages[0], tunnels[0], tunnels[1])
            ask(pages[1], tunnels[1], tunnels[0])
    for origin, tunnel in zip(origins, tunnels, strict=True):
        assert {request.host for request in origin.requests} == {f"{tunnel.host}:{tunnel.port}"}
        # Of the other's pages two kinds, of its own one.
        assert len([request for request in origin.requests if "?" in request.path]) == 3 * ROUNDS * AT_ONCE
