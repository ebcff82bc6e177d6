"""Every distribution, built as sdist and wheel and installed alone in an empty environment."""

import email
import email.message
import json
import os
import subprocess
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from portway_lab.checkout import ROOT
from portway_lab.release import distributions, tools
from portway_lab.release.environments import Environments, demand_alone
from portway_lab.release.errors import ReleaseFailed
from portway_lab.release.source import Source, all_needed, copy, published

_PUBLISHED = {one.name: one for one in published(ROOT)}
# Installing fetches third parties.
pytestmark = pytest.mark.timeout(300)

Install = Callable[[str], Path]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return copy(ROOT, tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def archives(source: Source, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The sdists and wheels of every published distribution."""
    return distributions.build(source, tmp_path_factory.mktemp("archives"))


@pytest.fixture(scope="module")
def wheels(archives: list[Path]) -> dict[str, Path]:
    """Distribution → its wheel."""
    found = {path.name.partition("-")[0]: path for path in archives if path.suffix == ".whl"}
    return {name: found[one.package] for name, one in _PUBLISHED.items()}


@pytest.fixture(scope="module")
def environments(source: Source, archives: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Environments:
    return Environments(source, archives[0].parent, tmp_path_factory.mktemp("environments"))


@pytest.fixture(scope="module")
def install(environments: Environments) -> Install:
    """Makes an environment that holds one distribution and what it needs, third parties as uv.lock has them."""
    return environments.installed


def _run(environment: Path, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program of an environment, away from the sources."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PORTWAY_"))}
    return subprocess.run(
        [environment / "bin" / program, *arguments],
        capture_output=True,
        text=True,
        cwd=environment,
        env=clean,
        check=False,
    )


def _metadata(wheel: Path) -> email.message.Message:
    with zipfile.ZipFile(wheel) as archive:
        path = next(path for path in archive.namelist() if path.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(archive.read(path))


def _contents(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_every_distribution_is_published_or_private() -> None:
    """What only a checkout needs is not."""
    assert {"portway", "portway-relay", "portway-registry", "portway-server"} <= _PUBLISHED.keys()
    assert not {"portway-lab", "portway-testkit"} & _PUBLISHED.keys()


def test_two_builds_give_the_same_bytes(archives: list[Path], tmp_path: Path) -> None:
    """In another folder, with other times of files and another umask; and so do wheels that are built from sdists."""
    before = os.umask(0o077)
    try:
        again = copy(ROOT, tmp_path / "again")
        for path in again.root.rglob("*"):
            os.utime(path, (0, 0))
        distributions.demand_same(archives, distributions.build(again, tmp_path / "second"))
    finally:
        os.umask(before)
    sdists = [path for path in archives if path.suffix == ".gz"]
    assert len(sdists) == len(_PUBLISHED)
    from_sdists = distributions.build_from_sdists(again, sdists, tmp_path / "unpacked", tmp_path / "third")
    assert len(from_sdists) == len(_PUBLISHED)
    distributions.demand_same(archives, from_sdists)


def test_builds_that_differ_are_no_release(source: Source, archives: list[Path], tmp_path: Path) -> None:
    """A second later is another archive."""
    later = distributions.build(replace(source, epoch=source.epoch + 2), tmp_path)
    with pytest.raises(ReleaseFailed, match=r"differ: portway-"):
        distributions.demand_same(archives, later)


def test_archives_hold_their_files_and_no_others(source: Source, archives: list[Path]) -> None:
    """All of their folder, the licence, and what a build backend writes."""
    distributions.demand_whole(source, archives)
    for path in archives:
        held = _contents(path) if path.suffix == ".whl" else set(tools.run(["tar", "-tf", path]).splitlines())
        assert {Path(name).name for name in held} >= {"LICENSE", "NOTICE"}
        assert not any("__pycache__" in name or "test" in Path(name).parts for name in held)


def test_an_archive_with_a_strange_file_is_no_release(tmp_path: Path) -> None:
    """A file that came beside the sources after the copy was made."""
    source = copy(ROOT, tmp_path / "source")
    archives = distributions.build(source, tmp_path / "archives")
    (source.root / "client" / "src" / "portway" / "more.py").touch()
    with pytest.raises(ReleaseFailed, match=r"portway-0.* lacks \['(src/)?portway/more.py'\]"):
        distributions.demand_whole(source, archives)


def test_an_index_takes_the_archives(archives: list[Path], tmp_path: Path) -> None:
    """As twine sees it, and it does look."""
    distributions.demand_acceptable(archives)
    broken = tmp_path / archives[0].name
    broken.write_bytes(archives[0].read_bytes()[:1000])
    with pytest.raises(ReleaseFailed, match="twine"):
        distributions.demand_acceptable([broken])


@pytest.mark.parametrize("name", sorted(_PUBLISHED))
def test_a_distribution_needs_the_others_in_its_own_version(source: Source, wheels: dict[str, Path], name: str) -> None:
    """Whoever upgrades one gets the others; they are released together."""
    ours = [one for one in _metadata(wheels[name]).get_all("Requires-Dist", []) if one.startswith("portway")]
    assert len(ours) >= len(_PUBLISHED[name].needs)
    assert all(one.partition(";")[0].strip().endswith(f"=={source.version}") for one in ours)


@pytest.mark.parametrize("name", sorted(_PUBLISHED))
def test_alone_it_imports_and_its_programs_run(source: Source, environments: Environments, name: str) -> None:
    """Nothing a distribution imports or runs is missing from what it declares."""
    demand_alone(environments, _PUBLISHED[name], source.version)


@pytest.mark.parametrize("name", sorted(_PUBLISHED))
def test_every_module_of_it_imports(environments: Environments, name: str) -> None:
    """A module that only some command reaches needs no undeclared package either."""
    walk = (
        "import importlib, pkgutil, sys\n"
        f"import {_PUBLISHED[name].package} as top\n"
        "for module in pkgutil.walk_packages(top.__path__, top.__name__ + '.'):\n"
        "    if not module.name.endswith('__main__'):\n"
        "        importlib.import_module(module.name)\n"
    )
    # The lane protocol needs cryptography for statements alone, the stubs grpcio; servers alone need the rest.
    extras = {"portway-proto": ["grpcio"], "portway-runtime": ["aiohttp", "cryptography"], "portway-geo": ["maxminddb"]}
    environments.add(name, *extras.get(name, []))
    done = _run(environments.installed(name), "python", "-c", walk)
    assert done.returncode == 0, done.stderr


def test_the_client_brings_little_along(install: Install) -> None:
    """An image that installs the client gets the protocol, grpcio, protobuf, cryptography and nothing of the
    servers."""
    listed = json.loads(tools.run([tools.uv(), "pip", "list", "--format", "json", "--python", install("portway")]))
    names = {package["name"] for package in listed}
    ours = {"portway", "portway-proto", "portway-carrier", "portway-runtime"}
    assert ours | {"grpcio", "protobuf", "cryptography"} <= names
    assert names <= ours | {"grpcio", "protobuf", "typing-extensions", "cryptography", "cffi", "pycparser"}


def test_the_client_imports_nothing_heavy(install: Install) -> None:
    """`import portway` costs a program that never forwards next to nothing."""
    heavy = ("grpc", "google.protobuf", "asyncio", "ssl", "uvloop", "cryptography")
    code = f"import sys, portway; print(*[name for name in {heavy!r} if name in sys.modules])"
    done = _run(install("portway"), "python", "-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_the_lane_protocol_needs_the_standard_library_alone(install: Install) -> None:
    """A carrier can be written on portway_proto.wire without grpc and protobuf."""
    code = (
        "import sys, portway_proto.wire.lane, portway_proto.wire.frames, portway_proto.wire.labels\n"
        "print(*[name for name in ('grpc', 'google.protobuf', 'asyncio', 'socket') if name in sys.modules])"
    )
    done = _run(install("portway-proto"), "python", "-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_a_carrier_brings_no_grpc(wheels: dict[str, Path]) -> None:
    """Moving bytes takes the lane protocol and the runtime; gRPC comes with the programs that call a registry."""
    needed = [
        requirement
        for one in all_needed([*_PUBLISHED.values()], "portway-carrier")
        for requirement in _metadata(wheels[one.name]).get_all("Requires-Dist", [])
        if "extra ==" not in requirement
    ]
    assert [one for one in needed if one.startswith("grpc")] == []


@pytest.mark.parametrize("name", sorted(_PUBLISHED))
def test_a_wheel_says_that_it_is_typed(wheels: dict[str, Path], name: str) -> None:
    """Type checkers take a distribution's annotations."""
    assert f"{_PUBLISHED[name].package}/py.typed" in _contents(wheels[name])


def test_the_stubs_and_the_location_table_are_packed(wheels: dict[str, Path]) -> None:
    """What is data or generated reaches the installed package."""
    stubs = {f"portway_proto/v1/{name}_pb2.pyi" for name in ("admin", "discovery", "lane", "mesh", "types")}
    assert stubs <= _contents(wheels["portway-proto"])
    assert any(path.endswith(".xz") for path in _contents(wheels["portway-geo"]))


def test_no_extra_promises_what_is_not_there(wheels: dict[str, Path]) -> None:
    """The native carrier is offered once it exists."""
    for wheel in wheels.values():
        assert "native" not in _metadata(wheel).get_all("Provides-Extra", [])
