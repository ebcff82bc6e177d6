"""The settings that are written are ones that the programs take."""

import tomllib
from pathlib import Path

import portway_registry.config
import portway_relay.settings
import pytest
from portway_geo.position import Position
from portway_server.errors import SetupRefused
from portway_server.plan import Found, plan
from portway_server.settings_files import registry_file, relay_file, server_file
from portway_server.toml import Line, rendered
from portway_server.wishes import Acme, Etcd, Wishes

FOUND = Found(("45.76.1.7", "2a05:f480::7"), (), True, Position(50.0, 8.0), "c0ffee", ())
PAIR = (Path("/etc/portway/own.crt"), Path("/etc/portway/own.key"))


def wishes(**more: object) -> Wishes:
    return Wishes("tun.example.com", "fra", dns=False, certificates=(PAIR,), **more)  # type: ignore[arg-type]


def test_the_registry_takes_its_file(tmp_path: Path) -> None:
    file = tmp_path / "registry.toml"
    file.write_text(registry_file(plan(wishes(), FOUND), PAIR))
    config = portway_registry.config.load({}, {}, file)
    assert config.store == "embedded:/var/lib/portway-registry/registry.db"
    assert str(config.first_admin_token_file()) == "/var/lib/portway-registry/admin-token"
    assert [str(one) for one in config.mesh_advertise] == ["45.76.1.7:7401", "[2a05:f480::7]:7401"]
    assert (config.tls_cert, config.tls_key) == PAIR
    assert str(config.backup_dir) == "/var/lib/portway-registry/backups"
    assert config.check_private_addresses == "auto"


def test_the_registry_takes_its_file_with_etcd(tmp_path: Path) -> None:
    etcd = Etcd("https://a:2379,https://b:2379", Path("/ca"), Path("/cert"), Path("/key"), "portway", Path("/password"))
    file = tmp_path / "registry.toml"
    file.write_text(registry_file(plan(wishes(etcd=etcd), FOUND), PAIR))
    config = portway_registry.config.load({}, {}, file)
    assert config.store == "etcd:https://a:2379,https://b:2379"
    assert (config.etcd_ca, config.etcd_user, config.etcd_password_file) == (
        Path("/ca"),
        "portway",
        Path("/password"),
    )


def test_the_relay_takes_its_file(tmp_path: Path) -> None:
    file = tmp_path / "relay.toml"
    file.write_text(relay_file(plan(wishes(), FOUND), ["127.0.0.1:7401"], [PAIR]))
    config = portway_relay.settings.load({"config": file}, {})
    assert (config.name, config.zone, str(config.advertise)) == ("fra-c0ffee", "fra.tun.example.com", "45.76.1.7:443")
    assert (config.latitude, config.longitude) == (50.0, 8.0)
    assert str(config.state_dir) == "/var/lib/portway-relay"


def test_what_makes_certificates_is_asked_for_by_the_registry_s_settings() -> None:
    """The ACME server, its CA, the account, and the file of the key that wraps keys."""
    acme = Acme("ops@example.com", "https://acme.test/dir", Path("/ca.pem"), "kid", Path("/eab"))
    own = Wishes("tun.example.com", "fra", acme=acme)
    found = tomllib.loads(registry_file(plan(own, FOUND), None))
    assert {key: value for key, value in found.items() if key.startswith("acme_")} == {
        "acme_email": "ops@example.com",
        "acme_directory": "https://acme.test/dir",
        "acme_ca": "/ca.pem",
        "acme_eab_key_id": "kid",
        "acme_eab_key_file": "/eab",
        "acme_key_file": "/var/lib/portway-registry/acme.key",
    }
    assert "tls_cert" not in found


def test_certificates_from_elsewhere_leave_acme_out() -> None:
    found = tomllib.loads(registry_file(plan(wishes(acme=Acme("ops@example.com")), FOUND), PAIR))
    assert not any(key.startswith("acme_") for key in found)


def test_a_node_that_answers_dns_says_where_and_for_which_addresses() -> None:
    found = tomllib.loads(relay_file(plan(Wishes("tun.example.com", "fra"), FOUND), ["127.0.0.1:7401"], []))
    assert found["dns_listen"] == ["45.76.1.7:53", "[2a05:f480::7]:53"]
    assert found["public_address"] == ["45.76.1.7", "2a05:f480::7"]
    assert "tls_cert" not in found


def test_each_program_has_a_user_of_its_own_unless_one_is_wanted() -> None:
    made = tomllib.loads(server_file(plan(wishes(), FOUND), "tun.example.com"))
    assert (made["registry_user"], made["relay_user"]) == ("portway-registry", "portway-relay")
    alone = tomllib.loads(server_file(plan(wishes(separate_users=False), FOUND), "tun.example.com"))
    assert not alone.keys() & {"registry_user", "relay_user"}


def test_a_machine_without_a_registry_has_no_settings_of_one() -> None:
    made = tomllib.loads(server_file(plan(wishes(registry=False), FOUND), "tun.example.com"))
    assert not made.keys() & {"registry_config", "registry_user"}


def test_a_position_is_given_whole() -> None:
    with pytest.raises(SetupRefused, match="go together"):
        Wishes("tun.example.com", "fra", latitude=1.0)


def test_values_of_any_text_come_back_from_toml() -> None:
    """Quotes, backslashes, umlauts and control characters."""
    text = 'a "b" \\ ü \t'
    assert tomllib.loads(rendered(["heading"], [Line("key", text, "comment"), Line("none", None)])) == {"key": text}
