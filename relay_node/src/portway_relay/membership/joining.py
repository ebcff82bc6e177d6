"""Joining a cluster: the token of an invitation is exchanged for a certificate, once.

Here: when a token is used, and what the operator reads when it cannot be. Not here: files (state_folder.py), later
certificates (renewal.py).
"""

import asyncio
import logging
import re
import socket
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

import grpc
from grpc import aio
from portway_proto.v1.enrolment_pb2 import JoinRequest, JoinResponse
from portway_proto.v1.enrolment_pb2_grpc import EnrolmentStub
from portway_runtime.backoff import Backoff
from portway_runtime.clocks import Monotonic, UtcNow, monotonic, utc_now
from portway_runtime.endpoints import Endpoint, parse_registry
from portway_runtime.errors import CertificateError
from portway_runtime.grpc_channels import NO_PROXY_OF_ITS_OWN, OWN_CONNECTIONS, CallFault, fault_of, reason_of
from portway_runtime.grpc_targets import LOOKUP_TIMEOUT, Options, is_address, target_of
from portway_runtime.identities import dns_names
from portway_runtime.names import Names
from portway_runtime.pem_files import read_pem
from portway_runtime.threads import demand_threads
from portway_runtime.trusted_roots import system_roots

from portway_relay.config import NodeConfig
from portway_relay.errors import ConfigError, JoinError, RegistryAway
from portway_relay.membership.state_folder import StateFolder

logger = logging.getLogger(__name__)

_FORM: Final = re.compile(r"(?P<token>pwj_(?P<id>[a-z0-9]{1,32})_[a-z2-7]{32})(?:@(?P<address>.+))?")
_ANSWERED_WITHIN: Final = 10.0
_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 10.0
# A call that failed so may succeed later; every other failure is the registry's answer.
_TEMPORARY: Final = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})
# Of a look-up: a resolver says that there is no such name, or no address of it.
_NO_SUCH_NAME: Final = frozenset({socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)})
_REASONS: Final = {
    CallFault.TIMED_OUT: f"no answer within {_ANSWERED_WITHIN:g} s",
    CallFault.NOBODY_BEHIND: "no registry answers behind the node there",
    CallFault.UNKNOWN_NAME: "no registry of this name is reached there",
}


class _Unresolved(Exception):
    """The registry's name has no address. lasting: a resolver says so."""

    def __init__(self, reason: str, *, lasting: bool = False) -> None:
        super().__init__(reason)
        self.lasting = lasting


@dataclass(frozen=True, slots=True)
class Invitation:
    """A token, and the public port of the registry that made it."""

    id: str
    token: str = field(repr=False)
    registry: Endpoint


def parse_invitation(text: str, source: str = "--join") -> Invitation:
    """Read TOKEN@HOST:PORT, of which the port may be left out. Raises ConfigError, whose message names the source and
    does not repeat the token."""
    match = _FORM.fullmatch(text.strip())
    if match is None:
        raise ConfigError(
            f"{source} is not an invitation: one has the form pwj_<id>_<secret>@HOST[:PORT], as `portway-admin node "
            "invite` prints it"
        )
    try:
        registry = parse_registry(match["address"] or "")
    except ValueError:
        raise ConfigError(
            f"{source} names no registry: put @HOST behind the token, or @HOST:PORT (the registry's port for clients; "
            "443 is that of any node)"
        ) from None
    return Invitation(match["id"], match["token"], registry)


async def ensure_certificate(config: NodeConfig, now: UtcNow = utc_now) -> None:
    """Make sure that a node with a state folder has a valid certificate in it: join if there is none, or if the
    settings give another invitation. Does nothing for a node that was given its certificate (--cert).

    Waits while the registry cannot be reached. Raises ConfigError, JoinError and NoThread. Cancelled, it leaves at most
    a key, which the next call uses.
    """
    if config.state_dir is None:
        return
    folder = StateFolder(config.state_dir)
    invitation = _invitation(config, joined=folder.invitation is not None)
    if folder.invitation is not None and (invitation is None or invitation.id == folder.invitation):
        _demand_valid(folder, config, now())
        return
    if invitation is None:
        raise JoinError(
            f"this node has no certificate: there is none in {config.state_dir}. Invite it (`portway-admin node invite "
            f"--region {config.region}`) and start it with --join-file FILE, or give --cert, --key and --cluster-ca"
        )
    csr = folder.joining_request(invitation.id, config.name)
    request = JoinRequest(node=config.name, region=config.region, csr=csr)
    answer = await join(invitation, request, config.registry_ca)
    folder.store_joined(invitation.id, answer.certificate)
    logger.info("joined the cluster", extra={"node": config.name, "invitation": invitation.id})


def _invitation(config: NodeConfig, *, joined: bool) -> Invitation | None:
    """The invitation that the settings give. The file may be gone, or empty, once the node has joined with it.

    Raises ConfigError and JoinError.
    """
    if config.join is not None:
        return parse_invitation(config.join)
    if config.join_file is None:
        return None
    try:
        text = config.join_file.read_text("utf-8", "replace")
    except FileNotFoundError as error:
        if joined:
            return None
        raise JoinError(f"cannot read --join-file {config.join_file}: {error.strerror}") from error
    except OSError as error:
        raise JoinError(f"cannot read --join-file {config.join_file}: {error.strerror}") from error
    if joined and not text.strip():  # systemd's credential of a file that was deleted
        return None
    return parse_invitation(text, f"--join-file {config.join_file}")


def _demand_valid(folder: StateFolder, config: NodeConfig, now: datetime) -> None:
    """Raise JoinError unless the certificate in use is this node's and has not expired."""
    certificate = folder.certificate()
    names = dns_names(certificate)
    again = (
        f"`portway-admin node invite --region {config.region} --name {config.name}`, then start it with "
        "--join-file FILE"
    )
    if config.server_name not in names:
        raise JoinError(
            f"{folder.path} holds the certificate of another node ({', '.join(names)}): give {config.name} a folder of "
            f"its own with --state-dir, or invite it anew ({again})"
        )
    if certificate.not_valid_after_utc <= now:
        raise JoinError(
            f"this node's certificate in {folder.path} has expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} "
            f"UTC, and no other party trusts it any more: invite the node anew ({again})"
        )


async def join(
    invitation: Invitation,
    request: JoinRequest,
    registry_ca: Path | None,
    *,
    within: float | None = None,
    clock: Monotonic = monotonic,
) -> JoinResponse:
    """The registry's answer, as soon as it can be reached. registry_ca: the CA of its public port (PEM); the system's
    if None. within: seconds after which a registry that is not reached is asked no more; one whose name does not exist
    is not asked again at all.

    Raises JoinError when it refuses, or is not trusted, and RegistryAway.
    """
    roots = _system_roots() if registry_ca is None else _read(registry_ca)
    demand_threads()
    pauses, logged, names, began = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE), "", Names(), clock()
    while True:
        lasting = False
        try:
            return await _ask(invitation, request, roots, names)
        except _Unresolved as error:
            fault, reason, lasting = CallFault.UNRESOLVED, str(error), error.lasting
        except aio.AioRpcError as error:
            code, details = error.code(), error.details() or error.code().name
            fault, reason = fault_of(code.name, details), reason_of(code.name, details, _REASONS)
            _demand_trust(fault, invitation.registry, registry_ca)
            if code not in _TEMPORARY:
                raise JoinError(
                    f"the registry at {invitation.registry} does not let this node join: {details}"
                ) from error
        pause = pauses.next()
        if within is not None and (lasting or clock() - began + pause > within):
            raise RegistryAway(fault, reason)
        if reason != logged:
            logged = reason
            logger.warning("waiting for the registry", extra={"registry": str(invitation.registry), "reason": reason})
        names.forget(invitation.registry.host)
        await asyncio.sleep(pause)


def _demand_trust(fault: CallFault, registry: Endpoint, registry_ca: Path | None) -> None:
    """Raise JoinError where a call failed because the registry's certificate is not accepted."""
    if fault is CallFault.WRONG_NAME:
        raise JoinError(
            f"the registry at {registry} is not trusted: its certificate is for other names than {registry.host}. Is "
            "that the name by which clients reach the registry?"
        )
    if fault is CallFault.UNTRUSTED:
        trusted = "one of the system's CAs" if registry_ca is None else f"the CA in {registry_ca}"
        raise JoinError(
            f"the registry at {registry} is not trusted: its certificate is not from {trusted}. Name the CA that "
            "issued it with --registry-ca"
        )


def _read(registry_ca: Path) -> bytes:
    try:
        return read_pem(registry_ca)
    except OSError as error:
        raise JoinError(f"cannot read --registry-ca {registry_ca}: {error.strerror}") from error


def _system_roots() -> bytes | None:
    try:
        return system_roots()
    except CertificateError as error:
        raise JoinError(f"the system's CAs cannot be used: {error}; or give --registry-ca FILE") from None


async def _ask(invitation: Invitation, request: JoinRequest, roots: bytes | None, names: Names) -> JoinResponse:
    """One Join call. Raises AioRpcError and _Unresolved."""
    credentials = grpc.ssl_channel_credentials(roots)
    target, options = await _target(invitation.registry, names)
    async with aio.secure_channel(
        target, credentials, options=(*options, *OWN_CONNECTIONS, *NO_PROXY_OF_ITS_OWN)
    ) as channel:
        metadata = (("authorization", f"Bearer {invitation.token}"),)
        return await EnrolmentStub(channel).Join(request, metadata=metadata, timeout=_ANSWERED_WITHIN)


async def _target(registry: Endpoint, names: Names) -> tuple[str, Options]:
    """What a channel is made with. Raises _Unresolved."""
    if is_address(registry):
        return str(registry), ()
    try:
        async with asyncio.timeout(LOOKUP_TIMEOUT):
            return target_of(registry, await names.addresses(registry.host))
    except TimeoutError:
        raise _Unresolved(f"no resolver answers for {registry.host} within {LOOKUP_TIMEOUT:g} s") from None
    except (OSError, UnicodeError) as error:
        lasting = isinstance(error, UnicodeError) or error.errno in _NO_SUCH_NAME
        reason = getattr(error, "strerror", "") or str(error)
        raise _Unresolved(f"the name {registry.host} does not resolve: {reason}", lasting=lasting) from error
