"""Every distribution, built as a wheel and installed alone in an empty environment."""

import email
import email.message
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[2]
_PROGRAMS = {
    "portway": ["portway"],
    "portway-relay": ["portway-relay"],
    "portway-registry": ["portway-registry", "portway-admin"],
    "portway-server": ["portway-server"],
    "portway-proto": [],
    "portway-runtime": [],
    "portway-carrier": [],
    "portway-geo": [],
}
_IMPORTS = {name: name.replace("-", "_") for name in _PROGRAMS}
# Building fetches a build backend, installing fetches third parties.
pytestmark = pytest.mark.timeout(300)

Install = Callable[[str], Path]


def _uv(*arguments: str | Path, cwd: Path = _ROOT) -> str:
    program = shutil.which("uv") or next(iter(map(str, _ROOT.glob(".tools/uv-*/bin/uv"))), None)
    assert program is not None, "scripts/setup puts uv into .tools"
    clean = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
    done = subprocess.run(
        [program, *map(str, arguments)], capture_output=True, text=True, cwd=cwd, env=clean, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Distribution → its wheel."""
    folder = tmp_path_factory.mktemp("wheels")
    for name in _PROGRAMS:
        _uv("build", "--quiet", "--python", sys.executable, "--wheel", "--package", name, "--out-dir", folder)
    return {name: next(folder.glob(f"{_IMPORTS[name]}-*.whl")) for name in _PROGRAMS}


@pytest.fixture(scope="module")
def install(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Install:
    """Makes an environment that holds one distribution and what it needs, third parties as uv.lock has them."""
    folder = tmp_path_factory.mktemp("environments")
    constraints = folder / "constraints.txt"
    _uv("export", "--frozen", "--no-hashes", "--no-emit-workspace", "--quiet", "--output-file", constraints)

    @cache
    def installed(name: str) -> Path:
        environment = folder / name
        _uv("venv", "--quiet", "--python", sys.executable, environment)
        ours = {wheels[one] for one in _ours(wheels, name)}
        _uv("pip", "install", "--quiet", "--python", environment, "--constraint", constraints, *ours, cwd=folder)
        return environment

    return installed


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


def _ours(wheels: dict[str, Path], name: str) -> set[str]:
    """A distribution and those of this repository that it needs, however indirectly."""
    needed = re.findall(
        r"^portway[a-z-]*", "\n".join(_metadata(wheels[name]).get_all("Requires-Dist", [])), re.MULTILINE
    )
    return {name}.union(*(_ours(wheels, one) for one in needed))


def _metadata(wheel: Path) -> email.message.Message:
    with zipfile.ZipFile(wheel) as archive:
        path = next(path for path in archive.namelist() if path.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(archive.read(path))


def _contents(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.mark.parametrize("name", sorted(_PROGRAMS))
def test_alone_it_imports_and_its_programs_run(install: Install, name: str) -> None:
    """Nothing a distribution imports or runs is missing from what it declares."""
    environment = install(name)
    imported = _run(environment, "python", "-c", f"import {_IMPORTS[name]}")
    assert imported.returncode == 0, imported.stderr
    for program in _PROGRAMS[name]:
        helped = _run(environment, program, "--help")
        assert helped.returncode == 0, helped.stderr
        assert "usage" in helped.stdout.lower()
        versioned = _run(environment, program, "--version")
        assert versioned.returncode == 0, versioned.stderr
        assert "0.1.0" in versioned.stdout


@pytest.mark.parametrize("name", sorted(_PROGRAMS))
def test_every_module_of_it_imports(install: Install, name: str) -> None:
    """A module that only some command reaches needs no undeclared package either."""
    walk = (
        "import importlib, pkgutil, sys\n"
        f"import {_IMPORTS[name]} as top\n"
        "for module in pkgutil.walk_packages(top.__path__, top.__name__ + '.'):\n"
        "    if not module.name.endswith('__main__'):\n"
        "        importlib.import_module(module.name)\n"
    )
    # The lane protocol needs cryptography for statements alone, the stubs grpcio; servers alone need the rest.
    extras = {"portway-proto": ["grpcio"], "portway-runtime": ["aiohttp", "cryptography"], "portway-geo": ["maxminddb"]}
    environment = install(name)
    if name in extras:
        _uv("pip", "install", "--quiet", "--python", environment, *extras[name], cwd=environment)
    done = _run(environment, "python", "-c", walk)
    assert done.returncode == 0, done.stderr


def test_the_client_brings_little_along(install: Install) -> None:
    """An image that installs the client gets the protocol, grpcio, protobuf, cryptography and nothing of the
    servers."""
    listed = json.loads(_uv("pip", "list", "--format", "json", "--python", install("portway")))
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


def test_the_lane_protocol_needs_the_standard_library_alone(wheels: dict[str, Path], install: Install) -> None:
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
        for name in _ours(wheels, "portway-carrier")
        for requirement in _metadata(wheels[name]).get_all("Requires-Dist", [])
        if "extra ==" not in requirement
    ]
    assert [one for one in needed if one.startswith("grpc")] == []


@pytest.mark.parametrize("name", sorted(_PROGRAMS))
def test_a_wheel_says_that_it_is_typed(wheels: dict[str, Path], name: str) -> None:
    """Type checkers take a distribution's annotations."""
    assert f"{_IMPORTS[name]}/py.typed" in _contents(wheels[name])


def test_the_stubs_and_the_location_table_are_packed(wheels: dict[str, Path]) -> None:
    """What is data or generated reaches the installed package."""
    stubs = {f"portway_proto/v1/{name}_pb2.pyi" for name in ("admin", "discovery", "lane", "mesh", "types")}
    assert stubs <= _contents(wheels["portway-proto"])
    assert any(path.endswith(".xz") for path in _contents(wheels["portway-geo"]))


def test_no_extra_promises_what_is_not_there(wheels: dict[str, Path]) -> None:
    """The native carrier is offered once it exists."""
    for wheel in wheels.values():
        assert "native" not in _metadata(wheel).get_all("Provides-Extra", [])
