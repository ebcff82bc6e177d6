"""Where a node looks for a registry."""

import logging
from pathlib import Path

import pytest
from portway_relay.registry_link.registries import Registries
from portway_runtime.endpoints import Endpoint

ONE, TWO, THREE = (Endpoint("192.0.2.1", 7401), Endpoint("192.0.2.2", 7401), Endpoint("2001:db8::3", 7401))


def tried(registries: Registries, number: int) -> list[Endpoint]:
    """Those that are tried one after the other."""
    found = []
    for _ in range(number):
        found.append(registries.current)
        registries.turn()
    return found


def test_the_one_in_use_stays_so_when_a_list_comes() -> None:
    """A lost one is tried again after the others."""
    registries = Registries([ONE, TWO], None)
    registries.turn()
    registries.learn([str(THREE), str(TWO)])
    assert tried(registries, 4) == [TWO, THREE, ONE, TWO]


def test_after_a_restart_those_come_first_that_settings_and_registries_name(tmp_path: Path) -> None:
    """Then those that live by what was said last; one that only the settings name may be gone, or may be new."""
    file = tmp_path / "registries"
    file.write_text(f"{THREE}\n{TWO}\n")
    assert tried(Registries([ONE, TWO], file), 4) == [TWO, THREE, ONE, TWO]
    own = Endpoint("127.0.0.1", 7401)
    assert tried(Registries([ONE, own], file), 4) == [own, THREE, TWO, ONE]


def test_a_registry_that_has_left_is_tried_no_more(tmp_path: Path) -> None:
    """Unless the settings name it, or it is in use."""
    registries = Registries([ONE], tmp_path / "registries")
    registries.learn([str(TWO), str(THREE)])
    registries.turn()
    registries.learn([str(THREE)])
    assert tried(registries, 3) == [TWO, THREE, ONE]
    registries = Registries([ONE], tmp_path / "registries")
    assert tried(registries, 3) == [THREE, ONE, THREE]


def test_what_was_learned_is_there_after_a_restart(tmp_path: Path) -> None:
    """In a file that its owner can read. An empty list, of a registry that does not say, takes nothing away."""
    file = tmp_path / "registries"
    registries = Registries([ONE], file)
    registries.learn([str(TWO), str(THREE)])
    registries.learn([])
    assert file.read_text().split() == [str(TWO), str(THREE)]
    assert file.stat().st_mode & 0o077 == 0
    assert tried(Registries([ONE], file), 3) == [TWO, THREE, ONE]


@pytest.mark.parametrize("text", ["", "no address\n\0\n", "192.0.2.9\n"])
def test_a_file_that_says_nothing_is_passed_over(tmp_path: Path, text: str) -> None:
    """The settings are enough to start."""
    file = tmp_path / "registries"
    file.write_text(text)
    assert tried(Registries([ONE], file), 2) == [ONE, ONE]


def test_no_more_are_kept_than_a_registry_names(caplog: pytest.LogCaptureFixture) -> None:
    """And what is no address is passed over, with a line in the log."""
    registries = Registries([ONE], None)
    with caplog.at_level(logging.WARNING):
        registries.learn(["nowhere", *(f"192.0.2.7:{port}" for port in range(1, 200))])
    assert len(set(tried(registries, 200))) == 65
    assert "a registry's address is passed over" in caplog.text


def test_a_folder_that_cannot_be_written_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """They are known until the restart."""
    registries = Registries([ONE], tmp_path / "missing" / "registries")
    registries.learn([str(TWO)])
    assert tried(registries, 2) == [ONE, TWO]
    assert "is not kept" in caplog.text
