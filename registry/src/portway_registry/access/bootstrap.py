"""What the first start of a cluster creates, once, however many replicas start at the same time.

Here: the cluster's id, its first grant key, its first admin token; each by one compare-and-swap. Not here: the rest of
a start.
"""

import logging
import secrets
from pathlib import Path
from typing import Final

import msgspec
from portway_runtime.secret_files import create_file

from portway_registry.access.credentials import Credential
from portway_registry.access.grant_keys import make_first_key
from portway_registry.access.tokens import FIRST_ADMIN, new_token, parse_token
from portway_registry.errors import ConfigError, StoreError, TokenMalformed
from portway_registry.state import keys
from portway_registry.state.records import Role, SettingsRecord, TokenRecord, decoder, encode
from portway_registry.store.contract import ABSENT, Store
from portway_registry.store.update import get_or_create

logger = logging.getLogger(__name__)

# The tenant of the first admin token.
_FIRST_TENANT: Final = "admin"


async def bootstrap(store: Store, *, admin_token_file: Path | None, now_ms: int) -> SettingsRecord:
    """Create what is missing, and return the cluster's settings. It may be cancelled and run again.

    Raises StoreUnavailable, ConfigError when the token file cannot be used, and StoreError for a store into which an
    import was not finished.
    """
    if await store.get(keys.IMPORTING) is not None:
        raise StoreError("an import into this store was not finished: repeat `portway-registry import`, then start")
    settings = await _settings(store, now_ms)
    await make_first_key(store, now_ms=now_ms)
    await _first_admin(store, admin_token_file, now_ms)
    return settings


async def _settings(store: Store, now_ms: int) -> SettingsRecord:
    def make() -> bytes:
        return encode(SettingsRecord(cluster_id=f"portway-{secrets.token_hex(8)}", created_at_ms=now_ms))

    value, created = await get_or_create(store, keys.SETTINGS, make)
    try:
        settings = decoder(SettingsRecord)(value)
    except ValueError as error:
        raise StoreError(f"{keys.SETTINGS} in the store cannot be read: {error}") from error
    if created:
        logger.info("cluster created", extra={"cluster": settings.cluster_id})
    return settings


async def _first_admin(store: Store, path: Path | None, now_ms: int) -> None:
    """The token is written to the file before its hash is stored: after a crash in between the file can be used."""
    if await store.get(keys.token(FIRST_ADMIN)) is not None:
        return
    if path is None:
        logger.warning("no admin token is made: name a file for the first one with --admin-token-file")
        return
    made = new_token(tenant=_FIRST_TENANT, role=Role.ADMIN, now_ms=now_ms, token_id=FIRST_ADMIN)
    written = _write_new(path, made.text)
    record = made.record if written else _adopt(path, made.record)
    if await store.put(keys.token(record.id), encode(record), expected=ABSENT):
        logger.info("first admin token made", extra={"file": str(path)})
    elif written and not await _is_first_admin(store, record):
        # Another replica was first, with a file of its own: its token is the one that counts.
        _remove(path)


async def _is_first_admin(store: Store, record: TokenRecord) -> bool:
    """Whether the stored token has the same secret: two replicas may share the file."""
    entry = await store.get(keys.token(record.id))
    return entry is not None and decoder(TokenRecord)(entry.value).secret_sha256 == record.secret_sha256


def _write_new(path: Path, text: str) -> bool:
    """Write a file that only its owner can read; False when there is one already. Raises ConfigError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return create_file(path, f"{text}\n".encode("ascii"))
    except OSError as error:
        raise ConfigError(f"cannot write --admin-token-file {path}: {error.strerror}") from error


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def _adopt(path: Path, template: TokenRecord) -> TokenRecord:
    """The record for a token that an operator, or an interrupted start, left in the file. Raises ConfigError."""
    try:
        found: Credential | None = parse_token(path.read_text(encoding="ascii", errors="replace").strip())
    except OSError as error:
        raise ConfigError(f"cannot read --admin-token-file {path}: {error.strerror}") from error
    except TokenMalformed:
        found = None
    if found is None or found.id != FIRST_ADMIN:
        raise ConfigError(
            f"--admin-token-file {path} exists and does not hold a first admin token (pw_{FIRST_ADMIN}_<secret>): "
            "the cluster is new, so move the file away and start again"
        )
    return msgspec.structs.replace(template, secret_sha256=found.sha256)
