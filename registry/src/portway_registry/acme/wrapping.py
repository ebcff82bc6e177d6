"""The key that wraps private keys before they are stored: AES-256-GCM, with a key from a file that is not in the store.

Whoever has the store, or a copy of it, has no private key without that file. A wrapped key names what it is for, so
that one cannot be put in the place of another.
"""

import base64
import binascii
import hashlib
import hmac
import os
import stat
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from portway_runtime.secret_files import create_file

from portway_registry.errors import ConfigError, PkiError
from portway_registry.state import keys
from portway_registry.store.contract import ABSENT, Store

_KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12
# Permissions that a key file must not give: any to others, writing to its group. systemd's credentials are 0440.
_FORBIDDEN: Final = 0o027


class WrappingKey:
    """Wraps and unwraps secrets. `id` says which key it is, and nothing else about it."""

    def __init__(self, key: bytes) -> None:
        """key: 32 bytes."""
        self._cipher = AESGCM(key)
        self.id = hmac.digest(key, b"portway wrapping key id", hashlib.sha256).hex()[:16]

    def wrap(self, secret: bytes, purpose: str) -> bytes:
        """The secret, encrypted and bound to `purpose`."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, secret, purpose.encode())

    def unwrap(self, wrapped: bytes, purpose: str) -> bytes:
        """The secret. Raises PkiError for what this key has not wrapped for this purpose."""
        try:
            return self._cipher.decrypt(wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:], purpose.encode())
        except (InvalidTag, ValueError) as error:
            raise PkiError(f"the key of {purpose} was not wrapped for it with --acme-key-file") from error


async def open_wrapping_key(path: Path, store: Store) -> WrappingKey:
    """The key in the file, which the first replica of a cluster makes (0600).

    Raises ConfigError for a file that cannot be used, or is not that of the cluster's other replicas; StoreUnavailable.
    """
    entry = await store.get(keys.ACME_KEY_ID)
    if entry is None:
        _make(path)
    key = _read(path)
    if entry is None and not await store.put(keys.ACME_KEY_ID, key.id.encode(), expected=ABSENT):
        entry = await store.get(keys.ACME_KEY_ID)
    if entry is not None and entry.value.decode() != key.id:
        raise ConfigError(
            f"--acme-key-file {path} is not the file of this cluster's other replicas (its id is {key.id}, and theirs "
            f"{entry.value.decode(errors='replace')}): copy theirs"
        )
    return key


def _make(path: Path) -> None:
    """Make the file unless it is there. Another replica on this machine may do so at the same time: there is one file
    then."""
    try:
        create_file(path, base64.b64encode(os.urandom(_KEY_BYTES)) + b"\n")
    except OSError as error:
        raise ConfigError(f"--acme-key-file {path} cannot be made: {error.strerror}") from error


def _read(path: Path) -> WrappingKey:
    try:
        text, mode = path.read_bytes(), stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError as error:
        raise ConfigError(
            f"--acme-key-file {path} is missing, and the store has keys that were wrapped with it: copy the file of "
            f"another registry, or of a back-up. If it is lost, delete {keys.ACME_KEY_ID} from the store, and all "
            f"below {keys.CERTIFICATES} and {keys.ACME_ACCOUNTS}: certificates are then obtained anew"
        ) from error
    except OSError as error:
        raise ConfigError(f"--acme-key-file {path} cannot be read: {error.strerror}") from error
    if mode & _FORBIDDEN:
        raise ConfigError(f"--acme-key-file {path} can be read by others, or written (mode {mode:o}): `chmod 600` it")
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except binascii.Error:
        key = b""
    if len(key) != _KEY_BYTES:
        raise ConfigError(f"--acme-key-file {path} is no key file: it holds {_KEY_BYTES} bytes in base64")
    return WrappingKey(key)
