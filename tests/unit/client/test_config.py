"""portway.config: arguments before the environment, and a clear error for what is missing or of no use."""

from pathlib import Path
from typing import Any

import pytest
from portway.config import (
    CA_VARIABLE,
    PROCESS_VARIABLE,
    REGISTRY_VARIABLE,
    RETURNS_VARIABLE,
    TOKEN_VARIABLE,
    ReturnTimes,
    Settings,
    resolve,
    resolve_key,
    resolve_process,
)
from portway.errors import AuthError, ConfigError, InvalidError
from portway_runtime.endpoints import Endpoint

PEM = "-----BEGIN CERTIFICATE-----\nZm9v\n-----END CERTIFICATE-----\n"
GIVEN: dict[str, Any] = {"registry": "registry.test:7400", "token": "pw_id_secret", "environment": {}}


def test_the_environment_says_all_there_is(tmp_path: Path) -> None:
    """Registry, token and CA come from their variables."""
    ca = tmp_path / "ca.pem"
    ca.write_text(PEM)
    environment = {REGISTRY_VARIABLE: "a:1,b:2", TOKEN_VARIABLE: "pw_id_secret", CA_VARIABLE: str(ca)}
    assert resolve(environment=environment) == Settings(("a:1", "b:2"), "pw_id_secret", PEM.encode(), "")


def test_an_argument_goes_before_its_variable(tmp_path: Path) -> None:
    """Each on its own."""
    ca = tmp_path / "ca.pem"
    ca.write_text(PEM)
    environment = {REGISTRY_VARIABLE: "a:1", TOKEN_VARIABLE: "pw_id_secret", CA_VARIABLE: "/nowhere"}
    settings = resolve(registry="b:2", token="pw_other_secret", ca=ca, region="fra", environment=environment)
    assert settings == Settings(("b:2",), "pw_other_secret", PEM.encode(), "fra")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, ReturnTimes()),
        ("", ReturnTimes()),
        ("never", None),
        (" never ", None),
        ("ready=1", ReturnTimes(ready=1.0)),
        (" spread = 0.5 , pause=3,", ReturnTimes(spread=0.5, pause=3.0)),
        ("look=1,rest=2,ready=3,spread=4,pause=5", ReturnTimes(1.0, 2.0, 3.0, 4.0, 5.0)),
    ],
)
def test_when_to_go_to_a_nearer_node(text: str | None, expected: ReturnTimes | None) -> None:
    """What is not named has its default; the argument goes before the variable, and an empty one is the default."""
    assert resolve(**GIVEN, returns=text).returns == expected
    environment = {RETURNS_VARIABLE: text or ""}
    assert resolve(**(GIVEN | {"environment": environment})).returns == expected
    environment = {RETURNS_VARIABLE: "ready=77"}
    argued = resolve(**(GIVEN | {"environment": environment}), returns=text)
    assert argued.returns == (ReturnTimes(ready=77.0) if text is None else expected)


@pytest.mark.parametrize(
    "text",
    ["sometimes", "ready", "ready=", "ready=soon", "ready=0", "ready=-1", "ready=inf", "ready=nan", "never,ready=1"],
)
def test_times_of_no_use_are_refused(text: str) -> None:
    """The error names the setting and the times that there are."""
    with pytest.raises(ConfigError, match=r"PORTWAY_RETURNS .* some of look, pause, ready, rest, spread, not "):
        resolve(**GIVEN, returns=text)


def test_variables_of_kubernetes_services_are_no_settings() -> None:
    """Of services named portway, portway-registry and portway-token: none has the name of a setting."""
    service: dict[str, str] = {}
    for name in ("PORTWAY", "PORTWAY_REGISTRY", "PORTWAY_TOKEN"):
        service |= {f"{name}_SERVICE_HOST": "10.0.0.1", f"{name}_PORT": "tcp://10.0.0.1:7400"}
        service |= {f"{name}_PORT_7400_TCP": "tcp://10.0.0.1:7400", f"{name}_PORT_7400_TCP_ADDR": "10.0.0.1"}
    with pytest.raises(ConfigError, match="no registry is named"):
        resolve(environment=service)
    own = {REGISTRY_VARIABLE: "a:1", TOKEN_VARIABLE: "pw_id_secret"}
    assert resolve(environment=service | own) == resolve(environment=own)


def test_the_environment_is_read_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program may set it after the import."""
    monkeypatch.setenv(REGISTRY_VARIABLE, "late:1")
    monkeypatch.setenv(TOKEN_VARIABLE, "pw_late_secret")
    monkeypatch.delenv(CA_VARIABLE, raising=False)
    assert resolve() == Settings(("late:1",), "pw_late_secret")


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ("a:1", ("a:1",)),
        (" a:1 , b:2 ,", ("a:1", "b:2")),
        ("a:1,a:1", ("a:1",)),
        (["a:1", "b:2"], ("a:1", "b:2")),
        (("127.0.0.1:1", "[::1]:2"), ("127.0.0.1:1", "[::1]:2")),
        ("tun.example.com", ("tun.example.com:443",)),
        ("a, b:7400, a:443", ("a:443", "b:7400")),
        ("[2001:db8::1]", ("[2001:db8::1]:443",)),
    ],
)
def test_registries_are_one_or_several(named: Any, expected: tuple[str, ...]) -> None:
    """In a list or with commas, each once, in order; one without a port is at that of nodes."""
    assert resolve(**(GIVEN | {"registry": named})).registries == expected


@pytest.mark.parametrize("named", ["", " , ", [], [""]])
def test_no_registry_is_an_error_that_names_both_places(named: Any) -> None:
    """The variable and the argument."""
    with pytest.raises(ConfigError, match=rf"{REGISTRY_VARIABLE}.*registry="):
        resolve(**(GIVEN | {"registry": named}))


@pytest.mark.parametrize(
    "named", ["a:", ":1", "a:b", "a:0", "a:65536", "a:-1", "a:١", "https://a:1", "https://a", "a b", "::1:2", "a:1,b:"]
)
def test_an_address_of_no_use_is_quoted(named: str) -> None:
    """With the form that is wanted."""
    with pytest.raises(ConfigError, match="does not name a registry: write host, which is at port 443"):
        resolve(**(GIVEN | {"registry": named}))


@pytest.mark.parametrize("token", ["", "  "])
def test_no_token_is_an_error_that_says_where_to_get_one(token: str) -> None:
    """And where to put it."""
    with pytest.raises(ConfigError, match=rf"{TOKEN_VARIABLE}.*portway-admin token create"):
        resolve(**(GIVEN | {"token": token}))


@pytest.mark.parametrize("token", ["secret", "pw_", "pw_id", "pw_id_", "pw__secret", "xx_id_secret", "pw_id_se cret"])
def test_a_malformed_token_is_an_auth_error(token: str) -> None:
    """It is told from one that is not there, and is not repeated in the message."""
    with pytest.raises(AuthError, match="malformed") as raised:
        resolve(**(GIVEN | {"token": token}))
    assert token not in str(raised.value).replace("pw_<id>_<secret>", "")


def test_a_token_may_have_space_around_it() -> None:
    """As it comes out of a file."""
    assert resolve(**(GIVEN | {"token": "pw_id_secret\n"})).token == "pw_id_secret"


def test_a_ca_file_may_have_a_byte_order_mark(tmp_path: Path) -> None:
    """As editors write it; gRPC would refuse the file."""
    path = tmp_path / "ca.pem"
    path.write_text(PEM, encoding="utf-8-sig")
    assert resolve(**GIVEN, ca=path).ca == PEM.encode()


def test_a_ca_file_that_is_not_there(tmp_path: Path) -> None:
    """The error names the file and the reason."""
    with pytest.raises(ConfigError, match=r"nowhere\.pem cannot be read \(No such file or directory\)"):
        resolve(**GIVEN, ca=tmp_path / "nowhere.pem")


def test_a_ca_file_that_is_no_path() -> None:
    """No file has such a name; the system would say ValueError."""
    with pytest.raises(InvalidError, match="as ca says"):
        resolve(**GIVEN, ca="a\0b")


def test_a_ca_file_without_a_certificate(tmp_path: Path) -> None:
    """A key, say."""
    path = tmp_path / "key.pem"
    path.write_text("-----BEGIN PRIVATE KEY-----\n")
    with pytest.raises(ConfigError, match="holds no certificate in PEM"):
        resolve(**GIVEN, ca=str(path))


@pytest.mark.parametrize("argument", [{"registry": 7400}, {"registry": [7400]}, {"token": 1}, {"region": 1}, {"ca": 1}])
def test_what_is_not_text_is_an_invalid_error(argument: dict[str, Any]) -> None:
    """And no AttributeError from somewhere inside."""
    with pytest.raises(InvalidError, match=next(iter(argument))):
        resolve(**(GIVEN | argument))


@pytest.mark.parametrize(
    ("key", "variable", "expected"),
    [
        (None, "", ""),
        ("", "/variable", ""),
        (None, "/variable", "/variable"),
        ("given", "/variable", "given"),
        (Path("given"), "", "given"),
        ("~/k", "", "/home/me/k"),
        (None, "~/k", "/home/me/k"),
    ],
)
def test_a_key_file_is_an_argument_or_the_variable(
    monkeypatch: pytest.MonkeyPatch, key: Any, variable: str, expected: str
) -> None:
    """The argument goes before; an empty one is no file. ~ is the user's home."""
    monkeypatch.setenv("HOME", "/home/me")
    assert resolve_key(key, {"PORTWAY_KEY": variable}) == expected


def test_a_key_file_that_is_no_path() -> None:
    """Or is in the home of nobody."""
    with pytest.raises(InvalidError, match="key is text"):
        resolve_key(1)  # type: ignore[arg-type]
    with pytest.raises(InvalidError, match="write its whole path"):
        resolve_key("~nobody.of.this.name/key")
    with pytest.raises(InvalidError, match="as key says"):
        resolve_key("a\0b")


def test_secrets_are_not_in_the_repr() -> None:
    """Settings end up in logs and tracebacks."""
    assert "secret" not in repr(Settings(("a:1",), "pw_id_secret", b"ca"))


@pytest.mark.parametrize(("value", "wanted"), [("", False), ("0", False), ("1", True), (" 1 ", True)])
def test_the_environment_may_ask_for_a_process(value: str, wanted: bool) -> None:
    """An argument takes precedence over it."""
    environment = {PROCESS_VARIABLE: value}
    assert resolve_process(None, environment) is wanted
    assert resolve_process(True, environment) is True
    assert resolve_process(False, environment) is False


def test_a_process_variable_that_says_neither() -> None:
    """It is refused, and says what would do."""
    with pytest.raises(ConfigError, match=r"PORTWAY_PROCESS is 1 .* not 'yes'"):
        resolve_process(None, {PROCESS_VARIABLE: "yes"})
    with pytest.raises(InvalidError, match="process is True or False, not 'yes'"):
        resolve_process("yes", {})  # type: ignore[arg-type]


def test_a_proxy_is_the_arguments_the_variables_or_everybody_s() -> None:
    """In this order. It is a part of the settings, so that tunnels with another one have a session of their own."""
    base = {"PORTWAY_REGISTRY": "registry.test:1", "PORTWAY_TOKEN": "pw_id_secret"}
    everybodys = base | {"https_proxy": "http://a:1"}
    ours = everybodys | {"PORTWAY_PROXY": "http://b:1"}
    registry = Endpoint("registry.test", 1)

    def proxy(settings: Settings) -> str | None:
        way = settings.proxies.way_to(registry)
        return None if way is None else str(way)

    assert proxy(resolve(environment=base)) is None
    assert proxy(resolve(environment=everybodys)) == "the proxy a:1, which https_proxy names"
    assert proxy(resolve(environment=ours)) == "the proxy b:1, which PORTWAY_PROXY names"
    assert proxy(resolve(environment=ours, proxy=" http://c:1 ")) == "the proxy c:1, which proxy= (--proxy) names"
    for none in ("", "direct", "Direct"):
        assert proxy(resolve(environment=ours, proxy=none)) is None
    assert proxy(resolve(environment=everybodys | {"PORTWAY_PROXY": "direct"})) is None
    assert proxy(resolve(environment=everybodys | {"PORTWAY_PROXY": "DIRECT"})) is None
    for nothing in ("", " "):
        settings = resolve(environment=everybodys | {"PORTWAY_PROXY": nothing})
        assert proxy(settings) == "the proxy a:1, which https_proxy names"
    assert resolve(environment=ours) != resolve(environment=everybodys)
    assert "secret" not in repr(resolve(environment=base, proxy="http://me:secret@a:1"))


def test_a_proxy_that_cannot_be_used_is_told_when_it_would_be() -> None:
    base = {"PORTWAY_REGISTRY": "registry.test:1", "PORTWAY_TOKEN": "pw_id_secret", "ALL_PROXY": "socks5://a:1"}
    with pytest.raises(ConfigError, match="ALL_PROXY names a SOCKS proxy"):
        resolve(environment=base)
    resolve(environment=base | {"no_proxy": "registry.test"})
    resolve(environment=base, proxy="direct")
    with pytest.raises(InvalidError, match="proxy is text, not of type int"):
        resolve(environment=base, proxy=1)  # type: ignore[arg-type]
