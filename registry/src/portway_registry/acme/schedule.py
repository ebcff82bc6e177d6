"""What is due for a zone's certificate, by its record and the time: an order, a question to the server, a revocation.

Here: rules and times, in milliseconds since the Unix epoch, all passed in. Not here: doing it (keeper.py).
"""

import hashlib
from dataclasses import dataclass
from enum import Enum
from typing import Final

from portway_registry.state.domain_records import CertificateRecord

_MINUTE: Final = 60_000
_HOUR: Final = 60 * _MINUTE
_DAY: Final = 24 * _HOUR
# Let's Encrypt takes 5 failed validations of a name and account, and one more each 12 minutes: pauses that double from
# a minute stay below that, and one try an hour is far below it.
_FIRST_PAUSE: Final = _MINUTE
_LONGEST_PAUSE: Final = _HOUR
# A server that says "now" of each new certificate must not get an order each minute: Let's Encrypt issues 5 equal
# certificates in 7 days.
_LEAST_APART: Final = _DAY


class Step(Enum):
    """What is done for one zone."""

    ORDER = "order"
    REVOKE = "revoke"
    ASK = "ask"  # when the server wants the certificate to be renewed
    FORGET = "forget"


@dataclass(frozen=True, slots=True)
class Due:
    """The next step, and from when on it is due."""

    step: Step
    at_ms: int


def next_step(record: CertificateRecord | None, *, wanted: bool, directory: str) -> Due | None:
    """The first step that will be due if nothing changes; None when nothing will.

    wanted: the cluster needs the certificate. directory: the URL of the ACME server that is used now.
    """
    if record is None:
        return Due(Step.ORDER, 0) if wanted else None
    steps = [_revocation(record), _order(record, directory) if wanted else _forgetting(record)]
    if wanted and record.chain and record.directory == directory:
        steps.append(Due(Step.ASK, record.ask_at_ms))
    return min((step for step in steps if step is not None), key=lambda due: due.at_ms, default=None)


def renewal_ms(record: CertificateRecord) -> int:
    """When a certificate is renewed: at two thirds of its life, or when its server says.

    What the server says is bounded: a sixth of the life stays for tries, and two renewals are a day apart, or a tenth
    of the life where that is less. The life counts from the time that it was obtained: servers issue certificates that
    are valid from an hour before.
    """
    life = record.until_ms - record.obtained_at_ms
    if not record.renew_at_ms:
        return record.obtained_at_ms + life * 2 // 3
    earliest = record.obtained_at_ms + min(_LEAST_APART, life // 10)
    return max(earliest, min(record.renew_at_ms, record.until_ms - life // 6))


def chosen_ms(window: tuple[int, int], certificate: bytes) -> int:
    """The time of renewal within the server's window: spread over its clients by a hash, so that the answer to the same
    question stays the same."""
    start, end = window
    share = int.from_bytes(hashlib.sha256(certificate).digest()[:8], "big") / 2**64
    return start + int(max(end - start, 0) * share)


def ask_again_ms(wanted_ms: int, now_ms: int) -> int:
    """When the server is asked again: when it wants, but not each second, and once a day."""
    return min(max(wanted_ms, now_ms + _MINUTE), now_ms + _DAY)


def pause_ms(failures: int, retry_after_ms: int, jitter: float) -> int:
    """The pause after so many failures in a row, at least 1, in milliseconds.

    retry_after_ms: what the server demands, 0 for nothing. jitter: from 0 to 1."""
    doubled = min(_FIRST_PAUSE << min(failures - 1, 10), _LONGEST_PAUSE)
    return int(max(doubled, retry_after_ms) * (1 + jitter / 4))


def is_replaced(record: CertificateRecord) -> bool:
    """Whether the certificate that is to be revoked is not the one in use."""
    return record.revoking is not None and record.revoking.certificate != record.chain


def _order(record: CertificateRecord, directory: str) -> Due:
    if not record.chain or record.directory != directory:
        at = 0
    elif record.wanted_at_ms:
        at = record.wanted_at_ms
    else:
        at = renewal_ms(record)
    return Due(Step.ORDER, _after_failures(record, at))


def _revocation(record: CertificateRecord) -> Due | None:
    if record.revoking is None or not (record.revoking.first or is_replaced(record)):
        return None
    return Due(Step.REVOKE, _after_failures(record, 0))


def _forgetting(record: CertificateRecord) -> Due | None:
    """The certificate of a region without a node is kept until its end: the region's node may come back."""
    return None if record.revoking is not None else Due(Step.FORGET, record.until_ms)


def _after_failures(record: CertificateRecord, at_ms: int) -> int:
    """An operator who orders a renewal does not wait for the pause after a failure before it."""
    if not record.failures or record.wanted_at_ms > record.failed_at_ms:
        return at_ms
    return max(at_ms, record.retry_at_ms)
