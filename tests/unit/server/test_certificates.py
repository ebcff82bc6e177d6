"""Certificates from elsewhere, and what each of them is for."""

from pathlib import Path

import pytest
import trustme
from portway_server.certificates import demand_region, of_registry, of_relay
from portway_server.errors import SetupRefused

ZONE = "fra.tun.example.com"


def pair(folder: Path, *names: str) -> tuple[Path, Path]:
    leaf = trustme.CA().issue_cert(*names)
    cert, key = folder / f"{names[0].strip('*.')}.crt", folder / f"{names[0].strip('*.')}.key"
    leaf.cert_chain_pems[0].write_to_path(str(cert))
    leaf.private_key_pem.write_to_path(str(key))
    return cert, key


def test_each_program_gets_those_that_it_needs(tmp_path: Path) -> None:
    """The registry that for its name, the node those of regions: it cannot read the registry's key then."""
    own, region = pair(tmp_path, "tun.example.com"), pair(tmp_path, f"*.{ZONE}", ZONE)
    assert of_registry([region, own], "tun.example.com") == own
    assert of_relay([region, own], "tun.example.com") == [region]
    demand_region([region, own], ZONE)


def test_one_certificate_may_be_for_all(tmp_path: Path) -> None:
    both = pair(tmp_path, "tun.example.com", f"*.{ZONE}")
    assert of_registry([both], "tun.example.com") == both
    assert of_relay([both], "tun.example.com") == [both]


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    own = pair(tmp_path, "tun.example.com")
    with pytest.raises(SetupRefused, match=r"\*\.fra\.tun\.example\.com"):
        demand_region([own], ZONE)
    with pytest.raises(SetupRefused, match="by which clients reach the registry"):
        of_registry([pair(tmp_path, f"*.{ZONE}")], "tun.example.com")


def test_files_that_are_no_certificates_are_named(tmp_path: Path) -> None:
    file = tmp_path / "not.crt"
    with pytest.raises(SetupRefused, match="cannot be read"):
        demand_region([(file, file)], ZONE)
    file.write_text("nothing")
    with pytest.raises(SetupRefused, match="no certificate"):
        demand_region([(file, file)], ZONE)
