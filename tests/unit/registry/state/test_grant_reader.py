"""Reading grants back: what they say, and which are none."""

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from portway_registry.access.grant_keys import new_key
from portway_registry.access.grants import Grants
from portway_registry.state import keys
from portway_registry.state.grant_reader import GrantReader, GrantRefused
from portway_registry.state.records import GrantKeyRecord, Role, TokenRecord, decode_grant_key, encode
from portway_registry.state.tunnel_limits import TunnelLimits
from portway_registry.state.views import View
from portway_registry.store.embedded import EmbeddedStore
from portway_testkit.clusters.views import ViewedStore

TOKEN = TokenRecord("abc", "demo", Role.CLIENT, b"")
SESSION_KEY = bytes(range(32))
NOW = 1_800_000_000_000
HOUR = 3_600_000
LEEWAY = 15 * 60_000


@pytest.fixture
async def known(memory: EmbeddedStore) -> AsyncIterator[View[GrantKeyRecord]]:
    await memory.put(keys.grant_key("1"), encode(new_key("1", active_from_ms=1)))
    view: View[GrantKeyRecord] = View(memory, keys.GRANT_KEYS, decode_grant_key, on_failure=print)
    await view.start()
    yield view
    await view.close()


@pytest.fixture
def grant(known: View[GrantKeyRecord], cluster: ViewedStore) -> str:
    limits = TunnelLimits(cluster.views.tokens, cluster.views.tenants, default=100)
    return Grants("cluster", known, limits, lambda: NOW).sign(TOKEN, SESSION_KEY).token


def read(known: View[GrantKeyRecord], text: str, *, now_ms: int = NOW, cluster: str = "cluster") -> Any:
    return GrantReader(cluster, known, lambda: now_ms).read(text)


def changed(grant: str, part: int, **values: Any) -> str:
    """The grant with other values in its header (0) or its claims (1), under the old signature."""
    parts = grant.split(".")
    content = json.loads(base64.urlsafe_b64decode(parts[part] + "=="))
    parts[part] = base64.urlsafe_b64encode(json.dumps(content | values).encode()).decode().rstrip("=")
    return ".".join(parts)


async def test_what_was_signed_is_read(known: View[GrantKeyRecord], grant: str) -> None:
    """Whose it is, for which session key, and that it is genuine."""
    found = read(known, grant)
    assert (found.tenant, found.token_id, found.session_key) == ("demo", "abc", SESSION_KEY)
    assert found.signed.is_genuine()


async def test_a_changed_grant_is_not_genuine(known: View[GrantKeyRecord], grant: str) -> None:
    """Neither for another tenant nor for another session key."""
    other = base64.urlsafe_b64encode(bytes(32)).decode().rstrip("=")
    for values in ({"sub": "victim"}, {"tid": "victim"}, {"key": other}):
        assert not read(known, changed(grant, 1, **values)).signed.is_genuine()


@pytest.mark.parametrize(
    "text", ["", ".", "..", "a.b.c", "a" * 8192, "\N{SNOWMAN}.e30.e30", "e30.e30.e30", "[[[." * 99]
)
async def test_what_is_no_grant_is_refused(known: View[GrantKeyRecord], text: str) -> None:
    """Any text is read without another error."""
    with pytest.raises(GrantRefused):
        read(known, text)


@pytest.mark.parametrize(
    ("part", "values"),
    [
        (0, {"kid": "2"}),
        (0, {"alg": "none"}),
        (0, {"alg": "HS256"}),
        (0, {"typ": "JWT"}),
        (1, {"iss": "another"}),
        (1, {"aud": "another"}),
        (1, {"key": ""}),
        (1, {"key": "AAAA"}),
        (1, {"exp": "soon"}),
        (1, {"tid": 7}),
    ],
)
async def test_another_kind_of_token_is_refused(
    known: View[GrantKeyRecord], grant: str, part: int, values: dict[str, Any]
) -> None:
    """Other keys, algorithms, audiences and clusters, and claims of another form."""
    with pytest.raises(GrantRefused):
        read(known, changed(grant, part, **values))


async def test_a_grant_counts_for_a_day_after_its_end(known: View[GrantKeyRecord], grant: str) -> None:
    """So long its client could hold tunnels without any registry; clocks may differ by a quarter of an hour."""
    last = NOW + 25 * HOUR + LEEWAY
    read(known, grant, now_ms=last)
    with pytest.raises(GrantRefused, match="ended"):
        read(known, grant, now_ms=last + 1)
    read(known, grant, now_ms=NOW - LEEWAY)
    with pytest.raises(GrantRefused, match="future"):
        read(known, grant, now_ms=NOW - LEEWAY - 1)
