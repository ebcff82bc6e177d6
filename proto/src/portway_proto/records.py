"""The form of the records that registries, nodes and clients pass on: NodeInfo, TunnelInfo, AnnouncedSession.

Here: form and largest length of each field, and copies that have only known fields. A receiver makes such a copy before
it stores a record or sends it on, so that no party can fill another one's memory or messages. Not here: whether what a
record says is true.
"""

import ipaddress
import re
from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING, Final

from google.protobuf.message import DecodeError

from portway_proto.v1.types_pb2 import MeshLink, NodeInfo, NodeState, Reach, TunnelInfo, TunnelOptions
from portway_proto.wire.labels import is_label
from portway_proto.wire.limits import CLAIM_ID_SIZE, MAX_CLAIM, MAX_CLAIMS

if TYPE_CHECKING:
    from portway_proto.v1.mesh_pb2 import AnnouncedSession  # imported late: clients have none, and it takes 0.6 ms

# A NodeInfo that has its form takes at most 1,500 bytes, those of its zones, of which a node of a usual cluster has
# some ten, and its links, which only registries have, up to 12,000 in a large mesh: 2,000 nodes fit into gRPC's 4 MiB.
# A TunnelInfo takes 700 and its claim and ticket.
_DNS_LABEL: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_DNS_LABEL_OR_NONE: Final = re.compile(rf"(?:{_DNS_LABEL.pattern})?")
# A DNS name, or an IP address with or without brackets.
_HOST: Final = re.compile(r"[0-9A-Za-z._:%\[\]-]{1,253}")
_HOST_NAME: Final = re.compile(r"[0-9A-Za-z._-]{0,253}")
_DOMAIN: Final = re.compile(r"[0-9A-Za-z._-]{0,200}")  # the longest that leaves room for label and region
_SERVER_NAME: Final = re.compile(r"[0-9A-Za-z._-]{0,100}")
_VERSION: Final = re.compile(r"[ -~]{0,64}")
_TENANT: Final = re.compile(r"[0-9A-Za-z._@-]{0,64}")
TOKEN_ID: Final = re.compile(r"[0-9A-Za-z._-]{1,64}")
_TOKEN_ID_OR_NONE: Final = re.compile(rf"(?:{TOKEN_ID.pattern})?")
_MAX_PORT: Final = 65535
# Bytes. A ticket carries a certificate, which has 600 with the longest names.
MAX_TICKET: Final = 4096
# Bytes. A grant has some 420; half of a control frame, which carries it to the node.
MAX_GRANT: Final = 8192
# Bytes of a presence: its list of claims, and 170 of the rest with the longest name.
MAX_PRESENCE: Final = 170 + CLAIM_ID_SIZE * MAX_CLAIMS
MAX_REACH_FAILURE: Final = 300  # bytes
# Ids of grant keys that a node names. A key lives for a month and a day; operators rotate them at most as often as the
# registry allows, which keeps fewer.
MAX_GRANT_KEYS: Final = 32
# CAs that a node trusts: two while one is replaced.
MAX_AUTHORITIES: Final = 8
# Links to other nodes that a node names, some 30 bytes each; in a larger mesh those that are worst.
MAX_LINKS: Final = 64
MAX_LINK_FAILURE: Final = 100  # bytes
_AUTHORITY: Final = re.compile(r"[0-9a-f]{16}")
# Of a node: two of each family, and room.
MAX_ADDRESSES: Final = 8
# Regions of a cluster. At 30 characters each they take 8 KB of a record.
MAX_ZONES: Final = 256
_ZONE: Final = re.compile(r"[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63}){1,8}")
# As systemd allows it. It is a part of commands that are shown to operators.
_UNIT: Final = re.compile(r"[0-9A-Za-z][0-9A-Za-z@:._-]{0,99}\.service")
_KID: Final = re.compile(r"[0-9A-Za-z._-]{1,64}")
_LAST_END: Final = 253_402_300_799  # 9999-12-31 23:59:59 UTC (RFC 5280 §4.1.2.5)
_SHOWN: Final = 40  # characters of a value in an error


class InvalidRecord(ValueError):
    """A field of a record does not have its form. The text names the field, and shows at most 40 characters of it."""


def node_record(sent: NodeInfo) -> NodeInfo:
    """A copy of `sent` with known fields only. Raises InvalidRecord.

    A state that is not known, of a later release, becomes unspecified.
    """
    if not (-90 <= sent.latitude <= 90 and -180 <= sent.longitude <= 180):
        raise InvalidRecord("latitude is from -90 to 90 degrees, longitude from -180 to 180")
    return NodeInfo(
        name=_checked("name", sent.name, _DNS_LABEL),
        region=_checked("region", sent.region, _DNS_LABEL),
        host=_checked("host", sent.host, _HOST),
        port=_port("port", sent.port),
        server_name=_checked("server_name", sent.server_name, _SERVER_NAME),
        version=_checked("version", sent.version, _VERSION),
        latitude=sent.latitude,
        longitude=sent.longitude,
        domain=_checked("domain", sent.domain, _DOMAIN),
        state=sent.state if sent.state in NodeState.values() else NodeState.NODE_STATE_UNSPECIFIED,
        sessions=sent.sessions,
        tunnels=sent.tunnels,
        visits=sent.visits,
        max_sessions=sent.max_sessions,
        started_at_ms=sent.started_at_ms,
        reach=sent.reach if sent.reach in Reach.values() else Reach.REACH_UNSPECIFIED,
        reach_failure=cut_printable(sent.reach_failure, MAX_REACH_FAILURE),
        certificate_end_s=certificate_end(sent.certificate_end_s),
        lacking_regions=sent.lacking_regions,
        grant_keys=key_ids(sent.grant_keys),
        clock_ahead_s=sent.clock_ahead_s,
        authorities=authority_ids(sent.authorities),
        certificate_authority="".join(authority_ids([sent.certificate_authority])),
        unaware_clients=sent.unaware_clients,
        addresses=ip_addresses(sent.addresses),
        dns=sent.dns,
        zones=zone_names(sent.zones),
        dns_version=sent.dns_version,
        descriptors=sent.descriptors,
        descriptors_used=sent.descriptors_used,
        links=mesh_links(sent.links),
        unit=sent.unit if _UNIT.fullmatch(sent.unit) else "",
    )


def certificate_end(sent: int) -> int:
    """The time in seconds at which a certificate ends, 0 for a time that no certificate can have."""
    return sent if 0 <= sent <= _LAST_END else 0


def key_ids(sent: Iterable[str]) -> list[str]:
    """Those that have the form of an id of a grant key, sorted, MAX_GRANT_KEYS at most."""
    return sorted({kid for kid in islice(sent, MAX_GRANT_KEYS) if _KID.fullmatch(kid)})


def authority_ids(sent: Iterable[str]) -> list[str]:
    """Those that have the form of an id of a CA, sorted, MAX_AUTHORITIES at most."""
    return sorted({one for one in islice(sent, MAX_AUTHORITIES) if _AUTHORITY.fullmatch(one)})


def ip_addresses(sent: Iterable[str]) -> list[str]:
    """Those that are IP addresses of hosts, in their shortest form and their order, MAX_ADDRESSES at most."""
    found = (_host_address(one) for one in islice(sent, MAX_ADDRESSES))
    return list(dict.fromkeys(one for one in found if one))


def zone_names(sent: Iterable[str]) -> list[str]:
    """Those that have the form of a zone in lower case, sorted, MAX_ZONES at most."""
    return sorted({one for one in islice(sent, MAX_ZONES) if _ZONE.fullmatch(one)})


def mesh_links(sent: Iterable[MeshLink]) -> list[MeshLink]:
    """Those to a node whose name has its form, with known fields only, MAX_LINKS at most."""
    return [
        MeshLink(
            node=one.node,
            round_trip_us=one.round_trip_us,
            failure=cut_printable(one.failure, MAX_LINK_FAILURE),
        )
        for one in islice(sent, MAX_LINKS)
        if _DNS_LABEL.fullmatch(one.node)
    ]


def tunnel_record(sent: TunnelInfo) -> TunnelInfo:
    """A copy of `sent` with known fields only. Raises InvalidRecord. Nothing is verified."""
    if not is_label(sent.label):
        raise InvalidRecord(f"label {_shown(sent.label)} does not have its form ({len(sent.label)} characters)")
    if len(sent.claim) > MAX_CLAIM:
        raise InvalidRecord(f"claim has {len(sent.claim)} bytes; at most {MAX_CLAIM} are allowed")
    if len(sent.ticket) > MAX_TICKET:
        raise InvalidRecord(f"ticket has {len(sent.ticket)} bytes; at most {MAX_TICKET} are allowed")
    return TunnelInfo(
        label=sent.label,
        node=_checked("node", sent.node, _DNS_LABEL_OR_NONE),
        region=_checked("region", sent.region, _DNS_LABEL_OR_NONE),
        epoch=sent.epoch,
        tenant=_checked("tenant", sent.tenant, _TENANT),
        token_id=_checked("token_id", sent.token_id, _TOKEN_ID_OR_NONE),
        options=_known_options(sent.options) if sent.HasField("options") else None,
        unencrypted_port=_port("unencrypted_port", sent.unencrypted_port),
        opened_at_ms=sent.opened_at_ms,
        host=_checked("host", sent.host, _HOST_NAME),
        claim=sent.claim,
        ticket=sent.ticket,
    )


def session_record(sent: "AnnouncedSession") -> "AnnouncedSession":
    """A copy of `sent` with known fields only. Raises InvalidRecord. Nothing is verified."""
    from portway_proto.v1.mesh_pb2 import AnnouncedSession

    if len(sent.grant) > MAX_GRANT:
        raise InvalidRecord(f"grant has {len(sent.grant)} characters; at most {MAX_GRANT} are allowed")
    if len(sent.presence) > MAX_PRESENCE:
        raise InvalidRecord(f"presence has {len(sent.presence)} bytes; at most {MAX_PRESENCE} are allowed")
    return AnnouncedSession(grant=sent.grant, presence=sent.presence)


def claimed_options(options: bytes) -> TunnelOptions:
    """The options in a claim, with known fields only. Raises InvalidRecord."""
    try:
        return _known_options(TunnelOptions.FromString(options))
    except DecodeError:
        raise InvalidRecord("options of a claim cannot be read") from None


def cut_printable(text: str, size: int) -> str:
    """A text for people, cut to at most `size` bytes of UTF-8; characters that are not printable become spaces."""
    cut = text[:size].encode(errors="replace")[:size].decode(errors="ignore")
    return cut if cut.isprintable() else "".join(one if one.isprintable() else " " for one in cut)


def _host_address(text: str) -> str:
    try:
        address = ipaddress.ip_address(text) if "%" not in text else None
    except ValueError:
        return ""
    return "" if address is None or address.is_unspecified or address.is_multicast else str(address)


def _known_options(sent: TunnelOptions) -> TunnelOptions:
    return TunnelOptions(h2_enabled=sent.h2_enabled, unencrypted=sent.unencrypted)


def _checked(field: str, value: str, form: re.Pattern[str]) -> str:
    if form.fullmatch(value) is None:
        raise InvalidRecord(f"{field} {_shown(value)} does not have its form ({len(value)} characters)")
    return value


def _port(field: str, value: int) -> int:
    if value > _MAX_PORT:
        raise InvalidRecord(f"{field} {value} is not a port")
    return value


def _shown(value: str) -> str:
    return repr(value) if len(value) <= _SHOWN else f"{value[:_SHOWN]!r}…"
