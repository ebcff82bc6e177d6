"""`portway-admin pki`: certificates as files, without any registry."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

Call = Callable[..., Result]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "pki"


def init(admin: Call, folder: Path, *more: str, json_in_front: bool = False) -> Result:
    front = ["--json"] if json_in_front else []
    return admin(*front, "pki", "init", "--dir", str(folder), "--domain", "tunnels.example", *more)


def test_a_cluster_s_certificates_are_made_at_once(admin: Call, folder: Path) -> None:
    """The CA, the registry's, and one for each node and region; each file is told."""
    result = init(
        admin, folder, "--region", "fra", "--region", "lon", "--node", "fra-1", "--registry-host", "r.example"
    )
    assert result.exit_code == 0
    stems = ("ca", "registry", "node-fra-1", "region-fra", "region-lon")
    names = {f"{stem}.{kind}" for stem in stems for kind in ("crt", "key")}
    assert {path.name for path in folder.iterdir()} == names
    assert {Path(line.removeprefix("wrote ")).name for line in result.stdout.splitlines()} == names


def test_programs_are_told_the_same(admin: Call, folder: Path) -> None:
    """One object with the files that were written."""
    written = json.loads(init(admin, folder, json_in_front=True).stdout)["written"]
    assert written == [str(folder / name) for name in ("ca.crt", "ca.key", "registry.crt", "registry.key")]


def test_nodes_and_regions_are_added_later(admin: Call, folder: Path) -> None:
    """To the folder of the first, as often as needed, each once."""
    init(admin, folder)
    assert admin("pki", "node", "--dir", str(folder), "lon-1").exit_code == 0
    assert admin("pki", "region", "--dir", str(folder), "--domain", "tunnels.example", "lon").exit_code == 0
    assert (folder / "node-lon-1.key").exists()
    assert (folder / "region-lon.crt").exists()
    again = admin("pki", "node", "--dir", str(folder), "lon-1")
    assert again.exit_code == 1
    assert "never overwritten" in again.stderr


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--region", "Fra"), "not a region name"),
        (("--node", "a", "--node", "a"), "twice"),
        (("--registry-host", "a b"), "a b"),
    ],
)
def test_a_wrong_name_leaves_nothing_behind(admin: Call, folder: Path, more: tuple[str, ...], says: str) -> None:
    """Names are looked at before the first file is written."""
    result = init(admin, folder, *more)
    assert result.exit_code == 1
    assert says in result.stderr
    assert not folder.exists()


def test_a_second_authority_is_refused(admin: Call, folder: Path) -> None:
    """Everything would have to be trusted anew."""
    init(admin, folder)
    before = (folder / "ca.crt").read_bytes()
    result = init(admin, folder)
    assert (result.exit_code, result.stdout) == (1, "")
    assert (folder / "ca.crt").read_bytes() == before


def test_what_is_needed_is_asked_for(admin: Call, folder: Path) -> None:
    """Without a folder or a domain it is a usage error."""
    assert admin("pki", "init", "--domain", "tunnels.example").exit_code == 2
    assert admin("pki", "init", "--dir", str(folder)).exit_code == 2
