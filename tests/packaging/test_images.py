"""The container images, built without an image registry: a cluster of them, as somebody's user, with nothing writable.

There is no Docker here that could run them. A container is the image's files, mounted read-only, in a mount namespace
with a /tmp and the image's volume, with the user, the variables and the commands that the image names.
"""

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from portway_lab import bare_debian
from portway_lab.checkout import ROOT
from portway_lab.cluster.portway import LOOPBACK, NodePlan, RegistryPlan, start_cluster
from portway_lab.cluster.processes import Processes
from portway_lab.release import distributions, images
from portway_lab.release.images import IMAGES, Images
from portway_lab.release.source import copy
from portway_testkit.processes.running_program import RunningProgram, needed
from portway_testkit.visitors.origins import HttpOrigin

USER = 10001
# With which the images are about as large as the trees of packages in them and Python.
LARGEST = 140 * 2**20
# contain ROOT VOLUME SHARED FOLDER VARIABLES COMMAND: FOLDER is to work in, VARIABLES are words for env. The path of
# COMMAND's program, and an env before it, are of the host.
CONTAIN = f"""#!/bin/sh
set -e
root=$1 volume=$2 shared=$3 folder=$4 variables=$5
shift 5
while [ "$1" = env ] || [ "$1" = -u ] || [ "$1" = PYTHONPATH ]; do shift; done
program=${{1##*/}}
shift
mount --bind "$root" "$root"
mount -o remount,bind,ro "$root"
mount -t proc proc "$root/proc"
mount --bind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/tmp"
mkdir -p "$root$shared"
mount --bind "$shared" "$root$shared"
if [ -d "$root/var/lib/portway" ]; then mount --bind "$volume" "$root/var/lib/portway"; fi
chown -R {USER}:{USER} "$shared" "$volume"
set -f
enter=$(command -v unshare)
exec env -i $variables "$enter" --root "$root" --wd "$folder" --setgid {USER} --setuid {USER} "$program" "$@"
"""
# Images are built once; a cluster of them starts in seconds.
pytestmark = pytest.mark.timeout(600)


@dataclass(frozen=True, slots=True)
class Containers:
    images: Images
    roots: dict[str, Path]
    contain: Path
    shared: Path

    def prefix(self, image: str, name: str, **variables: str) -> tuple[str, ...]:
        """What runs a program of an image; `name` is the container's, and its volume's."""
        volume = self.shared.parent / f"volume-{name}"
        volume.mkdir(exist_ok=True)
        settings = self.images.settings(image)
        given = dict(word.split("=", 1) for word in settings["Env"]) | variables
        words = " ".join(f"{key}={value}" for key, value in given.items())
        places = (self.roots[image], volume, self.shared, settings["WorkingDir"] or "/")
        return ("unshare", "--mount", "sh", str(self.contain), *map(str, places), words)

    def run(self, image: str, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        command = [*self.prefix(image, "short", **variables), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    def health(self, image: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run the image's health check."""
        kind, *command = self.images.settings(image)["Healthcheck"]["Test"]
        assert kind == "CMD"
        return self.run(image, *command, **variables)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Images]:
    for name in ("buildah", "debootstrap"):
        needed(name)
    if os.geteuid() != 0:
        pytest.skip("needs root, to make a bare Debian")
    bare_debian.base()
    folder = tmp_path_factory.mktemp("images")
    source = copy(ROOT, folder / "source")
    distributions.build(source, folder / "wheels")
    made = images.build(source, folder / "wheels", folder / "built")
    yield made
    made.remove()


@pytest.fixture(scope="module")
def containers(built: Images) -> Iterator[Containers]:
    # In /tmp, where containers have a file system of their own.
    with tempfile.TemporaryDirectory(prefix="pw-", dir="/tmp") as folder:
        shared = Path(folder) / "shared"
        shared.mkdir()
        Path(folder).chmod(0o755)
        contain = Path(folder) / "contain"
        contain.write_text(CONTAIN)
        yield Containers(built, {image: built.mounted(image) for image in IMAGES}, contain, shared)


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_is_small_and_nobody_s(built: Images, image: str) -> None:
    """A number as user, by which an orchestrator sees that it is not root; files for the volume alone are its own."""
    settings = built.settings(image)
    assert settings["User"] == f"{USER}:{USER}"
    assert settings["Entrypoint"] == [f"portway-{image}" if image != "client" else "portway"]
    described: list[dict[str, Any]] = json.loads(built.buildah("images", "--json"))
    (size,) = [one["size"] for one in described if built.name(image) in (one["names"] or ())]
    number, unit = size.split()
    assert unit == "MB", size
    assert float(number) * 1e6 < LARGEST


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_has_python_and_no_shell(containers: Containers, image: str) -> None:
    """Nor a package manager, nor a program that changes user; every library that Python's modules need is there."""
    root = containers.roots[image]
    held = {path.name for path in (root / "usr" / "bin").iterdir()}
    assert held == {"python3", *(name for name in held if name.startswith("python3."))}
    assert not [path for path in root.rglob("*") if not path.is_symlink() and path.stat().st_mode & 0o6000]
    modules = (
        "import sys, importlib\n"
        "for name in sorted(sys.stdlib_module_names - set(sys.argv[1:])):\n"
        "    try:\n"
        "        importlib.import_module(name)\n"
        "    except ModuleNotFoundError:\n"
        "        print(name)\n"
    )
    # They print, open a browser, or are of other systems.
    done = containers.run(image, "python3", "-c", modules, "this", "antigravity")
    assert done.returncode == 0, done.stderr
    assert {"ssl", "sqlite3", "ctypes", "lzma", "readline"}.isdisjoint(done.stdout.split())


def test_a_cluster_of_containers_serves_a_visit(containers: Containers) -> None:
    """Registry, node and client, each read-only but for its volume; their health checks tell well from unwell."""
    with HttpOrigin() as origin, Processes(containers.shared) as processes:
        registry = RegistryPlan(
            prefix=containers.prefix("registry", "registry", PORTWAY_REGISTRY_METRICS_LISTEN=f"{LOOPBACK}:0")
        )
        node = NodePlan("fra-1", "fra", 50.1, 8.7, prefix=containers.prefix("relay", "relay"))
        cluster = start_cluster(processes, (node,), registry)

        pages = processes.wait_ready(cluster.registry_process)["metrics_listen"]
        assert containers.health("registry", PORTWAY_REGISTRY_METRICS_LISTEN=pages).returncode == 0
        pages = processes.wait_ready(cluster.nodes[0].process)["admin_listen"]
        well = containers.health("relay", PORTWAY_RELAY_ADMIN_LISTEN=pages)
        assert (well.returncode, well.stdout) == (0, "ready\n")

        command = [*containers.prefix("client", "client", **cluster.exports), "portway", "forward", str(origin.port)]
        with RunningProgram(command, os.environ, containers.shared / "client.log") as client:
            url = client.line()
            # It resolves every name below localhost to loopback.
            visit = [needed("curl"), "-sSf", "--noproxy", "*", "--cacert", str(cluster.ca), "--max-time", "30", url]
            visited = subprocess.run(visit, capture_output=True, text=True, check=False)
            assert visited.returncode == 0, visited.stderr
            assert client.stop() == 0

        process = cluster.nodes[0].process.popen
        process.terminate()
        assert process.wait(30) == 0
        assert containers.health("relay", PORTWAY_RELAY_ADMIN_LISTEN=pages).returncode != 0
