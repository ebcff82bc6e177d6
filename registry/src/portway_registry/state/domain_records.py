"""The values in the store that belong to the cluster's domain: records of its zone, obtained certificates.

Their encoding, and what holds for fields that were added later, is that of all records (records.py).
"""

from collections.abc import Callable
from typing import Final

import msgspec


class StaticRecord(msgspec.Struct, frozen=True, tag="record", tag_field="kind"):
    """A record of the cluster's zone that operators added: a fully qualified name in lower case, without the last dot,
    and data in presentation form."""

    name: str
    type: str
    ttl: int
    data: str
    created_at_ms: int = 0


class ChallengeRecord(msgspec.Struct, frozen=True, tag="challenge", tag_field="kind"):
    """A TXT record that proves control of a name to a certificate authority."""

    name: str
    value: str
    created_at_ms: int = 0


class NameServerRecord(msgspec.Struct, frozen=True, tag="name-server", tag_field="kind"):
    """The node that is name server `number` of the domain, at these addresses: those that it last had. It stays so when
    it is away, since the zone above names it."""

    number: int
    node: str
    addresses: tuple[str, ...] = ()


DnsItem = StaticRecord | ChallengeRecord | NameServerRecord


class Revocation(msgspec.Struct, frozen=True):
    """A certificate (PEM) that is to be revoked, with the reason's code of RFC 5280.

    first: before its successor is there, so that visitors are refused until then.
    """

    certificate: bytes
    reason: int = 0
    first: bool = False


class CertificateRecord(msgspec.Struct, frozen=True):
    """The certificate of a zone that the registry obtained, and what became of the last try to obtain one.

    Without a certificate `chain` is empty and the times of it are 0. `chain` is PEM, leaf first; `key` its private key,
    wrapped (acme/wrapping.py). directory: the URL of the ACME server that it is from.

    renew_at_ms: when the server says that it should be renewed; 0 when it says nothing. ask_at_ms: when it is asked
    again. wanted_at_ms: when an operator ordered a renewal that is not done yet; 0 for none.

    failures: tries since the last success; the last one ended at `failed_at_ms` for the reason `failure`, and the next
    one is at `retry_at_ms`.
    """

    zone: str
    chain: bytes = b""
    key: bytes = b""
    directory: str = ""
    from_ms: int = 0
    until_ms: int = 0
    obtained_at_ms: int = 0
    renew_at_ms: int = 0
    ask_at_ms: int = 0
    wanted_at_ms: int = 0
    revoking: Revocation | None = None
    failures: int = 0
    failure: str = ""
    failed_at_ms: int = 0
    retry_at_ms: int = 0


class AcmeAccountRecord(msgspec.Struct, frozen=True):
    """An account with an ACME server: its private key, wrapped, and its URL, which is "" until it is registered."""

    directory: str
    key: bytes
    url: str = ""
    made_at_ms: int = 0


# What is kept below one prefix for DNS, so that all of it has one order. Raises ValueError.
decode_dns: Final[Callable[[bytes], DnsItem]] = msgspec.json.Decoder(DnsItem).decode
