"""Key files: a tunnel's key in a file, so that its label is the same whenever and wherever its program is started.

The file is PEM (PKCS#8, Ed25519), as `openssl genpkey -algorithm ed25519` makes it, and only its owner may read it:
whoever has it has the URL. `FILE.tickets` beside it keeps the tickets of the tunnel's raw TCP ports, by host. Not here:
two programs with one file (tunnel_set.py), which file a tunnel uses (forwarding.py).

Key files are read on a thread that a fork does not stop, so what takes locks of the cryptographic library is guarded;
what waits for a disk is not, for a fork would wait as long.
"""

import base64
import binascii
import errno
import json
import logging
import os
import stat
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from portway_proto.wire.statements import SigningKey
from portway_runtime.bounded import BoundedMap
from portway_runtime.errors import NoThread
from portway_runtime.os_threads import make_lock
from portway_runtime.secret_files import create_file, replace_file
from portway_runtime.threads import start_thread

from portway.errors import ConfigError
from portway.fork_guard import fork_guard

logger = logging.getLogger(__name__)

# Bytes. A key takes 119; a longer file is another one, named by mistake.
MAX_KEY_FILE: Final = 64 * 1024
# Raw ports that are kept: one for each region that the tunnel was in, the latest ones.
MAX_TICKETS: Final = 16
# Bytes. A ticket has less than 1 kB.
MAX_TICKET_FILE: Final = 64 * 1024

WRITER: Final = "portway tickets"  # a thread's name

_OTHERS: Final = stat.S_IRWXO
_GROUP_AND_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


class KeyFile:
    """The key of one tunnel, from its file, and its tickets. Only making one waits for a disk."""

    def __init__(self, path: Path, private_key: bytes | None = None) -> None:
        """Read the key and the tickets; make the key if there is no such file. Blocks. Raises ConfigError, which says
        what to do. `private_key` is what was read there before: the file may be another one, or gone, by now."""
        self.path = path
        try:
            self.key = SigningKey(private_key) if private_key is not None else _read(path) or _make(path)
        except OSError as error:
            raise ConfigError(f"the key file {path} cannot be {_what_failed(path, error)}") from None
        self._ticket_path = path.with_name(f"{path.name}.tickets")
        self._tickets: BoundedMap[str, bytes] = BoundedMap(MAX_TICKETS)  # by host
        self._tickets.update(_read_tickets(self._ticket_path))
        self._writing = make_lock()
        self._unwritten = False  # for want of a thread

    def ticket(self, host: str) -> bytes:
        """The ticket of the raw port that the tunnel had under this host name; b"" if it had none."""
        return self._tickets.get(host, b"")

    def keep_ticket(self, host: str, ticket: bytes) -> None:
        """Write a ticket beside the key, on a thread of its own, for which the program's end waits: a disk may be slow.
        Failures are logged. Without a thread it is written with the next one."""
        if self._tickets.get(host) == ticket and not self._unwritten:
            return
        self._tickets[host] = ticket
        try:
            start_thread(self._write, WRITER, daemon=False)
        except NoThread as error:
            self._unwritten = True
            logger.warning("%s is not written now: %s", self._ticket_path, error)
        else:
            self._unwritten = False

    def _write(self) -> None:
        with self._writing:  # whoever writes last writes what is the latest
            texts = {host: base64.b64encode(ticket).decode() for host, ticket in list(self._tickets.items())}
            try:
                replace_file(self._ticket_path, json.dumps(texts, indent=1).encode() + b"\n", durable=False)
            except OSError as error:
                logger.warning(
                    "%s cannot be written (%s): after a restart the tunnel has another TCP port",
                    self._ticket_path,
                    error.strerror,
                )


def _read(path: Path) -> SigningKey | None:
    """The key in the file; None if there is no such file. Raises OSError, ConfigError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a FIFO does not block
    except FileNotFoundError:
        return None
    try:
        _check(path, os.fstat(descriptor))
        pem = os.read(descriptor, MAX_KEY_FILE)
    finally:
        os.close(descriptor)
    with fork_guard:
        return SigningKey(_private_bytes(path, pem))


def _check(path: Path, status: os.stat_result) -> None:
    """Who else may read it, as ssh asks of its keys: of files of another user, only that not everybody may."""
    if stat.S_ISDIR(status.st_mode):
        raise ConfigError(f"the key file {path} is a folder: name a file in it, such as {path / 'tunnel.key'}")
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"the key file {path} is not a file: name another one")
    closed_to = _GROUP_AND_OTHERS if status.st_uid == os.geteuid() else _OTHERS
    if status.st_mode & closed_to:
        raise ConfigError(
            f"the key file {path} is open to others (mode {stat.S_IMODE(status.st_mode):04o}), and whoever has it has "
            f"the URL: chmod 600 {path}"
        )


def _private_bytes(path: Path, pem: bytes) -> bytes:
    """The 32 bytes of the key. Raises ConfigError."""
    if not pem.strip():
        raise ConfigError(f"the key file {path} is empty: remove it, and the next start makes a key")
    try:
        key = load_pem_private_key(pem, None)
    except TypeError:
        raise ConfigError(f"the key in {path} is protected by a passphrase: name a file without one") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError(
            f"{path} holds no private key in PEM: name another file; one that does not exist yet is made"
        ) from None
    if not isinstance(key, Ed25519PrivateKey):
        kind = type(key).__name__.strip("_").removesuffix("PrivateKey")
        raise ConfigError(
            f"{path} holds a key of another kind ({kind}), not Ed25519: name another file; one that does not exist yet "
            "is made"
        )
    return key.private_bytes_raw()


def _make(path: Path) -> SigningKey:
    """Make the key and its folders. Raises OSError, ConfigError."""
    with fork_guard:
        key = SigningKey()
        private = Ed25519PrivateKey.from_private_bytes(key.private)
        pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    _make_folder(path.parent)
    if create_file(path, pem):
        logger.info("made the key file %s: keep it secret, whoever has it has the tunnel's URL", path)
        return key
    made_meanwhile = _read(path)  # by another program that was started at the same moment
    if made_meanwhile is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    return made_meanwhile


def _make_folder(folder: Path) -> None:
    """Only its owner may look into a folder that is made here."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)


def _what_failed(path: Path, error: OSError) -> str:
    """What the system refused, and what to do."""
    what = "read" if os.path.exists(path) else "made"  # noqa: PTH110 - Path.exists may itself be refused
    advice = {
        errno.EACCES: f"{path if what == 'read' else path.parent} must be this user's own",
        errno.EROFS: "the folder is read-only: name a file in another one, or make the key elsewhere and copy it",
        errno.ENOTDIR: "a part of its path is not a folder",
        errno.EEXIST: "a part of its path is not a folder",
    }.get(error.errno or 0, "name another file")
    return f"{what} ({error.strerror}): {advice}"


def _read_tickets(path: Path) -> dict[str, bytes]:
    """Empty if they cannot be read: tickets are of use, not needed."""
    try:
        with open(path, "rb") as file:
            texts = json.loads(file.read(MAX_TICKET_FILE))
        if not isinstance(texts, dict):
            raise ValueError("it holds no object")
        return {str(host): base64.b64decode(text, validate=True) for host, text in texts.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, binascii.Error) as error:
        logger.warning("%s cannot be read (%s): the tunnel may get another TCP port", path, error)
        return {}
