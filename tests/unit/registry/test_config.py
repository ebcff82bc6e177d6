"""Where settings come from, which of them wins, and what is refused."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from portway_registry.config import SETTINGS, Config, load
from portway_registry.errors import ConfigError
from portway_registry.store.spec import EmbeddedSpec, EtcdSpec
from portway_runtime.address_scopes import Scope
from portway_runtime.endpoints import Endpoint, parse_endpoint
from portway_runtime.settings import flag

variable = SETTINGS.variable


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "registry.toml"


def test_defaults_pass_their_own_checks() -> None:
    """Each field has its setting, and each default, given as text, is read as itself."""
    defaults = Config()
    assert [field.name for field in dataclasses.fields(Config)] == list(SETTINGS.by_key)
    for name, setting in SETTINGS.by_key.items():
        value = getattr(defaults, name)
        for one in value if setting.repeatable else () if value is None else (value,):
            assert setting.parse(str(one)) == one, name
    assert load({}, {}) == defaults


def test_flags_beat_variables_beat_the_file_beats_defaults(file: Path) -> None:
    """Each source wins over those before it."""
    file.write_text('listen = "127.0.0.1:1"\nmesh_listen = "127.0.0.1:1"\nlease_seconds = 20\n')
    environment = {variable("listen"): "127.0.0.1:2", variable("mesh_listen"): "127.0.0.1:2"}
    config = load({"listen": "127.0.0.1:3"}, environment, file)
    assert config.listen == Endpoint("127.0.0.1", 3)
    assert config.mesh_listen == Endpoint("127.0.0.1", 2)
    assert config.lease_seconds == 20
    assert config.max_tunnels == Config().max_tunnels


@pytest.mark.parametrize("name", list(SETTINGS.by_key))
def test_every_setting_can_be_given_everywhere(file: Path, name: str) -> None:
    """Flag, variable and key of the file are the same setting."""
    texts = {
        "lease_seconds": "30",
        "max_tunnels": "7",
        "max_connections": "70",
        "node_certificate_seconds": "60",
        "check_addresses": "no",
        "check_private_addresses": "yes",
        "domain": "tunnels.example.com",
        "registry_name": "registry.example.com",
        "advertise": "registry-1.example.com:7400",
        "acme_directory": "https://acme.example.com/directory",
        "mesh_advertise": "registry.example.com:7401",
        "log_format": "json",
        "log_level": "debug",
        "store": "embedded:memory",
        "proxy_protocol_from": "192.0.2.0/24",
    }
    listening = name.endswith("listen")
    text = texts.get(name, "127.0.0.1:9" if listening else "/some/file")
    # These belong to etcd, and some go in pairs.
    needed = {"store": "etcd:https://a:1"} if name.startswith("etcd") else {}
    pairs = {
        "etcd_cert": "etcd_key",
        "etcd_key": "etcd_cert",
        "etcd_user": "etcd_password_file",
        "etcd_password_file": "etcd_user",
    }
    if name in pairs:
        needed[pairs[name]] = "/other"
    by_flag = load({name: text, **needed}, {})
    by_variable = load({}, {variable(key): value for key, value in {name: text, **needed}.items()})
    file.write_text("".join(f'{key} = "{value}"\n' for key, value in {name: text, **needed}.items()))
    assert by_flag == by_variable == load({}, {}, file)
    assert getattr(by_flag, name) != getattr(Config(), name)


@pytest.mark.parametrize(
    ("given", "dialled"),
    [
        ({}, {Scope.GLOBAL}),
        ({"listen": "10.0.0.1:7400"}, {Scope.GLOBAL, Scope.PRIVATE}),
        ({"mesh_listen": "127.0.0.1:7401"}, {Scope.GLOBAL, Scope.LOOPBACK}),
        ({"mesh_listen": "127.0.0.1:7401", "check_private_addresses": "no"}, {Scope.GLOBAL}),
        ({"check_private_addresses": "yes"}, set(Scope)),
    ],
)
def test_private_addresses_are_dialled_where_the_registry_is_private(
    given: dict[str, str], dialled: set[Scope]
) -> None:
    """By default: a registry that listens on every address of a public machine dials none."""
    assert load(given, {}).dialled_scopes() == dialled


@pytest.mark.parametrize("name", ["acme_email", "acme_ca", "acme_eab_key_id", "acme_eab_key_file"])
def test_settings_of_an_acme_server_need_its_address(name: str) -> None:
    """Certificates are not obtained without, which would be found out when the files' ones end."""
    given = {name: "some", "domain": "tun.example.com", "store": "embedded:/state/registry.db"}
    with pytest.raises(ConfigError, match=f"--{name.replace('_', '-')} is for .* --acme-directory https://"):
        load(given, {}).check_acme()
    load({**given, "acme_directory": "https://acme.example.com/directory"}, {}).check_acme()


def test_the_file_can_be_named_by_a_variable(file: Path) -> None:
    """PORTWAY_REGISTRY_CONFIG names the file unless --config does."""
    file.write_text("max_tunnels = 5\n")
    assert load({}, {"PORTWAY_REGISTRY_CONFIG": str(file)}).max_tunnels == 5
    other = file.with_name("other.toml")
    other.write_text("max_tunnels = 6\n")
    assert load({}, {"PORTWAY_REGISTRY_CONFIG": str(file)}, other).max_tunnels == 6


def test_an_empty_variable_is_none() -> None:
    """A variable that is set to nothing counts as not set, as compose files leave them."""
    assert load({}, {variable("lease_seconds"): ""}).lease_seconds == Config().lease_seconds


@pytest.mark.parametrize(
    ("key", "hint"), [("lisen", "'listen'"), ("tls-cert", "'tls_cert'"), ("LISTEN", "'listen'"), ("zzz", "--help")]
)
def test_an_unknown_key_is_refused(file: Path, key: str, hint: str) -> None:
    """A key that nobody reads is an error that names the nearest one."""
    file.write_text(f'{key} = "x"\n')
    with pytest.raises(ConfigError, match=f"has the key '{key}', which is not a setting: .*{hint}"):
        load({}, {}, file)


def test_a_misspelt_variable_is_refused() -> None:
    """A variable of ours that is no setting is an error; what Kubernetes sets by itself is not."""
    with pytest.raises(ConfigError, match="did you mean 'PORTWAY_REGISTRY_LISTEN'"):
        load({}, {"PORTWAY_REGISTRY_LISTTEN": "x"})
    others = {
        "PORTWAY_REGISTRY_SERVICE_HOST": "10.0.0.1",
        "PORTWAY_REGISTRY_PORT": "tcp://10.0.0.1:7400",
        "PORTWAY_REGISTRY_PORT_7400_TCP": "tcp://10.0.0.1:7400",
        "PORTWAY_REGISTRY_ADMIN_LISTEN_SERVICE_PORT": "7402",  # of a service named portway-registry-admin-listen
        "PORTWAY_REGISTRY": "a",
    }
    assert load({}, others) == Config()


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("listen", "7400", "HOST:PORT"),
        ("listen", ":7400", "HOST:PORT"),
        ("listen", "localhost:x", "HOST:PORT"),
        ("listen", "localhost:65536", "HOST:PORT"),
        ("lease_seconds", "1", "from 2 to 600"),
        ("lease_seconds", "601", "from 2 to 600"),
        ("lease_seconds", "-5", "from 2 to 600"),
        ("lease_seconds", "1.5", "from 2 to 600"),
        ("max_tunnels", "0", "from 1 to"),
        ("log_level", "loud", "use one of debug"),
        ("log_format", "xml", "use one of text, json"),
        ("store", "redis:x", "is not known"),
        ("store", "embedded:", "names no file"),
    ],
)
def test_what_cannot_be_used_is_said_with_its_source(file: Path, name: str, text: str, says: str) -> None:
    """A wrong value is an error that names where it came from and what would do."""
    file.write_text(f'{name} = "{text}"\n')
    sources: dict[str, tuple[Any, Any, Path | None]] = {
        flag(name): ({name: text}, {}, None),
        variable(name): ({}, {variable(name): text}, None),
    }
    for source, given in (sources | {f"{name} in {file}": ({}, {}, file)}).items():
        with pytest.raises(ConfigError, match=says) as raised:
            load(*given)
        assert name == "store" or source in str(raised.value)


@pytest.mark.parametrize("value", ["true", "[1]", "1.5", "{a = 1}", "2026-01-01"])
def test_a_key_has_a_text_or_a_number(file: Path, value: str) -> None:
    """Other TOML values are refused, not turned into text."""
    file.write_text(f"lease_seconds = {value}\n")
    with pytest.raises(ConfigError, match="cannot be used"):
        load({}, {}, file)


@pytest.mark.parametrize("content", [b"listen = ", b"\xff\xfe", b"[section]\nlisten = 1\n"])
def test_a_file_that_is_no_settings_is_named(file: Path, content: bytes) -> None:
    """Broken TOML, other bytes and sections are errors with the file's name."""
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=str(file)):
        load({}, {}, file)


def test_a_file_that_is_missing_is_an_error(tmp_path: Path) -> None:
    """A file that was named has to be there."""
    with pytest.raises(ConfigError, match="No such file"):
        load({}, {}, tmp_path / "none.toml")


def test_addresses_of_both_families_are_read() -> None:
    """IPv6 stands in brackets, and is written so again."""
    for text, host in (("[::1]:7400", "::1"), ("0.0.0.0:0", "0.0.0.0"), ("registry.example:1", "registry.example")):
        assert parse_endpoint(text).host == host
        assert str(parse_endpoint(text)) == text


@pytest.mark.parametrize("key", ["listen", "mesh_listen", "metrics_listen"])
def test_an_ipv6_address_may_lack_its_brackets(key: str) -> None:
    """What follows the last colon is the port, here alone: an address that others are to dial has brackets."""
    assert getattr(load({key: ":::7400"}, {}), key) == Endpoint("::", 7400)
    assert getattr(load({key: "fe80::1:0"}, {}), key) == Endpoint("fe80::1", 0)
    for text in ("::1", "[::1]", "::1:", ":7400", "[::1:7400"):
        with pytest.raises(ConfigError, match="in brackets"):
            load({key: text}, {})


def test_the_store_s_settings_belong_together() -> None:
    """What only etcd has use for makes the specification, and is refused elsewhere."""
    config = load({"store": "etcd:https://a,https://b:1", "etcd_ca": "/ca"}, {})
    assert config.store_spec() == EtcdSpec(("a:2379", "b:1"), secure=True, ca=Path("/ca"))
    with pytest.raises(ConfigError, match="--etcd-ca"):
        load({"etcd_ca": "/ca"}, {})


def test_the_first_admin_token_goes_beside_the_store() -> None:
    """By default it is beside the embedded file; without one somebody has to say where."""
    assert load({"store": "embedded:/var/r.db"}, {}).first_admin_token_file() == Path("/var/r.db.admin-token")
    assert load({"store": "embedded:memory"}, {}).first_admin_token_file() is None
    assert load({"store": "etcd:http://a"}, {}).first_admin_token_file() is None
    named = dataclasses.replace(Config(), admin_token_file=Path("/x"))
    assert named.first_admin_token_file() == Path("/x")
    assert named.store_spec() == EmbeddedSpec(Path("portway-registry.db"))


@pytest.mark.parametrize("address", ["[::]:7401", "0.0.0.0:7401", "registry.example.com:0", "registry.example.com"])
def test_an_advertised_address_is_one_that_can_be_dialled(address: str) -> None:
    """By other machines."""
    with pytest.raises(ConfigError, match="--mesh-advertise"):
        load({"mesh_advertise": [address]}, {})  # type: ignore[dict-item]
