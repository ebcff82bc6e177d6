"""The account with an ACME server: one for a cluster and server, its key wrapped in the store.

Here: making its key once, registering it once. Not here: requests (server_calls.py).
"""

import hashlib
from collections.abc import Callable

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from portway_registry.acme.server_calls import Connection
from portway_registry.acme.server_settings import ServerSettings
from portway_registry.acme.wrapping import WrappingKey
from portway_registry.errors import AcmeFailed, PkiError
from portway_registry.pki.signing import new_key, private_pem
from portway_registry.state import keys
from portway_registry.state.domain_records import AcmeAccountRecord
from portway_registry.state.records import decoder, encode
from portway_registry.store.contract import Entry, Store
from portway_registry.store.update import Decision, get_or_create, update

_read = decoder(AcmeAccountRecord)


class Account:
    """This cluster's account with one server."""

    def __init__(
        self, store: Store, wrapping: WrappingKey, settings: ServerSettings, now_ms: Callable[[], int]
    ) -> None:
        self._store = store
        self._wrapping = wrapping
        self._settings = settings
        self._now_ms = now_ms
        self._key = keys.acme_account(hashlib.sha256(settings.directory.encode()).hexdigest()[:16])
        self._purpose = f"the account at {settings.directory}"

    async def connect(self) -> Connection:
        """A connection as the account, which is registered first unless it is. Raises AcmeFailed, StoreUnavailable."""
        record = await self._record()
        connection = Connection(self._settings, self._private_key(record), record.url)
        if not record.url:
            try:
                await self._note(await connection.register())
            except BaseException:
                connection.close()
                raise
        return connection

    async def forget(self) -> None:
        """The server knows the account no more: it is registered again with the next connection."""
        await self._note("")

    async def _record(self) -> AcmeAccountRecord:
        def make() -> bytes:
            key = self._wrapping.wrap(private_pem(new_key()), self._purpose)
            return encode(AcmeAccountRecord(self._settings.directory, key, made_at_ms=self._now_ms()))

        value, _ = await get_or_create(self._store, self._key, make)
        return self._decode(value)

    def _private_key(self, record: AcmeAccountRecord) -> bytes:
        try:
            pem = self._wrapping.unwrap(record.key, self._purpose)
            if not isinstance(load_pem_private_key(pem, None), ec.EllipticCurvePrivateKey):
                raise PkiError("it is of another kind")
        except (PkiError, ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise AcmeFailed(
                f"the account's key in the store cannot be used ({error}): delete {self._key} there for a new account"
            ) from error
        return pem

    async def _note(self, url: str) -> None:
        async def decide(entry: Entry | None) -> Decision[None]:
            if entry is None:
                return Decision(None)
            record = self._decode(entry.value)
            return Decision(None, encode(AcmeAccountRecord(record.directory, record.key, url, record.made_at_ms)))

        await update(self._store, self._key, decide, "the account's record changed at each try to write it")

    def _decode(self, value: bytes) -> AcmeAccountRecord:
        try:
            return _read(value)
        except ValueError as error:
            raise AcmeFailed(f"{self._key} in the store is damaged: delete it for a new account") from error
