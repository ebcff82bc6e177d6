"""The settings of a machine's programs, as the text of their files.

Here: which settings a planned machine needs, and what each is for. Not here: finding their values (plan.py), writing
the files (writing.py).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from portway_runtime.endpoints import Endpoint

from portway_server.plan import Plan
from portway_server.toml import Line, rendered

REGISTRY: Final = "registry.toml"
RELAY: Final = "relay.toml"
SERVER: Final = "server.toml"
REGISTRY_USER: Final = "portway-registry"
RELAY_USER: Final = "portway-relay"
_OWN: Final = "It is yours to edit: `portway-server` does not write it again."
# The default one: its accounts need no contract.
LETS_ENCRYPT: Final = "https://acme-v02.api.letsencrypt.org/directory"
_LOOPBACK: Final = "127.0.0.1"


def registry_file(plan: Plan, certificate: tuple[Path, Path] | None) -> str:
    """registry.toml. `certificate`: that of its public port with its key, if it does not obtain one itself."""
    wishes, state = plan.wishes, registry_state(plan)
    etcd, acme = wishes.etcd, wishes.acme
    own = acme if certificate is None else type(acme)()
    return rendered(
        [
            f"The registry of {wishes.domain}: `portway-registry serve --help` lists every setting.",
            _OWN,
        ],
        [
            Line("domain", wishes.domain, "of the tunnels; nodes that serve another one are refused"),
            Line(
                "listen",
                f"{plan.any_address}:{wishes.ports.registry}",
                "clients and operators, who also come through every node's public port",
            ),
            Line(
                "advertise",
                str(Endpoint(plan.public[0], wishes.ports.registry)),
                "where nodes reach that, to pass connections for the registry on",
            ),
            Line("mesh_listen", f"{plan.any_address}:{wishes.ports.mesh}", "nodes"),
            Line(
                "mesh_advertise",
                [str(Endpoint(address, wishes.ports.mesh)) for address in plan.public],
                "where the nodes of other machines reach that",
            ),
            Line(
                "store",
                f"etcd:{etcd.urls}" if etcd.urls else f"embedded:{state / 'registry.db'}",
                "" if etcd.urls else "one file; several registries share an etcd",
            ),
            Line("etcd_ca", etcd.ca),
            Line("etcd_cert", etcd.cert),
            Line("etcd_key", etcd.key),
            Line("etcd_user", etcd.user),
            Line("etcd_password_file", etcd.password_file),
            Line("admin_token_file", state / "admin-token", "the first start of a cluster writes it"),
            Line("tls_cert", certificate and certificate[0], "of the name that clients and operators use"),
            Line("tls_key", certificate and certificate[1]),
            Line(
                "acme_directory",
                None if certificate else own.directory or LETS_ENCRYPT,
                "the ACME server that certificates are obtained from, by whose terms of service you abide",
            ),
            Line("acme_email", own.email, "of the account there"),
            Line("acme_ca", own.ca, "its CA"),
            Line("acme_eab_key_id", own.eab_key_id, "the account at the CA"),
            Line("acme_eab_key_file", own.eab_key_file),
            Line(
                "acme_key_file",
                None if certificate else own.key_file or state / "acme.key",
                "wraps the private keys that are in the store; every registry needs the same",
            ),
            Line("backup_dir", state / "backups", "a back-up each day, the newest 14; copy them to another machine"),
            Line("check_private_addresses", "yes" if plan.is_private else None, "this network is private"),
            Line("metrics_listen", f"{_LOOPBACK}:{plan.metrics[1]}", "for Prometheus"),
        ],
    )


def relay_file(plan: Plan, registries: Sequence[str], certificates: Sequence[tuple[Path, Path]]) -> str:
    """relay.toml. `registries`: the mesh addresses of registries. `certificates`: those of regions with their keys, if
    registries do not hand them to the node."""
    wishes = plan.wishes
    return rendered(
        [f"A relay node of {wishes.domain}: `portway-relay serve --help` lists every setting.", _OWN],
        [
            Line("name", wishes.name, "unique in the cluster"),
            Line("region", wishes.region),
            Line("domain", wishes.domain),
            Line("listen", f"*:{wishes.ports.public}", "visitors, clients, other nodes"),
            Line("advertise", plan.advertise, "where clients and other nodes dial it"),
            Line("public_address", list(plan.public), "what names of this node lead to"),
            Line("dns_listen", list(plan.dns_listen) or None, "it answers for the domain"),
            Line("registry", list(registries), "the registries' ports for nodes; it is told of later ones"),
            Line("state_dir", relay_state(plan), "its key and certificates"),
            Line("latitude", wishes.latitude, "from the address; correct it if it is wrong"),
            Line("longitude", wishes.longitude),
            Line("tls_cert", [str(cert) for cert, _ in certificates] or None, "of regions"),
            Line("tls_key", [str(key) for _, key in certificates] or None),
            Line("admin_listen", f"{_LOOPBACK}:{plan.metrics[0]}", "health, and metrics for Prometheus"),
        ],
    )


def server_file(plan: Plan, registry_name: str) -> str:
    """server.toml, which names the other two."""
    wishes = plan.wishes
    users = wishes.separate_users
    return rendered(
        [f"What `portway-server up` runs on this machine of {wishes.domain}.", _OWN],
        [
            Line("registry_config", wishes.config_dir / REGISTRY if wishes.registry else None),
            Line("relay_config", wishes.config_dir / RELAY),
            Line("registry_name", registry_name, "where clients and operators reach the registry"),
            Line("state_dir", server_state(plan), "the first client's line"),
            Line("registry_user", REGISTRY_USER if users and wishes.registry else None, "the registry runs as it"),
            Line("relay_user", RELAY_USER if users else None, "the relay node runs as it"),
        ],
    )


def registry_state(plan: Plan) -> Path:
    return plan.wishes.state_dir / "portway-registry"


def relay_state(plan: Plan) -> Path:
    return plan.wishes.state_dir / "portway-relay"


def server_state(plan: Plan) -> Path:
    return plan.wishes.state_dir / "portway-server"
