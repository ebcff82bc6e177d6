"""The way into a cluster: an invitation's token becomes a certificate, once; a node started again goes on with it.

Here: when a token is used, and what is said when it cannot be. Not here: files (kept.py), later certificates
(renewal.py).
"""

import asyncio
import logging
import random
import re
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

import grpc
from grpc import aio
from portway_proto.v1.enrolment_pb2 import JoinRequest
from portway_proto.v1.enrolment_pb2_grpc import EnrolmentStub
from portway_proto.v1.types_pb2 import NodeCertificate
from portway_runtime.clocks import UtcNow, utc_now
from portway_runtime.identities import dns_names

from portway_relay.config import NodeConfig
from portway_relay.errors import ConfigError, JoinError
from portway_relay.membership.state_folder import StateFolder

logger = logging.getLogger(__name__)

_FORM: Final = re.compile(r"(?P<token>pwj_(?P<id>[a-z0-9]{1,32})_[a-z2-7]{32})(?:@(?P<address>.+))?")
_ANSWERED_WITHIN: Final = 10.0
_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 10.0
_PASSING: Final = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})


@dataclass(frozen=True, slots=True)
class Invitation:
    """A token, and the registry (HOST:PORT, where clients are served) that made it."""

    id: str
    token: str = field(repr=False)
    address: str


def parse_invitation(text: str) -> Invitation:
    """TOKEN@HOST:PORT. Raises ConfigError, which does not repeat it."""
    match = _FORM.fullmatch(text.strip())
    if match is None:
        raise ConfigError(
            "--join is no invitation: one has the form pwj_<id>_<secret>@HOST:PORT, as `portway-admin node invite` "
            "prints it"
        )
    if match["address"] is None or not re.fullmatch(r".+:\d{1,5}", match["address"]):
        raise ConfigError(
            "--join does not say where: put @HOST:PORT of the registry (its port for clients) behind the token"
        )
    return Invitation(match["id"], match["token"], match["address"])


async def enter(config: NodeConfig, now: UtcNow = utc_now) -> None:
    """See to it that a node which lives by invitation has a good certificate, joining if it has to.

    Nothing for a node that was given its certificate. Waits while the registry cannot be reached. Raises JoinError.
    """
    if config.state_dir is None:
        return
    kept = StateFolder(config.state_dir)
    invitation = None if config.join is None else parse_invitation(config.join)
    if kept.invitation is not None and (invitation is None or invitation.id == kept.invitation):
        _demand_good(kept, config, now())
        return
    if invitation is None:
        raise JoinError(
            f"this node has no certificate: there is none in {config.state_dir}. Invite it (`portway-admin node invite "
            f"--region {config.region}`) and start it with --join TOKEN, or give --cert, --key and --cluster-ca"
        )
    request = JoinRequest(node=config.name, region=config.region, csr=kept.new_request(invitation.id, config.name))
    kept.joined(invitation.id, await _join(invitation, request, config.registry_ca))
    logger.info("joined the cluster", extra={"node": config.name, "invitation": invitation.id})


def _demand_good(kept: StateFolder, config: NodeConfig, now: datetime) -> None:
    """Whether the kept certificate is this node's and not over. Raises JoinError."""
    certificate = kept.certificate()
    names = dns_names(certificate)
    again = (
        f"`portway-admin node invite --region {config.region} --name {config.name}`, then start it with --join TOKEN"
    )
    if config.server_name not in names:
        raise JoinError(
            f"{kept.folder} holds the certificate of another node ({', '.join(names)}): give {config.name} a folder of "
            f"its own with --state-dir, or invite it anew ({again})"
        )
    if certificate.not_valid_after_utc <= now:
        raise JoinError(
            f"this node's certificate in {kept.folder} has expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} "
            f"UTC, so that nobody trusts it any more: invite it anew ({again})"
        )


async def _join(invitation: Invitation, request: JoinRequest, registry_ca: Path | None) -> NodeCertificate:
    """The registry's answer, as soon as it can be reached. Raises JoinError when it refuses."""
    roots = None if registry_ca is None else _read(registry_ca)
    pause, said = _FIRST_PAUSE, ""
    while True:
        try:
            return await _ask(invitation, request, roots)
        except aio.AioRpcError as error:
            details = error.details() or error.code().name
            if "CERTIFICATE_VERIFY_FAILED" in details or "Hostname Verification" in details:
                trusted = "the system's CAs (name the right one with --registry-ca)" if roots is None else registry_ca
                raise JoinError(
                    f"the registry at {invitation.address} is not trusted: its certificate is not from {trusted}, or "
                    "not for this name"
                ) from error
            if error.code() not in _PASSING:
                raise JoinError(
                    f"the registry at {invitation.address} does not let this node join: {details}"
                ) from error
            if details != said:
                said = details
                logger.warning("waiting for the registry", extra={"registry": invitation.address, "reason": details})
        await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - spreads retries only
        pause = min(2 * pause, _LONGEST_PAUSE)


def _read(registry_ca: Path) -> bytes:
    try:
        return registry_ca.read_bytes()
    except OSError as error:
        raise JoinError(f"cannot read --registry-ca {registry_ca}: {error.strerror}") from error


async def _ask(invitation: Invitation, request: JoinRequest, roots: bytes | None) -> NodeCertificate:
    credentials = grpc.ssl_channel_credentials(roots)
    # Without a pool of its own a new channel would wait out the back-off of the one before.
    options = (("grpc.use_local_subchannel_pool", 1),)
    async with aio.secure_channel(invitation.address, credentials, options=options) as channel:
        shown = (("authorization", f"Bearer {invitation.token}"),)
        answer = await EnrolmentStub(channel).Join(request, metadata=shown, timeout=_ANSWERED_WITHIN)
    return answer.certificate
