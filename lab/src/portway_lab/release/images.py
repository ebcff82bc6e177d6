"""Container images of the relay node, the registry and the client, built by buildah without an image registry.

Their base is a bare Debian of this machine's release, put into buildah's storage under a local name. Here: the build
context, the images, the archives. Not here: what is in them (deploy/docker).
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from portway_lab import bare_debian
from portway_lab.release import tools, tree
from portway_lab.release.source import Source

# Image → the distributions in it.
IMAGES: Final = {
    "relay": ("portway-relay",),
    "registry": ("portway-registry",),
    "client": ("portway",),
}
_BASE: Final = "localhost/portway-debian:base"
_CONTEXT: Final = ("Dockerfile", "collect_system", "healthy.py")


@dataclass(frozen=True, slots=True)
class Images:
    """Images in a storage of their own below a folder."""

    folder: Path
    version: str

    def name(self, image: str) -> str:
        """Its name in the storage, and where an archive of it is loaded."""
        return f"localhost/portway-{image}:{self.version}"

    def buildah(self, *words: object) -> str:
        """Run buildah on this storage; see tools.run."""
        storage = ["--root", self.folder / "storage", "--runroot", self.folder / "run"]
        return tools.run([tools.program("buildah", "buildah"), *storage, *words])

    def mounted(self, image: str) -> Path:
        """Where the files of a new container of an image are, until `remove`."""
        container = self.buildah("from", "--pull=never", self.name(image)).strip()
        return Path(self.buildah("mount", container).strip())

    def settings(self, image: str) -> dict[str, Any]:
        """How an image is run, as Docker has it: Entrypoint, Cmd, Env, User, Volumes, Healthcheck."""
        settings: dict[str, Any] = json.loads(self.buildah("inspect", "--type", "image", self.name(image)))
        return dict(settings["Docker"]["config"])

    def archive(self, image: str, out: Path, architecture: str) -> Path:
        """Write an image to a file that `docker load` and `podman load` read."""
        file = out / f"portway-{image}_{self.version}_{architecture}.image.tar"
        file.unlink(missing_ok=True)
        self.buildah("push", "--quiet", self.name(image), f"docker-archive:{file}:portway-{image}:{self.version}")
        return file

    def remove(self) -> None:
        """Remove all that was stored."""
        self.buildah("umount", "--all")
        self.buildah("rm", "--all")
        self.buildah("rmi", "--all", "--force")
        shutil.rmtree(self.folder / "storage")


def build(source: Source, wheels: Path, folder: Path) -> Images:
    """Build all images in a new storage below `folder`. Needs root."""
    images = Images(folder, source.version)
    context = folder / "context"
    context.mkdir(parents=True)
    for name in _CONTEXT:
        shutil.copy(source.root / "deploy" / "docker" / name, context)
    for name, packages in IMAGES.items():
        tree.build(source, wheels, context / "trees" / name, packages)
    _store_base(images)
    # Docker's form: the other has no health checks. Times are the commit's, so that layers are the same in every build.
    options = ["--format=docker", "--isolation=chroot", "--layers", f"--timestamp={source.epoch}"]
    options += ["--pull=never", f"--build-arg=BASE={_BASE}"]
    for name in IMAGES:
        images.buildah("build", "--quiet", *options, f"--target={name}", f"--tag={images.name(name)}", context)
    return images


def _store_base(images: Images) -> None:
    container = images.buildah("from", "scratch").strip()
    mounted = images.buildah("mount", container).strip()
    tools.run(["cp", "--archive", f"{bare_debian.base()}/.", mounted])
    images.buildah("commit", "--quiet", "--rm", container, _BASE)
