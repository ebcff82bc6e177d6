"""The layout of the store: which key holds what.

Here: names of keys. Not here: the values under them, nor how they are read.

    nodes/<node>       NodeInfo, on the node's lease
    tunnels/<label>    TunnelInfo, on the lease of its home node
    presences/<hex of the session key>  the newest presence of a session (WIRE.md, section 8.3); on no lease
    tokens/<id>        TokenRecord
    tenants/<name>     TenantRecord; absent for a tenant with the default quota
    grant-keys/<kid>   GrantKeyRecord
    replicas/<id>      ReplicaRecord: a registry replica that lives, on a lease of its own
    orders/<node>      OrderRecord; absent for a node without an order
    ports/<region>/<first>  PortBlockRecord: the owner of the block of raw ports from `first` on; on no lease
    authority          AuthorityRecord: the cluster's own CA, its key included
    front-key          FrontKeyRecord: what nodes' keys for PROXY headers are made of
    invitations/<id>   InvitationRecord
    identities/<node>  IdentityRecord: the last node that joined under this name
    audit/<when>-<id>  AuditRecord; sorts by time
    audit-failures/<when>-<id>  AuditRecord of failed authentications; sorts by time
    dns/records/<id>   StaticRecord: a record of the cluster's zone that operators added
    dns/challenges/<id>      ChallengeRecord: a proof for a certificate authority
    dns/name-servers/<n>     NameServerRecord: the node that is ns<n>.<domain>
    certificates/<zone>  CertificateRecord: a certificate that the registry obtained, its key wrapped
    acme/accounts/<id>   AcmeAccountRecord: an account with an ACME server, its key wrapped
    acme/turn            the replica that obtains certificates now, on a lease of its own
    acme/key-id          the id of the key that wraps private keys, which is not in the store
    settings           SettingsRecord
"""

from typing import Final

ROOT: Final = "/portway/v1/"
NODES: Final = ROOT + "nodes/"
TUNNELS: Final = ROOT + "tunnels/"
PRESENCES: Final = ROOT + "presences/"
TOKENS: Final = ROOT + "tokens/"
TENANTS: Final = ROOT + "tenants/"
GRANT_KEYS: Final = ROOT + "grant-keys/"
REPLICAS: Final = ROOT + "replicas/"
ORDERS: Final = ROOT + "orders/"
PORTS: Final = ROOT + "ports/"
AUTHORITY: Final = ROOT + "authority"
FRONT_KEY: Final = ROOT + "front-key"
INVITATIONS: Final = ROOT + "invitations/"
IDENTITIES: Final = ROOT + "identities/"
AUDIT: Final = ROOT + "audit/"
AUDIT_FAILURES: Final = ROOT + "audit-failures/"
DNS: Final = ROOT + "dns/"
CERTIFICATES: Final = ROOT + "certificates/"
ACME_ACCOUNTS: Final = ROOT + "acme/accounts/"
ACME_TURN: Final = ROOT + "acme/turn"
ACME_KEY_ID: Final = ROOT + "acme/key-id"
SETTINGS: Final = ROOT + "settings"


def node(name: str) -> str:
    return NODES + name


def tunnel(label: str) -> str:
    return TUNNELS + label


def presence(session_key: bytes) -> str:
    return PRESENCES + session_key.hex()


def token(token_id: str) -> str:
    return TOKENS + token_id


def tenant(name: str) -> str:
    return TENANTS + name


def grant_key(kid: str) -> str:
    return GRANT_KEYS + kid


def replica(replica_id: str) -> str:
    return REPLICAS + replica_id


def order(node_name: str) -> str:
    return ORDERS + node_name


def invitation(invitation_id: str) -> str:
    return INVITATIONS + invitation_id


def identity(node_name: str) -> str:
    return IDENTITIES + node_name


def port_block(region: str, first: int) -> str:
    """Five digits hold every port, so that keys sort by port."""
    return f"{PORTS}{region}/{first:05d}"


def certificate(zone: str) -> str:
    return CERTIFICATES + zone


def acme_account(account_id: str) -> str:
    return ACME_ACCOUNTS + account_id


def audit(at_ms: int, unique: str) -> str:
    """13 digits hold milliseconds until the year 2286, so that keys sort by time."""
    return f"{AUDIT}{at_ms:013d}-{unique}"


def audit_failure(at_ms: int, unique: str) -> str:
    """As `audit`."""
    return f"{AUDIT_FAILURES}{at_ms:013d}-{unique}"


def dns_record(record_id: str) -> str:
    return f"{DNS}records/{record_id}"


def challenge(challenge_id: str) -> str:
    return f"{DNS}challenges/{challenge_id}"


def name_server(number: int) -> str:
    return f"{DNS}name-servers/{number}"
