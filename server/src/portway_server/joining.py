"""Joining a cluster of other machines: the invitation is exchanged for the node's certificate, and for where registries
are.

Here: which registry is asked, and what becomes of its answer. Not here: the call (portway_relay.membership.joining).
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from portway_proto.v1.enrolment_pb2 import JoinRequest, JoinResponse
from portway_relay.errors import RegistryAway, RelayError
from portway_relay.membership.joining import Invitation, join, parse_invitation
from portway_relay.membership.state_folder import StateFolder
from portway_runtime.address_scopes import is_loopback
from portway_runtime.endpoints import Endpoint
from portway_runtime.errors import RuntimeFault
from portway_runtime.grpc_channels import CallFault

from portway_server.errors import CannotJoin, SetupRefused
from portway_server.writing import acting_as

_PUBLIC_PORT: Final = 443
# Seconds after which a registry that is not reached is tried no more: a person waits, and a machine that starts may be
# early. One call may take 10 s more.
_PATIENCE: Final = 10.0
# What is told of a registry that is not reached, by why not; with what to do.
_AWAY: Final = {
    CallFault.UNRESOLVED: "{reason}. Is {host} the cluster's domain, and is it delegated? `portway-server status` on "
    "the first machine says what the zone above has.",
    CallFault.CONNECTION_REFUSED: "nothing listens at {at}. Does the first machine run? `portway-server status` there "
    "says so.",
    CallFault.TIMED_OUT: "nothing answers at {at}. Is port {port} open in the firewall of the machine there?",
    CallFault.NOBODY_BEHIND: "a node answers at {at}, and reaches no registry. Does the registry's machine run?",
    CallFault.UNKNOWN_NAME: "what answers at {at} knows no registry of the name {host}. Is the domain right?",
    CallFault.NOT_TLS: "what answers at {at} does not speak TLS, as nodes and registries do. Is the address right?",
}
_OTHER: Final = "no registry was reached at {at}: {reason}. Is the domain right, and does the first machine serve?"
_ELSEWHERE: Final = " --join-at HOST:PORT names another address of a registry's port for clients."


def invitation_of(text: str, source: str, domain: str, at: Endpoint | None) -> Invitation:
    """The invitation in a text, TOKEN or TOKEN@HOST:PORT, and where to show it: at `at` if it is given, else where the
    invitation says, else at the domain, whose nodes pass it on. An address of loopback is the inviting machine's own.

    Raises SetupRefused, without the token in its text.
    """
    words = text.strip()
    default = Endpoint(domain, _PUBLIC_PORT)
    try:
        found = parse_invitation(words if "@" in words else f"{words}@{default}", source)
    except RelayError as error:
        raise SetupRefused(str(error)) from None
    if at is not None:
        return replace(found, registry=at)
    return replace(found, registry=default) if is_loopback(found.registry.host) else found


def join_cluster(
    invitation: Invitation, *, node: str, region: str, state: Path, registry_ca: Path | None, user: str | None
) -> Sequence[str]:
    """Join, and keep the certificate in the node's state folder, which is there, and `user`'s. Where registries serve
    nodes, as host:port, perhaps none.

    With the same invitation it may be called again for ten minutes. Raises CannotJoin.
    """
    folder = StateFolder(state)
    try:
        with acting_as(user):
            csr = folder.joining_request(invitation.id, node)
        request = JoinRequest(node=node, region=region, csr=csr)
        answer = asyncio.run(_joined(invitation, request, registry_ca))
        with acting_as(user):
            folder.store_joined(invitation.id, answer.certificate)
    except (RelayError, RuntimeFault) as error:
        raise CannotJoin(str(error)) from error
    except (OSError, KeyError) as error:
        raise CannotJoin(f"cannot act as {user} in {state}: {error}") from error
    return list(answer.registries)


async def _joined(invitation: Invitation, request: JoinRequest, registry_ca: Path | None) -> JoinResponse:
    try:
        return await join(invitation, request, registry_ca, within=_PATIENCE)
    except RegistryAway as error:
        raise CannotJoin(away(invitation.registry, error)) from None


def away(registry: Endpoint, error: RegistryAway) -> str:
    """What is told of a registry that was not reached."""
    told = _AWAY.get(error.fault, _OTHER)
    return told.format(reason=error.reason, host=registry.host, at=registry, port=registry.port) + _ELSEWHERE
