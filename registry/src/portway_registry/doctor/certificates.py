"""Certificates and keys that a registry knows of: its own, its nodes', those that it obtains, the CAs, and the keys of
grants.

Not here: what visitors are shown (visitors.py).
"""

from datetime import UTC, datetime
from typing import Final

from portway_proto.v1.admin_pb2 import AUTHORITY_STATE_RETIRING, GRANT_KEY_STATE_UNREADABLE, ZoneCertificateInfo

from portway_registry.doctor.facts import ClusterFacts
from portway_registry.doctor.finding import Finding, Severity

_DAY_S: Final = 86_400
# Time left at which somebody should have replaced a certificate, and at which it is urgent.
_SOON_S: Final = 21 * _DAY_S
_URGENT_S: Final = 3 * _DAY_S


def how_soon(end_s: float, now_s: float, life_s: float = 0.0) -> Severity | None:
    """How bad it is that a certificate ends at `end_s`: None while there is time. Of a short life (0: not known) a
    quarter, and a twelfth, count in place of 21 days and 3."""
    left = end_s - now_s
    if left <= (min(_URGENT_S, life_s / 12) if life_s else _URGENT_S):
        return Severity.ERROR
    return Severity.WARNING if left <= (min(_SOON_S, life_s / 4) if life_s else _SOON_S) else None


def ends(end_s: float, now_s: float) -> str:
    """When a certificate ends, for people."""
    when = f"{datetime.fromtimestamp(end_s, UTC):%Y-%m-%d %H:%M} UTC"
    return f"ended at {when}" if end_s <= now_s else f"ends at {when}"


def judge_certificates(facts: ClusterFacts) -> list[Finding]:
    """What ends soon, by this machine's clock, and keys that cannot be used."""
    now = facts.asked_at_ms / 1000
    found: list[Finding] = []
    told = () if facts.health is None else facts.health.certificates
    lives = {info.zone: (info.until_ms - info.from_ms) / 1000 for info in facts.obtained}
    failing = {info.zone for info in facts.obtained if info.names and info.failures}  # told below, with the reason
    for one in told:
        if one.name.startswith("ca-") or one.name in failing:
            continue
        if (severity := how_soon(one.end_s, now, lives.get(one.name, 0.0))) is not None:
            found.append(
                Finding(
                    "certificate-of-the-registry",
                    severity,
                    one.name,
                    f"The registry's certificate `{one.name}` {ends(one.end_s, now)}.",
                    "Whoever it is shown to refuses the connection after that.",
                    f"{one.remedy[:1].upper()}{one.remedy[1:]}.",
                )
            )
    for node in facts.nodes:
        if node.certificate_end_s and (severity := how_soon(node.certificate_end_s, now)) is not None:
            found.append(
                Finding(
                    "certificate-of-a-node",
                    severity,
                    node.name,
                    f"A certificate of node {node.name} {ends(node.certificate_end_s, now)}.",
                    "Visitors or other nodes refuse it after that.",
                    f"The log of {node.name} names the file: put a new certificate in its place.",
                )
            )
    for authority in facts.authorities:
        if authority.state == AUTHORITY_STATE_RETIRING or not authority.ends_at_ms:
            continue
        severity = how_soon(authority.ends_at_ms / 1000, now)
        if severity is not None:
            in_files = "Replace the file of --cluster-ca in the stages of docs/rotation.md."
            in_store = "`portway-admin ca rotate`, then `portway-admin ca retire`."
            found.append(
                Finding(
                    "authority-ends",
                    severity,
                    authority.id,
                    f"The cluster's CA {authority.id} {ends(authority.ends_at_ms / 1000, now)}.",
                    "No node and no registry trusts another one after that, and no client a node.",
                    in_files if authority.from_files else in_store,
                )
            )
    for key in facts.grant_keys:
        if key.state == GRANT_KEY_STATE_UNREADABLE:
            found.append(
                Finding(
                    "grant-key-damaged",
                    Severity.ERROR,
                    key.id,
                    f"The grant key {key.id} is damaged in the store.",
                    "Grants that it signed are refused.",
                    f"`portway-admin grant-key retire {key.id} --force`; another one signs already.",
                )
            )
    return found + [told_of for info in facts.obtained if (told_of := _obtaining(info, now)) is not None]


def _obtaining(info: ZoneCertificateInfo, now_s: float) -> Finding | None:
    """What keeps registries from a certificate; None while nothing does, or while no region needs it."""
    if not info.names:
        return None
    again = (
        f"Mend that (docs/certificates.md lists reasons), then `portway-admin certificate renew {info.zone}`; it is "
        f"tried again at {datetime.fromtimestamp(info.retry_at_ms / 1000, UTC):%Y-%m-%d %H:%M} UTC in any case."
    )
    if info.failures and not info.until_ms:
        return Finding(
            "zone-not-obtained",
            Severity.ERROR,
            info.zone,
            f"No certificate for {info.zone} can be obtained: {info.failure}.",
            "Nodes of a region without one get no clients, and nobody trusts a registry without one.",
            again,
        )
    if info.failures:
        soon = how_soon(info.until_ms / 1000, now_s, (info.until_ms - info.from_ms) / 1000)
        return Finding(
            "zone-not-renewed",
            Severity.ERROR if soon is Severity.ERROR else Severity.WARNING,
            info.zone,
            f"The certificate for {info.zone}, which {ends(info.until_ms / 1000, now_s)}, cannot be renewed: "
            f"{info.failure}.",
            "Browsers show a warning in place of the page after that.",
            again,
        )
    if not info.until_ms:
        return Finding(
            "zone-being-obtained",
            Severity.NOTE,
            info.zone,
            f"The first certificate for {info.zone} is being obtained.",
            "Until it is there, nodes of the region get no clients.",
            "Wait a minute; the log of the registries, and `portway-admin certificate list`, say how it goes.",
        )
    return None
