"""One order of one certificate: request, proof by DNS, certificate, and the check of what came.

Here: the steps in their order. Not here: the requests themselves (server_calls.py), when an order is due (schedule.py),
who answers DNS.
"""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from portway_runtime.certificates import CertifiedKey
from portway_runtime.identities import UNREADABLE, dns_names

from portway_registry.acme.publisher import Publisher
from portway_registry.acme.server_calls import Connection, DnsChallenge
from portway_registry.acme.zones import demand_public
from portway_registry.errors import AcmeFailed
from portway_registry.pki.signing import new_key, private_pem

logger = logging.getLogger(__name__)

# Seconds. Servers look from several places, and again after a few seconds; a queue of Let's Encrypt's takes minutes.
_CHECKED_WITHIN: Final = 120.0
_FINISHED_WITHIN: Final = 120.0
_FIRST_LOOK: Final = 0.25
_LONGEST_PAUSE: Final = 4.0


async def obtain(
    connection: Connection,
    publisher: Publisher,
    names: Sequence[str],
    *,
    domain: str,
    replaces: bytes | None,
    now: datetime,
) -> CertifiedKey:
    """A certificate for these names, with a new P-256 key. Its TXT records are withdrawn at the end, also when it is
    cancelled.

    replaces: the one before (PEM), from the same server. Raises AcmeFailed, what `publisher` raises, and ValueError for
    names that must not be published.
    """
    demand_public(names, domain)
    key = new_key()
    order = await connection.order(names, _request(key, names), replaces)
    try:
        await asyncio.gather(*(publisher.publish(one.name, one.value) for one in order.challenges))
        for challenge in order.challenges:
            await connection.answer(challenge)
        await _until_checked(connection, order.challenges)
    finally:
        await _withdraw(publisher, order.challenges)
    return _checked(await connection.finish(order, _FINISHED_WITHIN), key, names, now)


async def _until_checked(connection: Connection, challenges: Sequence[DnsChallenge]) -> None:
    pause = _FIRST_LOOK
    waiting = list(challenges)
    try:
        async with asyncio.timeout(_CHECKED_WITHIN):
            while waiting:
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
                waiting = [one for one in waiting if not await connection.is_checked(one)]
    except TimeoutError as error:
        names = ", ".join(sorted({one.name for one in waiting}))
        raise AcmeFailed(f"the ACME server has not looked at {names} within {_CHECKED_WITHIN:.0f} s") from error


async def _withdraw(publisher: Publisher, challenges: Sequence[DnsChallenge]) -> None:
    """A record that stays does no harm: a failure is logged, and not the order's."""
    for one in challenges:
        try:
            await publisher.withdraw(one.name, one.value)
        except Exception as error:
            logger.warning("a challenge's TXT record stays", extra={"name_of_record": one.name, "reason": str(error)})


def _request(key: ec.EllipticCurvePrivateKey, names: Sequence[str]) -> bytes:
    """PKCS #10, PEM."""
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    alternative = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
    return request.add_extension(alternative, critical=False).sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def _checked(chain: bytes, key: ec.EllipticCurvePrivateKey, names: Sequence[str], now: datetime) -> CertifiedKey:
    """Raises AcmeFailed unless the certificate is for this key and these names, and has not ended."""
    leaf = None
    with suppress(*UNREADABLE):
        leaf = x509.load_pem_x509_certificates(chain)[0]
    if leaf is None or leaf.public_key() != key.public_key():
        raise AcmeFailed("the ACME server sent a certificate that cannot be read, or is for another key")
    if set(dns_names(leaf)) != set(names):
        raise AcmeFailed(f"the ACME server sent a certificate for {', '.join(dns_names(leaf))[:200]}")
    if leaf.not_valid_after_utc <= now:
        raise AcmeFailed("the ACME server sent a certificate that has ended: look at this machine's clock")
    return CertifiedKey(chain, private_pem(key), leaf)
