"""Settings: where each value comes from, which source wins, and what is said of a bad one."""

import argparse
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from portway_relay import config as config_module
from portway_relay.config import HttpListen, NodeConfig, NodeLimits, PortRange
from portway_relay.errors import ConfigError
from portway_relay.settings import LIMITS, SETTINGS, add_flags, load, parse_ports
from portway_runtime.endpoints import Endpoint
from portway_runtime.errors import SettingsError

REQUIRED = {
    "name": "relay-1",
    "region": "fra",
    "domain": "example.com",
    "listen": "127.0.0.1:443",
    "registry": ["registry.example.com:7443"],
    "cluster_ca": "ca.pem",
    "cert": "node.pem",
    "key": "node.key",
    "tls_cert": ["region.pem"],
    "tls_key": ["region.key"],
}
Write = Callable[[str], Path]


@pytest.fixture(autouse=True)
def any_ports(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What this machine gives to outgoing connections is of no matter here."""
    monkeypatch.setattr(config_module, "_EPHEMERAL_PORTS", tmp_path / "absent")


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a configuration file."""

    def write(text: str) -> Path:
        path = tmp_path / "relay.toml"
        path.write_text(text)
        return path

    return write


def loaded(environment: dict[str, str] | None = None, **flags: Any) -> NodeConfig:
    """The configuration from flags beside the required ones; None takes one of those away."""
    return load({key: value for key, value in (REQUIRED | flags).items() if value is not None}, environment or {})


def complaint(environment: dict[str, str] | None = None, **flags: Any) -> str:
    with pytest.raises((ConfigError, SettingsError)) as caught:
        loaded(environment, **flags)
    return str(caught.value)


def test_what_is_not_given_has_its_default() -> None:
    """With nothing but what is required, every other field is NodeConfig's own."""
    config = loaded()
    assert config == NodeConfig(
        name="relay-1",
        region="fra",
        domain="example.com",
        listen=Endpoint("127.0.0.1", 443),
        registry=(Endpoint("registry.example.com", 7443),),
        cluster_ca=Path("ca.pem"),
        cert=Path("node.pem"),
        key=Path("node.key"),
        tls_cert=(Path("region.pem"),),
        tls_key=(Path("region.key"),),
    )


def test_a_node_without_a_certificate_lives_by_invitation() -> None:
    """Its key and certificates are in its state folder, named after it unless another is given."""
    without = {"cert": None, "key": None, "cluster_ca": None}
    config = loaded(**without)
    assert config.state_dir == Path("portway-relay-relay-1")
    assert (config.join, config.registry_ca) == (None, None)
    assert loaded({"PORTWAY_RELAY_JOIN_FILE": "/run/join"}, **without).join_file == Path("/run/join")
    other = loaded({"PORTWAY_RELAY_STATE_DIR": "/var/lib/x"}, **without, join="pwj_a_b@c:1", registry_ca="ca.pem")
    assert other.join == "pwj_a_b@c:1"
    assert other.registry_ca == Path("ca.pem")
    folder = Path("/var/lib/x/current")
    assert (other.cert, other.key, other.cluster_ca) == (folder / "node.crt", folder / "node.key", folder / "ca.crt")


def test_a_certificate_and_an_invitation_are_not_mixed() -> None:
    """One or the other; half of a certificate's files is told, too."""
    for said in (complaint(join="pwj_a_b@c:1"), complaint(join_file="x"), complaint(state_dir="x")):
        assert "--join, --join-file and --state-dir are for a node" in said
    without = {"cert": None, "key": None, "cluster_ca": None}
    assert "are both given" in complaint(**without, join="pwj_a_b@c:1", join_file="x")
    assert complaint(key=None).startswith("--key missing: ")


def test_every_field_can_be_set() -> None:
    """The table of settings and the fields of configuration and limits are the same."""
    assert {setting.key for setting in SETTINGS} == {field.name for field in fields(NodeConfig)} - {"limits"}
    assert {setting.key for setting in LIMITS} == {field.name for field in fields(NodeLimits)}
    assert all(setting.help for setting in (*SETTINGS, *LIMITS))


def test_defaults_give_way_to_file_environment_and_flags(write: Write) -> None:
    """The nearer to whoever starts it, the stronger: defaults < file < environment < flags."""
    file = write('region = "file"\nlog_level = "error"\nstop_grace = 7\n')
    variables = {"PORTWAY_RELAY_REGION": "variable", "PORTWAY_RELAY_LOG_LEVEL": "debug"}
    from_file = loaded(config=file, region=None)
    assert (from_file.region, from_file.log_level, from_file.limits.stop_grace) == ("file", "error", 7)
    assert from_file.log_format == "text"
    assert from_file.limits.lane_wait == NodeLimits().lane_wait
    from_environment = loaded(variables, config=file, region=None)
    assert (from_environment.region, from_environment.log_level) == ("variable", "debug")
    assert from_environment.limits.stop_grace == 7
    from_flags = loaded(variables, config=file, region="flag")
    assert (from_flags.region, from_flags.log_level) == ("flag", "debug")


def test_plain_http_is_redirected_beside_port_443() -> None:
    """At port 80 of the same host, elsewhere where an address says so, and nowhere when it is turned off."""
    assert loaded().http_address == Endpoint("127.0.0.1", 80)
    assert loaded(listen="*:443", advertise="a.example:443").http_address == Endpoint("", 80)
    assert loaded(listen="[::1]:443").http_address == Endpoint("::1", 80)
    assert loaded(listen="127.0.0.1:8443").http_address is None
    assert loaded(listen="127.0.0.1:8443", http_listen="*:8080").http_address == Endpoint("", 8080)
    assert loaded({"PORTWAY_RELAY_HTTP_LISTEN": "[::1]:80"}).http_address == Endpoint("::1", 80)
    for off in ("off", "none", "OFF"):
        assert loaded(http_listen=off).http_listen is HttpListen.OFF
        assert loaded(http_listen=off).http_address is None
    for wrong in ("80", "no", ""):
        assert "--http-listen" in complaint(http_listen=wrong)


def test_a_stronger_source_replaces_a_list_whole(write: Write) -> None:
    """Registries of different sources are not mixed."""
    file = write('registry = ["one:1", "two:2"]\n')
    assert loaded(config=file, registry=None).registry == (Endpoint("one", 1), Endpoint("two", 2))
    variable = {"PORTWAY_RELAY_REGISTRY": "three:3,[::1]:4"}
    assert loaded(variable, config=file, registry=None).registry == (Endpoint("three", 3), Endpoint("::1", 4))
    assert loaded(variable, config=file, registry=["five:5"]).registry == (Endpoint("five", 5),)


def test_a_file_may_give_everything(write: Write) -> None:
    """TOML's own numbers and lists are taken; a single registry needs no list."""
    lines = [f'{key} = "{value}"' for key, value in REQUIRED.items() if key != "registry"]
    lines += [
        'registry = "one:1"',
        "public_port = 8443",
        "latitude = 50.1",
        "longitude = 8",
        'raw_ports = "20000-20009"',
    ]
    config = load({"config": write("\n".join(lines))}, {})
    assert config.registry == (Endpoint("one", 1),)
    assert (config.public_port, config.latitude, config.longitude) == (8443, 50.1, 8.0)
    assert config.raw_ports == PortRange(20_000, 20_009)


def test_the_environment_may_name_the_file(write: Write) -> None:
    """PORTWAY_RELAY_CONFIG is the flag's stand-in, and weaker than the flag."""
    file = write('region = "file"\n')
    assert loaded({"PORTWAY_RELAY_CONFIG": str(file)}, region=None).region == "file"
    assert "other.toml" in complaint({"PORTWAY_RELAY_CONFIG": str(file)}, config=Path("/nowhere/other.toml"))


def test_flags_are_made_of_the_table() -> None:
    """A command line with every kind of flag comes out as it was meant; what is not given stays out."""
    parser = argparse.ArgumentParser()
    add_flags(parser)
    command = [
        *("--name", "relay-1", "--region", "fra", "--domain", "EXAMPLE.com", "--listen", "*:443"),
        *("--advertise", "relay-1.example.com", "--registry", "one:1", "--registry", "two:2"),
        *("--cluster-ca", "ca", "--cert", "c", "--key", "k", "--tls-cert", "tc", "--tls-key", "tk"),
        *("--raw-ports", "20000-20009", "--max-sessions", "7", "--hello-time", "2.5"),
    ]
    config = load(vars(parser.parse_args(command)), {})
    assert config.domain == "example.com"
    assert config.listen == Endpoint("", 443)
    assert config.advertise == Endpoint("relay-1.example.com", 0)
    assert config.registry == (Endpoint("one", 1), Endpoint("two", 2))
    assert config.limits == NodeLimits(max_sessions=7, hello_time=2.5)
    assert "--max-half-open" in parser.format_help()


def test_all_that_is_missing_is_named_at_once() -> None:
    """Who starts it the first time learns everything that is needed."""
    with pytest.raises((ConfigError, SettingsError)) as caught:
        load({"name": "relay-1"}, {"PORTWAY_RELAY_REGION": "fra"})
    message = str(caught.value)
    missing = {setting.flag for setting in SETTINGS if setting.required} - {"--name", "--region"}
    assert all(flag in message for flag in missing)
    assert "--region" not in message


@pytest.mark.parametrize(
    ("line", "key", "advice"),
    [
        ('regoin = "fra"', "regoin", "did you mean 'region'?"),
        ("max_session = 1", "max_session", "did you mean 'max_sessions'?"),
        ('"max-sessions" = 1', "max-sessions", "did you mean 'max_sessions'?"),
        ("[limits]\nmax_sessions = 1", "limits", "portway-relay serve --help"),
        ("config = 'x'", "config", ""),
    ],
)
def test_an_unknown_key_of_the_file_is_refused(write: Write, line: str, key: str, advice: str) -> None:
    """A setting that would silently do nothing is told, with the nearest that exists."""
    file = write(line)
    message = complaint(config=file)
    assert message.startswith(f"{file} has the key {key!r}, which is not a setting: ")
    assert advice in message


def test_an_unknown_variable_is_refused() -> None:
    """The prefix is the relay's: what carries it is meant for it. Others' variables are nobody's business here."""
    message = complaint({"PORTWAY_RELAY_REGOIN": "fra"})
    assert message.startswith("the environment has 'PORTWAY_RELAY_REGOIN', which is not a setting: ")
    assert "did you mean 'PORTWAY_RELAY_REGION'?" in message
    assert loaded({"PORTWAY_TOKEN": "x", "PORTWAY_RELAYS": "y", "PATH": "/bin"}).region == "fra"


def test_variables_of_kubernetes_services_are_no_settings() -> None:
    """Those of a service named portway-relay are left alone; those of portway-relay-public are the port's in URLs."""
    service = {
        "PORTWAY_RELAY_SERVICE_HOST": "10.0.0.1",
        "PORTWAY_RELAY_SERVICE_PORT": "443",
        "PORTWAY_RELAY_PORT": "tcp://10.0.0.1:443",
        "PORTWAY_RELAY_PORT_443_TCP_ADDR": "10.0.0.1",
    }
    assert loaded(service).region == "fra"
    message = complaint({"PORTWAY_RELAY_PUBLIC_PORT": "tcp://10.0.0.1:443"})
    assert message.startswith("PORTWAY_RELAY_PUBLIC_PORT is 'tcp://10.0.0.1:443', which Kubernetes sets for a service ")


BAD_TEXTS = [
    ("listen", "443", "use HOST:PORT"),
    ("listen", "::1:443", "in brackets"),
    ("listen", "127.0.0.1:65536", "0 to 65535"),
    ("listen", "127.0.0.1:http", "0 to 65535"),
    ("registry", "registry.example.com", "use HOST:PORT"),
    ("public_port", "-1", "0 to 65535"),
    ("raw_ports", "29999-20000", "first-last"),
    ("raw_ports", "20000", "first-last"),
    ("latitude", "north", "use degrees"),
    ("public_address", "relay-1.example.com", "one IP address"),
    ("public_address", "0.0.0.0", "one IP address"),
    ("dns_listen", "53", "use HOST:PORT"),
    ("log_format", "xml", "text, json"),
    ("log_level", "loud", "debug, info, warning, error"),
    ("max_sessions", "0", "1 or more"),
    ("max_lanes", "many", "whole number"),
    ("max_lanes", "1.5", "whole number"),
    ("hello_time", "0", "above 0"),
    ("hello_time", "soon", "above 0"),
    ("hello_time", "-1", "above 0"),
    ("hello_time", "nan", "above 0"),
    ("hello_time", "inf", "above 0"),
]


@pytest.mark.parametrize(("key", "text", "advice"), BAD_TEXTS)
def test_a_bad_value_names_its_flag(key: str, text: str, advice: str) -> None:
    """Which flag, what it was given, and what would do."""
    given: dict[str, Any] = {key: [text] if key == "registry" else text}
    message = complaint(**given)
    assert message.startswith(f"--{key.replace('_', '-')}: {text!r} cannot be used: ")
    assert advice in message


@pytest.mark.parametrize(("key", "text", "advice"), BAD_TEXTS)
def test_a_bad_value_names_its_variable(key: str, text: str, advice: str) -> None:
    """The same value from the environment is told with the variable's name."""
    message = complaint({f"PORTWAY_RELAY_{key.upper()}": text}, **{key: None})
    assert message.startswith(f"PORTWAY_RELAY_{key.upper()}: {text!r} cannot be used: ")
    assert advice in message


@pytest.mark.parametrize(("key", "text", "advice"), BAD_TEXTS)
def test_a_bad_value_names_its_file(write: Write, key: str, text: str, advice: str) -> None:
    """The same value from the file is told with the key and the file's name."""
    file = write(f'{key} = "{text}"\n')
    message = complaint(config=file, **{key: None})
    assert message.startswith(f"{key} in {file}: {text!r} cannot be used: ")
    assert advice in message


@pytest.mark.parametrize("value", ["true", "[1]", "{a = 1}", "1979-05-27"])
def test_a_value_of_another_kind_is_refused(write: Write, value: str) -> None:
    """A list, a table, a date or a truth value is no text and no number."""
    file = write(f"log_level = {value}\n")
    assert complaint(config=file).startswith(f"log_level in {file}: ")


@pytest.mark.parametrize("value", ["[true]", "[[1]]"])
def test_each_value_of_a_list_is_looked_at(write: Write, value: str) -> None:
    """Where a list may be given, what is in it must be text."""
    file = write(f"registry = {value}\n")
    assert complaint(config=file, registry=None).startswith(f"registry in {file}: ")


def test_an_empty_list_is_none_at_all(write: Write) -> None:
    """No registry from the file is a registry that is missing."""
    assert "--registry is missing" in complaint(config=write("registry = []\n"), registry=None)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    """The file and the system's reason."""
    assert complaint(config=tmp_path / "none.toml") == f"cannot read {tmp_path}/none.toml: No such file or directory"
    assert "Is a directory" in complaint(config=tmp_path)


@pytest.mark.parametrize("content", [b"region fra", b"region = 'a'\nregion = 'b'", b"\xff\xfe", b"[[["])
def test_a_file_that_is_not_toml_is_named(tmp_path: Path, content: bytes) -> None:
    """The file, and where it stops being TOML."""
    path = tmp_path / "relay.toml"
    path.write_bytes(content)
    assert complaint(config=path).startswith(f"{path} is not TOML: ")


def test_what_is_loaded_was_checked() -> None:
    """Rules about values hold whichever source they came from."""
    assert "--name 'Relay'" in complaint(name="Relay")
    assert "--advertise is missing" in complaint(listen="*:443")
    assert "--advertise" in complaint(listen="*:443", advertise=":443")


def test_a_port_range_is_two_ports() -> None:
    """Both ends belong to it; one port is a range too."""
    assert parse_ports("20000-29999") == PortRange(20_000, 29_999)
    assert parse_ports("7-7") == PortRange(7, 7)
    for text in ("", "-", "7", "7-", "-7", "8-7", "0-7", "1-65536", "a-b", "1-2-3", "1 - 2"):
        with pytest.raises(ValueError, match="first-last"):
            parse_ports(text)
