"""Renewing a node's certificate before it expires.

Here: when, and what happens to the new one. Not here: the call to the registry (registry_link/), files
(state_folder.py). A certificate is renewed at half its lifetime, so that registries may be unreachable for the other
half.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Final

from cryptography import x509
from portway_proto.v1.types_pb2 import NodeCertificate
from portway_runtime.backoff import jittered
from portway_runtime.certificates import authority_id, issued_by, issuer_id
from portway_runtime.clocks import UtcNow, utc_now
from portway_runtime.expiry import lifetime
from portway_runtime.tasks import Tasks

from portway_relay.config import NodeConfig
from portway_relay.errors import JoinError, RenewalFailed
from portway_relay.membership.state_folder import StateFolder

logger = logging.getLogger(__name__)

# Seconds. The wall clock is read again after at most this long: it may have been set, or the machine suspended.
_LONGEST_SLEEP: Final = 60.0
_SHORTEST_SLEEP: Final = 0.1
# Seconds in which all nodes renew when another CA issues.
_SPREAD: Final = 2.0
# Tries in the second half of a certificate's lifetime, about.
_TRIES: Final = 50


class Renewal:
    """Keeps the certificate in a state folder valid."""

    def __init__(
        self,
        folder: StateFolder,
        node: str,
        request_certificate: Callable[[bytes], Awaitable[NodeCertificate]],
        on_renewed: Callable[[], object],
        *,
        on_failure: Callable[[BaseException], None],
        now: UtcNow = utc_now,
    ) -> None:
        """request_certificate: exchanges a request (PKCS #10, DER) for a certificate, or raises RenewalFailed.
        on_renewed: called when the files in the folder were replaced.
        """
        self._folder = folder
        self._node = node
        self._request_certificate = request_certificate
        self._on_renewed = on_renewed
        self._now = now
        self._issuer = ""  # the id of the CA that issues now; "" when no registry has said it
        self._woken = asyncio.Event()
        self._logged: tuple[str, bool] | None = None  # reason and whether the certificate had expired
        self._tasks = Tasks("renewal", on_failure)

    def start(self) -> None:
        self._tasks.spawn(self._keep_valid(), name="keep the certificate valid")

    async def close(self) -> None:
        await self._tasks.close()

    def learn_authorities(self, cluster_ca: bytes, issuer: str) -> None:
        """Trust these CAs (PEM) from now on, and renew soon when this node's certificate is from another than `issuer`.

        CAs that cannot be used, or that did not issue this node's own certificate, are logged, and those before stay in
        use: nobody would trust this node then.
        """
        try:
            trusted = x509.load_pem_x509_certificates(cluster_ca)
            own = self._folder.certificate()
            if not issued_by(own, trusted):
                logger.error(
                    "the registry trusts this node's certificate no more, so that its CAs are not taken over: invite "
                    "the node anew (`portway-admin node invite`) and start it with --join-file FILE"
                )
                return
            if cluster_ca != self._folder.authorities():
                self._folder.store_authorities(cluster_ca)
                logger.info("CAs changed", extra={"trusted": ", ".join(map(authority_id, trusted))})
                self._on_renewed()
        except (JoinError, ValueError) as error:
            logger.error("the registry's CAs cannot be used, those before stay in use: %s", error)
            return
        self._issuer = issuer
        if not self._is_from_issuer(own):
            self._woken.set()

    async def _keep_valid(self) -> None:
        certificate = self._folder.certificate()
        while True:
            self._woken.clear()
            wait = (renewal_time(certificate) - self._now()).total_seconds()
            if wait <= 0 or not self._is_from_issuer(certificate):
                newer = await self._renew(certificate)
                # Spread over the nodes: all of them may have found their registry unreachable.
                wait = jittered(lifetime(certificate).total_seconds() / 2 / _TRIES)
                certificate = newer or certificate
            try:
                async with asyncio.timeout(min(max(wait, _SHORTEST_SLEEP), _LONGEST_SLEEP)):
                    await self._woken.wait()
            except TimeoutError:
                continue
            # Spread over the nodes, which hear of another CA at the same moment.
            await asyncio.sleep(jittered(_SPREAD))

    def _is_from_issuer(self, certificate: x509.Certificate) -> bool:
        """Whether it is from the CA that issues now, as far as a registry has said."""
        try:
            trusted = x509.load_pem_x509_certificates(self._folder.authorities())
        except (JoinError, ValueError):
            return True
        return not self._issuer or issuer_id(certificate, trusted) == self._issuer

    async def _renew(self, certificate: x509.Certificate) -> x509.Certificate | None:
        """The next certificate, which is stored; None when there is none now. A folder that cannot be written to does
        not stop the node."""
        try:
            self._folder.store_renewed(await self._request_certificate(self._folder.renewal_request(self._node)))
            newer = self._folder.certificate()
        except (RenewalFailed, JoinError) as error:
            self._log_failure(str(error), certificate)
            return None
        self._logged = None
        logger.info("certificate renewed", extra={"until": f"{newer.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"})
        self._on_renewed()
        return newer

    def _log_failure(self, reason: str, certificate: x509.Certificate) -> None:
        """Log each reason once, and again when the certificate has expired."""
        expired = self._now() >= certificate.not_valid_after_utc
        if (reason, expired) == self._logged:
            return
        self._logged = (reason, expired)
        until = f"{certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
        if expired:
            logger.error(
                "this node's certificate has expired and no other party trusts it any more: invite the node anew "
                "(`portway-admin node invite`) and start it with --join-file FILE",
                extra={"until": until, "reason": reason},
            )
        else:
            logger.warning("certificate not renewed, trying again", extra={"until": until, "reason": reason})


def renewal_for(
    config: NodeConfig,
    request_certificate: Callable[[bytes], Awaitable[NodeCertificate]],
    on_renewed: Callable[[], object],
    *,
    on_failure: Callable[[BaseException], None],
) -> Renewal | None:
    """The renewal of a node with a state folder; None for a node that was given its certificate, which its operator
    replaces."""
    if config.state_dir is None:
        return None
    return Renewal(StateFolder(config.state_dir), config.name, request_certificate, on_renewed, on_failure=on_failure)


def renewal_time(certificate: x509.Certificate) -> datetime:
    """When to request the next certificate."""
    return certificate.not_valid_after_utc - lifetime(certificate) / 2
