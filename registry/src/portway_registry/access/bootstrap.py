"""What the very first start of a cluster makes, once, however many replicas start at the same time.

Here: the cluster's id, its first grant key, its first admin token; each by one compare-and-swap. Not here: what a
start does after that (server.py).
"""

import logging
import os
import secrets
from pathlib import Path
from typing import Final

from portway_registry.access import grants, tokens
from portway_registry.errors import ConfigError, StoreError, TokenMalformed
from portway_registry.state import keys
from portway_registry.state.records import Role, SettingsRecord, TokenRecord, decoder, encode
from portway_registry.store.contract import Revision, Store

logger = logging.getLogger(__name__)

_ABSENT: Final = Revision(0)
# Whom the first admin's actions are counted for.
_FIRST_TENANT: Final = "admin"


async def bootstrap(store: Store, *, admin_token_file: Path | None, now_ms: int) -> SettingsRecord:
    """Make what is missing, and return the cluster's settings. Safe to cancel and to run again.

    Raises StoreUnavailable, and ConfigError when the token file cannot be used.
    """
    settings = await _settings(store, now_ms)
    await grants.make_first_key(store, now_ms=now_ms)
    await _first_admin(store, admin_token_file, now_ms)
    return settings


async def _settings(store: Store, now_ms: int) -> SettingsRecord:
    offered = SettingsRecord(cluster_id=f"portway-{secrets.token_hex(8)}", created_at_ms=now_ms)
    if await store.put(keys.SETTINGS, encode(offered), expected=_ABSENT):
        logger.info("cluster created", extra={"cluster": offered.cluster_id})
        return offered
    entry = await store.get(keys.SETTINGS)
    if entry is None:
        raise StoreError("the cluster's settings vanished from the store while it was read")
    try:
        return decoder(SettingsRecord)(entry.value)
    except ValueError as error:
        raise StoreError(f"{keys.SETTINGS} in the store cannot be read: {error}") from error


async def _first_admin(store: Store, path: Path | None, now_ms: int) -> None:
    """The token goes to the file before the store has its hash: a crash in between leaves a file to go on from."""
    if await store.get(keys.token(tokens.FIRST_ADMIN)) is not None:
        return
    if path is None:
        logger.warning("no admin token is made: name a file for the first one with --admin-token-file")
        return
    made = tokens.make(tenant=_FIRST_TENANT, role=Role.ADMIN, now_ms=now_ms, token_id=tokens.FIRST_ADMIN)
    written = _write_new(path, made.text)
    record = made.record if written else _adopted(path, made.record)
    if await store.put(keys.token(record.id), encode(record), expected=_ABSENT):
        logger.info("first admin token made", extra={"file": str(path)})
    elif written and not await _is_first_admin(store, record):
        # Another replica was first, with a file of its own: its token is the one that counts.
        _remove(path)


async def _is_first_admin(store: Store, record: TokenRecord) -> bool:
    """Whether the stored token has the same secret: two replicas may share the file."""
    entry = await store.get(keys.token(record.id))
    return entry is not None and decoder(TokenRecord)(entry.value).secret_sha256 == record.secret_sha256


def _write_new(path: Path, text: str) -> bool:
    """Write a file, whole or not at all, that only its owner can read; False when one is there."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with open(descriptor, "w", encoding="ascii") as file:
                file.write(text + "\n")
                file.flush()
                os.fsync(file.fileno())
            return _link(draft, path)
        finally:
            draft.unlink()
    except OSError as error:
        raise ConfigError(f"cannot write --admin-token-file {path}: {error.strerror}") from error


def _link(draft: Path, path: Path) -> bool:
    """A link fails where a rename would replace what is there."""
    try:
        os.link(draft, path)
    except FileExistsError:
        return False
    return True


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def _adopted(path: Path, template: TokenRecord) -> TokenRecord:
    """The record for a token that an operator, or a start that was cut short, left in the file."""
    try:
        text = path.read_text(encoding="ascii", errors="replace").strip()
        token_id, secret = tokens.parse(text)
    except OSError as error:
        raise ConfigError(f"cannot read --admin-token-file {path}: {error.strerror}") from error
    except TokenMalformed:
        token_id, secret = tokens.TokenId(""), ""
    if token_id != tokens.FIRST_ADMIN:
        raise ConfigError(
            f"--admin-token-file {path} exists and holds no first admin token (pw_{tokens.FIRST_ADMIN}_<secret>): "
            "the cluster is new, so move the file away and start again"
        )
    return tokens.with_secret(template, secret)
