"""What --store may say."""

from pathlib import Path

import pytest
from portway_registry.errors import ConfigError
from portway_registry.store.spec import EmbeddedSpec, EtcdSpec, parse_store

FILE = Path("f.pem")


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("embedded:memory", EmbeddedSpec(None)),
        ("embedded:/var/lib/portway/store.db", EmbeddedSpec(Path("/var/lib/portway/store.db"))),
        ("embedded:./memory", EmbeddedSpec(Path("memory"))),
        ("etcd:http://a:1", EtcdSpec(("a:1",))),
        ("etcd:http://a", EtcdSpec(("a:2379",))),
        ("etcd:http://a:1/,http://b:2", EtcdSpec(("a:1", "b:2"))),
        ("etcd:https://a:1, https://[::1]:2", EtcdSpec(("a:1", "[::1]:2"), secure=True)),
    ],
)
def test_a_store_is_read(text: str, spec: EmbeddedSpec | EtcdSpec) -> None:
    """Each form of --store means what the documentation says."""
    assert parse_store(text) == spec


@pytest.mark.parametrize(
    ("text", "exposed"),
    [
        ("etcd:http://127.0.0.1:1,http://[::1]:2,http://localhost,http://etcd.localhost", ()),
        ("etcd:http://127.0.0.1:1,http://10.0.0.1:2,http://etcd-1", ("10.0.0.1:2", "etcd-1:2379")),
        ("etcd:http://localhost.example", ("localhost.example:2379",)),
        ("etcd:https://etcd-1", ()),
    ],
)
def test_which_endpoints_are_exposed(text: str, exposed: tuple[str, ...]) -> None:
    """Those on another machine, without TLS."""
    spec = parse_store(text)
    assert isinstance(spec, EtcdSpec)
    assert spec.exposed == exposed


def test_etcds_settings_are_kept() -> None:
    """Files and user of etcd reach the specification."""
    assert parse_store(
        "etcd:https://a:1", ca=FILE, certificate=FILE, key=FILE, user="u", password_file=FILE
    ) == EtcdSpec(("a:1",), True, FILE, FILE, FILE, "u", FILE)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "embedded:PATH"),
        ("embedded", "embedded:PATH"),
        ("embedded:", "names no file"),
        ("redis://a", "not known"),
        ("etcd", "not known"),
        ("etcd:", "not a URL"),
        ("etcd:a:2379", "not a URL"),
        ("etcd:http://a:1,", "not a URL"),
        ("etcd:ftp://a:1", "not a URL"),
        ("etcd:http://:1", "not a URL"),
        ("etcd:http://a:0x1", "1 to 65535"),
        ("etcd:http://a:65536", "1 to 65535"),
        ("etcd:http://a:1/v3", "host and port alone"),
        ("etcd:http://u:secret@a:1", "host and port alone"),
        ("etcd:http://a:1,https://b:1", "mix http and https"),
        ("etcd:http://a:1,http://a:1", "named twice"),
    ],
)
def test_what_cannot_be_used_is_explained(text: str, says: str) -> None:
    """Anything else raises ConfigError that says what would do, and never a password."""
    with pytest.raises(ConfigError, match=says) as raised:
        parse_store(text)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "settings", "says"),
    [
        ("embedded:memory", {"ca": FILE}, "--etcd-ca cannot be used"),
        ("etcd:http://a:1", {"ca": FILE}, "https"),
        ("etcd:https://a:1", {"certificate": FILE}, "go together"),
        ("etcd:https://a:1", {"user": "u"}, "go together"),
        ("etcd:https://a:1", {"password_file": FILE}, "go together"),
    ],
)
def test_settings_that_do_not_fit_are_refused(text: str, settings: dict[str, Path], says: str) -> None:
    """Settings of etcd that contradict the store, or need another, are refused by name."""
    with pytest.raises(ConfigError, match=says):
        parse_store(text, **settings)  # type: ignore[arg-type]  # the user is a str
