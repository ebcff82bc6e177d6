"""Settings: which source wins, what is refused, and that each error names the setting and where its value is from."""

import argparse
import dataclasses
from pathlib import Path

import pytest
from portway_runtime.errors import SettingsError
from portway_runtime.settings import (
    Setting,
    SettingTable,
    add_config_flag,
    add_flags,
    flag,
    one_of,
    whole_number,
    with_defaults,
)

SETTINGS = (
    Setting("listen_on", str, "where to listen", metavar="HOST:PORT"),
    Setting("lanes", whole_number(1, 100), "how many lanes, 100% at the most"),
    Setting("level", one_of("info", "debug"), "how much is logged"),
    Setting("peers", whole_number(0), "peers by number", repeatable=True),
)


def _table(*settings: Setting, empty_unsets: bool = True) -> SettingTable:
    return SettingTable("portway-test", "PORTWAY_TEST_", settings or SETTINGS, empty_unsets=empty_unsets)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "test.toml"


def test_what_no_source_gives_is_left_out() -> None:
    """Defaults are the caller's."""
    assert _table().load({"lanes": None, "config": None}, {"HOME": "/root"}) == {}


def test_flags_beat_variables_and_variables_beat_the_file(file: Path) -> None:
    """For each setting by itself."""
    file.write_text('listen_on = "file"\nlanes = 1\nlevel = "info"\n')
    environment = {"PORTWAY_TEST_LANES": "2", "PORTWAY_TEST_LEVEL": "debug"}
    found = _table().load({"config": file, "lanes": "3"}, environment)
    assert found == {"listen_on": "file", "lanes": 3, "level": "debug"}


def test_the_file_is_named_by_flag_or_variable(file: Path, tmp_path: Path) -> None:
    """The flag wins here too; an empty variable names none."""
    file.write_text("lanes = 1")
    other = tmp_path / "other.toml"
    other.write_text("lanes = 2")
    variable = "PORTWAY_TEST_CONFIG"
    assert _table().load({}, {variable: str(file)}) == {"lanes": 1}
    assert _table().load({"config": other}, {variable: str(file)}) == {"lanes": 2}
    assert _table().load({}, {variable: ""}) == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("lane = 1", r"test\.toml has the key 'lane', which is not a setting: did you mean 'lanes'\?"),
        ("colour = 1", r"has the key 'colour', which is not a setting: `portway-test --help` lists all settings"),
        ("config = 'x'", r"has the key 'config', which is not a setting"),
        ("lanes = ", r"test\.toml is not TOML: "),
        ("lanes = 0", r"lanes in .*test\.toml: '0' cannot be used: use a whole number from 1 to 100"),
        ("lanes = true", r"lanes in .*test\.toml: True cannot be used: how many lanes"),
        ("lanes = [1, 2]", r"lanes in .*: \[1, 2\] cannot be used: how many lanes"),
        ("[lanes]", r"lanes in .*: \{\} cannot be used: how many lanes"),
        ("peers = [1, -1]", r"peers in .*: '-1' cannot be used: use a whole number, 0 or more"),
    ],
)
def test_what_is_wrong_in_the_file_is_named(file: Path, content: str, message: str) -> None:
    """With the file, the key, and what would do."""
    file.write_text(content)
    with pytest.raises(SettingsError, match=message):
        _table().load({"config": file}, {})


def test_a_file_that_cannot_be_read_is_an_error(file: Path) -> None:
    """Missing, or not text at all."""
    with pytest.raises(SettingsError, match=r"cannot read .*test\.toml: No such file"):
        _table().load({"config": file}, {})
    file.write_bytes(b"lanes = \xff")
    with pytest.raises(SettingsError, match=r"test\.toml is not TOML"):
        _table().load({"config": file}, {})


def test_a_misspelt_variable_is_refused() -> None:
    """With the name that was probably meant."""
    with pytest.raises(SettingsError, match=r"has 'PORTWAY_TEST_LANE'.*did you mean 'PORTWAY_TEST_LANES'"):
        _table().load({}, {"PORTWAY_TEST_LANE": "1"})


def test_a_variable_that_is_like_no_setting_is_refused() -> None:
    """One without the prefix is somebody else's."""
    assert _table().load({}, {"PORTWAY_OTHER": "2", "PORTWAY_TESTS": "3"}) == {}
    with pytest.raises(SettingsError, match="'PORTWAY_TEST_VOLUME', which is not a setting"):
        _table().load({}, {"PORTWAY_TEST_VOLUME": "1"})


@pytest.mark.parametrize("service", ["", "LISTEN_", "LEVEL_2_"])
def test_what_kubernetes_sets_for_services_is_left_alone(service: str) -> None:
    """Every variable that it sets for portway-test and portway-test-listen, however similar to a setting's."""
    host = f"PORTWAY_TEST_{service}"
    environment = {
        f"{host}SERVICE_HOST": "10.96.0.7",
        f"{host}SERVICE_PORT": "443",
        f"{host}SERVICE_PORT_HTTPS": "443",
        f"{host}PORT": "tcp://10.96.0.7:443",
        f"{host}PORT_443_TCP": "tcp://10.96.0.7:443",
        f"{host}PORT_443_TCP_PROTO": "tcp",
        f"{host}PORT_443_TCP_PORT": "443",
        f"{host}PORT_443_TCP_ADDR": "10.96.0.7",
        f"{host}PORT_53_UDP": "udp://10.96.0.7:53",
        f"{host}PORT_53_UDP_ADDR": "fd00::7",
    }
    assert _table().load({}, environment) == {}
    assert _table().load({}, {f"{host}PORT": "tcp://[fd00::7]:443"}) == {}


@pytest.mark.parametrize("variable", ["PORT", "LISTEN_PORT", "PORT_443", "PORT_443_TCP_HOST", "SERVICE", "SERVICE_URL"])
def test_what_a_person_meant_as_a_setting_is_refused(variable: str) -> None:
    """A port by its number is not what Kubernetes sets."""
    with pytest.raises(SettingsError, match=f"'PORTWAY_TEST_{variable}', which is not a setting"):
        _table().load({}, {f"PORTWAY_TEST_{variable}": "443"})


def test_a_service_whose_name_makes_a_setting_s_variable_is_told(file: Path) -> None:
    """It would override the file. A flag is not affected, nor is a value that a person gave."""
    table = _table(Setting("public_port", whole_number(0), "the port"), Setting("port", str, "another"))
    file.write_text("public_port = 1")
    environment = {"PORTWAY_TEST_PUBLIC_PORT": "tcp://10.96.0.7:443"}
    with pytest.raises(SettingsError, match=r"service named 'portway-test-public'.*enableServiceLinks.*--public-port"):
        table.load({"config": file}, environment)
    assert table.load({"config": file, "public_port": "2"}, environment) == {"public_port": 2}
    assert table.load({"config": file}, {"PORTWAY_TEST_PUBLIC_PORT": "3"}) == {"public_port": 3}
    with pytest.raises(SettingsError, match="service named 'portway-test':"):
        table.load({}, {"PORTWAY_TEST_PORT": "tcp://[fd00::7]:443"})


def test_an_empty_variable_unsets_or_counts() -> None:
    """As the program has it."""
    environment = {"PORTWAY_TEST_LISTEN_ON": ""}
    assert _table(empty_unsets=True).load({}, environment) == {}
    assert _table(empty_unsets=False).load({}, environment) == {"listen_on": ""}


def test_a_repeatable_setting_is_a_tuple_from_every_source(file: Path) -> None:
    """A list, or one value, in the file; commas in the variable; the flag several times."""
    file.write_text("peers = [1, 2]")
    assert _table().load({"config": file}, {}) == {"peers": (1, 2)}
    file.write_text("peers = 3")
    assert _table().load({"config": file}, {}) == {"peers": (3,)}
    assert _table().load({}, {"PORTWAY_TEST_PEERS": "4,5"}) == {"peers": (4, 5)}
    assert _table().load({"peers": ["6", "7"]}, {"PORTWAY_TEST_PEERS": "4,5"}) == {"peers": (6, 7)}


def test_a_variable_that_cannot_be_used_is_named() -> None:
    """With its value, and what would do."""
    with pytest.raises(SettingsError, match=r"^PORTWAY_TEST_LEVEL: 'loud' cannot be used: use one of info, debug$"):
        _table().load({}, {"PORTWAY_TEST_LEVEL": "loud"})


def test_a_flag_that_cannot_be_used_is_named() -> None:
    """As it is typed, with dashes."""
    with pytest.raises(SettingsError, match=r"^--peers: 'x' cannot be used: use a whole number, 0 or more$"):
        _table().load({"peers": ["1", "x"]}, {})


def test_all_required_settings_that_are_missing_are_named_at_once() -> None:
    """Whichever source gives the others."""
    settings = [Setting(key, str, "", required=True) for key in ("one", "the_other", "third")]
    with pytest.raises(SettingsError, match=r"^--one, --the-other missing: give each as a flag, in the environment"):
        _table(*settings).load({}, {"PORTWAY_TEST_THIRD": "3"})
    given = {"one": "1", "the_other": "2", "third": "3"}
    assert _table(*settings).load(given, {}) == given


def test_an_unknown_name_is_said_before_what_is_missing() -> None:
    """A misspelt variable is the likelier reason."""
    with pytest.raises(SettingsError, match="did you mean 'PORTWAY_TEST_ONE'"):
        _table(Setting("one", str, "", required=True)).load({}, {"PORTWAY_TEST_OEN": "1"})


def test_the_names_of_a_setting_follow_from_its_key() -> None:
    """Dashes in the flag; the prefix and capitals in the variable."""
    assert (SETTINGS[0].flag, flag("listen_on"), _table().variable("listen_on")) == (
        "--listen-on",
        "--listen-on",
        "PORTWAY_TEST_LISTEN_ON",
    )
    assert list(_table().by_key) == ["listen_on", "lanes", "level", "peers"]


def test_flags_are_text_until_they_are_loaded(file: Path) -> None:
    """Left out they are None; the help is shown as written, a percent sign included."""
    parser = argparse.ArgumentParser(prog="portway-test")
    add_config_flag(parser)
    add_flags(parser, SETTINGS[:2])
    add_flags(parser, SETTINGS[2:], title="Others")
    help_text = " ".join(parser.format_help().split())
    assert "--listen-on HOST:PORT where to listen" in help_text
    assert "100% at the most" in help_text
    assert "Others:" in help_text
    parsed = vars(parser.parse_args(["--config", str(file), "--lanes", "x", "--peers", "1", "--peers", "2"]))
    assert parsed == {"config": file, "listen_on": None, "lanes": "x", "level": None, "peers": ["1", "2"]}


@pytest.mark.parametrize("text", ["", "-1", "+1", " 1", "1.0", "1_0", "٣", "0", "101", "9" * 5000])
def test_a_number_out_of_bounds_or_not_in_digits_is_refused(text: str) -> None:
    """Only what everybody reads alike is a number."""
    with pytest.raises(ValueError, match=r"."):
        whole_number(1, 100)(text)


def test_numbers_include_both_bounds_and_words_any_case() -> None:
    """What is returned is what the program compares with."""
    assert [whole_number(1, 100)(text) for text in ("1", "100", "007")] == [1, 100, 7]
    assert one_of("info", "debug")("DEBUG") == "debug"


def test_defaults_are_part_of_the_help() -> None:
    """Those that set something; what has none and must be given is said too."""

    @dataclasses.dataclass
    class Config:
        lanes: int = 8
        level: str = "info"
        listen_on: str | None = None
        peers: tuple[int, ...] = dataclasses.field(default_factory=tuple)

    told = with_defaults((*SETTINGS, Setting("name", str, "its name", required=True)), Config)
    assert [one.help for one in told] == [
        "where to listen",
        "how many lanes, 100% at the most (default 8)",
        "how much is logged (default info)",
        "peers by number",
        "its name (required)",
    ]
