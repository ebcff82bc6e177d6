"""Bare Debians on this machine: what a package or an image is tried in.

Here: a base made by debootstrap, of the release of Debian that this machine has, and machines that are layers over it.
Programs run in them without network and see none of the host's processes: without an init, or as a service of systemd.
Needs root.
"""

import fcntl
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from platform import freedesktop_os_release
from typing import Final

from portway_lab.checkout import ROOT

# What a server's Debian has at least. systemd is there for its tools.
_INCLUDED: Final = ("python3", "ca-certificates", "systemd")
_KEPT: Final = ROOT / ".tools"
# Mounts are made in a namespace of the command's own, so that nothing is left of them when it has ended.
_ENTER: Final = """
set -e
mount -t overlay overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" "$2/root"
mount -t proc proc "$2/root/proc"
mount -t tmpfs tmpfs "$2/root/tmp"
mount -t tmpfs tmpfs "$2/root/run"
machine=$2/root
shift 2
exec chroot "$machine" "$@"
"""
_BOOT: Final = """
set -e
mount -t overlay overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" "$2/root"
exec systemd-nspawn --quiet --boot --register=no --keep-unit --private-network --console=pipe --directory="$2/root"
"""
# Runs a script once the machine has booted, and switches the machine off.
_TRIAL: Final = """
[Unit]
Description=Trial
After=basic.target
SuccessAction=poweroff-force
FailureAction=poweroff-force
[Service]
Type=oneshot
Environment=HOME=/root LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive
ExecStart=/bin/sh -eux /root/trial
StandardOutput=file:/root/printed
StandardError=file:/root/printed
"""
_BOOTS_WITHIN: Final = 240.0  # seconds, on a busy machine; the script's time is in it


def base() -> Path:
    """The base, made at the first call and kept for later ones. Takes most of a minute, and 350 MB.

    Raises subprocess.CalledProcessError with what debootstrap printed.
    """
    codename = freedesktop_os_release()["VERSION_CODENAME"]
    made = _KEPT / f"debian-{codename}-{'-'.join(_INCLUDED)}"
    _KEPT.mkdir(exist_ok=True)
    with (_KEPT / "debian.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            unfinished = made.with_suffix(".unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            # Nothing here outlives a crash of the host: dpkg need not wait for the disk after each file.
            dpkg = unfinished / "etc" / "dpkg" / "dpkg.cfg.d"
            dpkg.mkdir(parents=True)
            (dpkg / "unsafe-io").write_text("force-unsafe-io\n")
            options = ["--variant=minbase", f"--include={','.join(_INCLUDED)}"]
            subprocess.run(
                ["debootstrap", *options, codename, unfinished],
                check=True,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
            )
            # What debootstrap fetched is installed.
            for archive in (unfinished / "var" / "cache" / "apt" / "archives").glob("*.deb"):
                archive.unlink()
            unfinished.rename(made)
    return made


@dataclass(frozen=True, slots=True)
class Machine:
    """A Debian of its own: the base, and in `folder` all that has been changed since."""

    folder: Path

    def __post_init__(self) -> None:
        for name in ("upper", "work", "root"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)

    def run(self, command: Sequence[str], *, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a program as root, with a new /tmp and /run. With `check` one that fails raises CalledProcessError."""
        namespaces = ["--mount", "--net", "--ipc", "--uts", "--pid", "--fork", "--kill-child"]
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        return subprocess.run(
            ["unshare", *namespaces, "sh", "-c", _ENTER, "sh", base(), self.folder, *command],
            check=check,
            env={"PATH": path, "HOME": "/root", "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )

    def boot(self, script: str) -> str:
        """Boot the machine under systemd, run a shell script in it that ends at the first failure, and switch it off.

        Returns what the script printed, its commands among it. Raises CalledProcessError with that if it failed.
        """
        root = self.folder / "upper" / "root"
        units = self.folder / "upper" / "etc" / "systemd" / "system"
        wanted = units / "multi-user.target.wants"
        for folder in (root, wanted):
            folder.mkdir(parents=True, exist_ok=True)
        (root / "trial").write_text(f"{script}\necho done >/root/done\n")
        (units / "trial.service").write_text(_TRIAL)
        link = wanted / "trial.service"
        link.unlink(missing_ok=True)
        link.symlink_to("/etc/systemd/system/trial.service")
        command = ["unshare", "--mount", "sh", "-c", _BOOT, "sh", str(base()), str(self.folder)]
        try:
            booted = subprocess.run(
                command, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_BOOTS_WITHIN
            )
            ended = booted.stdout + booted.stderr
        except subprocess.TimeoutExpired as late:
            ended = str(late)
        printed = (root / "printed").read_text() if (root / "printed").exists() else ""
        if not (root / "done").exists():
            raise subprocess.CalledProcessError(1, command, printed + ended)
        return printed

    def put(self, file: Path, path: str) -> None:
        """Copy a file of the host into the machine."""
        target = self.folder / "upper" / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
