"""Every error of the registry and of portway-admin.

RegistryError
├── ConfigError            a file, flag or variable that cannot be used; says which and what would do
├── StoreError             the store did not do what was asked
│   ├── StoreUnavailable   it cannot be reached now; a write may or may not have happened
│   │   └── StoreFull      it has no room for a write, which has not happened
│   ├── LeaseLost          the lease is unknown or has run out
│   └── Compacted          a watch asked for revisions that are gone: list again, watch from there
├── CallError              a refused call; its text is sent to the caller and says what to do
│   ├── NotAuthenticated   the caller cannot be identified
│   │   ├── TokenMissing, TokenMalformed, TokenUnknown, TokenRevoked
│   │   ├── InvitationUnknown, InvitationOver
│   │   ├── NotANode       no certificate that names a node
│   │   ├── CertificateUntrusted   its CA is retired
│   │   └── CertificateSuperseded  another node has joined under this name since
│   ├── NotAllowed         the caller is identified, and has no permission
│   │   └── NameTaken      another node has this name
│   ├── NotServed          no such method on this port
│   ├── InvalidRequest     the request cannot be understood or contradicts itself
│   │   └── MalformedMessage  it cannot be decoded
│   ├── NotFound           no such node, tunnel or token
│   ├── NotYet             a change that something still stands against; says what, and when it is possible
│   ├── NoGrantKey         there is no key to sign a grant with
│   ├── NoCandidate        no node can accept the client now
│   ├── Busy               too many expensive calls of all callers together
│   ├── Exhausted          too many expensive calls of this caller
│   ├── QuotaFull          the caller's tenant or token has as many tunnels as it may have
│   ├── NodeRemoved        an operator removed the node that calls
│   ├── Replaced           a newer session of the same node has taken over
│   ├── MessageLate        a call's message does not come
│   ├── FellSilent         a node sends nothing though its stream is open
│   └── FellBehind         a watcher does not read
├── AcmeFailed             an ACME server refused a request, or did not answer
└── PkiError               a certificate or key that cannot be made, read or trusted

Callers of the services get a gRPC status in place of an exception, by the table in services/error_status.py.
"""


class RegistryError(Exception):
    """Base of every error this distribution raises."""


class ConfigError(RegistryError):
    """A setting that cannot be used."""


class StoreError(RegistryError):
    """The store did not do what was asked."""


class StoreUnavailable(StoreError):
    """The store cannot be reached; a write that ended this way may or may not have happened."""


class StoreFull(StoreUnavailable):
    """The store has no room for a write, which has not happened. Reads are answered."""


class LeaseLost(StoreError):
    """The lease is unknown to the store, or has run out."""


class Compacted(StoreError):
    """The revision asked for is gone.

    `revision` is the oldest that can still be watched from; what happened before must be listed.
    """

    def __init__(self, revision: int) -> None:
        super().__init__(f"revisions before {revision} were compacted: list again and watch from there")
        self.revision = revision


class PkiError(RegistryError):
    """A certificate or key that cannot be made, read or trusted."""


class AcmeFailed(RegistryError):
    """An ACME server refused a request, cannot be reached, or its certificate cannot be used. The text is one line.

    `code` is the protocol's error type, "" without one; `retry_after` the seconds for which the server wants no further
    try, 0 when it says nothing.
    """

    def __init__(self, reason: str, *, code: str = "", retry_after: float = 0.0) -> None:
        super().__init__(reason)
        self.code = code
        self.retry_after = retry_after


class CallError(RegistryError):
    """A refused call. The text is sent to the caller, and must say nothing internal."""


class NotAuthenticated(CallError):
    """The caller cannot be identified."""


class TokenMissing(NotAuthenticated):
    """The call carries no API token."""

    def __init__(self) -> None:
        super().__init__(
            "no API token: send `authorization: Bearer pw_...` (PORTWAY_TOKEN; `portway-admin token create` makes one)"
        )


class TokenMalformed(NotAuthenticated):
    """What the call carries does not have the form of a token."""

    def __init__(self) -> None:
        super().__init__(
            "this is not an API token, which has the form pw_<id>_<secret>: look for a cut or doubled copy in "
            "PORTWAY_TOKEN"
        )


class TokenUnknown(NotAuthenticated):
    """No such token, or a wrong secret; the text is the same for both."""

    def __init__(self) -> None:
        super().__init__("this cluster does not know the API token: check that it is whole and for this registry")


class TokenRevoked(NotAuthenticated):
    """The token was valid once. Said only to a caller that shows its secret."""

    def __init__(self) -> None:
        super().__init__("the API token is revoked: ask for a new one (`portway-admin token create`)")


class InvitationUnknown(NotAuthenticated):
    """No such invitation, or a wrong secret; the text is the same for both."""

    def __init__(self) -> None:
        super().__init__(
            "this cluster does not know the invitation: check that the token is whole and for this registry, or make a "
            "new one (`portway-admin node invite`)"
        )


class InvitationOver(NotAuthenticated):
    """The invitation was valid once. Said only to a caller that shows its secret."""

    def __init__(self, why: str) -> None:
        super().__init__(f"the invitation {why}: make a new one (`portway-admin node invite`)")


class CertificateSuperseded(NotAuthenticated):
    """Another node has joined under this name since the certificate was issued."""

    def __init__(self, node: str) -> None:
        super().__init__(
            f"another node has joined as {node} since this certificate was issued: invite this one under a name of its "
            "own (`portway-admin node invite`)"
        )


class CertificateUntrusted(NotAuthenticated):
    """The certificate is from a CA that was retired after the connection was opened with it."""

    def __init__(self, node: str) -> None:
        super().__init__(
            f"the CA of the certificate that node {node} has shown is retired: connect anew with a newer one, or "
            "invite the node anew (`portway-admin node invite`)"
        )


class NotANode(NotAuthenticated):
    """The peer shows no certificate that names a node."""

    def __init__(self) -> None:
        super().__init__(
            "no node certificate: this is for nodes, on the registry's mesh port, with a certificate of the "
            "cluster's CA (`portway-admin node invite` lets a node join)"
        )


class NotAllowed(CallError):
    """The caller is identified, and has no permission for this."""


class NameTaken(NotAllowed):
    """Another node has joined under this name, or is registered with it."""

    def __init__(self, node: str, region: str) -> None:
        super().__init__(
            f"the name {node} is another node's: choose another with --name, or, to replace that node, invite by name "
            f"(`portway-admin node invite --region {region} --name {node}`)"
        )


class NotServed(CallError):
    """No such method on this port of this release."""


class InvalidRequest(CallError):
    """The request cannot be understood, or contradicts itself."""


class MalformedMessage(InvalidRequest):
    """A message cannot be decoded."""

    def __init__(self) -> None:
        super().__init__("the message cannot be decoded: is the caller of another release, or no Portway program?")


class NotFound(CallError):
    """No such node, tunnel or token."""


class NotYet(CallError):
    """A change that something still stands against; the text says what, and when the change is possible."""


class NoGrantKey(CallError):
    """There is no key to sign a grant with."""

    def __init__(self) -> None:
        super().__init__(
            "this registry has lost the keys that sign grants, and makes a new one as soon as its store lets it: try "
            "again in a few seconds (its log says more)"
        )


class NoCandidate(CallError):
    """No node can accept the client now."""


class Busy(CallError):
    """Too many expensive calls of all callers together; a later one may succeed."""


class Exhausted(CallError):
    """The caller itself makes too many expensive calls."""


class MessageLate(CallError):
    """A call's message did not come in time."""


class QuotaFull(CallError):
    """The caller's tenant or token has as many tunnels as it may have."""


class FellSilent(CallError):
    """A node sends nothing, though its stream is open."""


class NodeRemoved(CallError):
    """An operator removed the node."""

    def __init__(self, node: str) -> None:
        super().__init__(
            f"this node was removed from the cluster: to let it join again, invite it anew (`portway-admin node invite "
            f"--name {node} --region ...`)"
        )


class Replaced(CallError):
    """A newer session of the same node has taken over."""


class FellBehind(CallError):
    """The caller does not read the changes that it watches."""
