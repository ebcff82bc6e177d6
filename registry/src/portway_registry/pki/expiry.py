"""When the registry's certificates and the cluster's CAs end, and what their operator does then.

Not here: the warnings (portway_runtime.expiry). What the registry issues to itself is replaced in time by itself.
"""

from collections.abc import Callable
from pathlib import Path

from cryptography import x509
from portway_runtime.expiry import Watched
from portway_runtime.identities import UNREADABLE

from portway_registry.pki.cluster_authority import ClusterAuthority
from portway_registry.pki.port_certificates import CertificateFiles, PortCertificate


def watched_certificates(
    public: CertificateFiles | None,
    mesh: PortCertificate,
    authority: ClusterAuthority,
    etcd: Path | None = None,
    obtained: Callable[[], dict[str, Watched]] = dict,
) -> Callable[[], dict[str, Watched]]:
    """A function that returns what is in use now: the certificates of the ports, `public` and `mesh`, where they are
    from files; the CAs as `ca-<id>`; `etcd`, the certificate in this file, which is shown to etcd until the registry
    stops; those that the registry has obtained, by their zones. One that cannot be read is the store's to refuse."""
    shown_to_etcd = None if etcd is None else _read(etcd)
    ports = {} if public is None else {"public": public}
    if isinstance(mesh, CertificateFiles) and mesh is not public:
        ports["mesh"] = mesh

    def watched() -> dict[str, Watched]:
        found = {
            name: Watched(port.current().certificate, f"put a new one in the place of {port.named}")
            for name, port in ports.items()
        }
        for one, certificate in authority.trusted.items():
            found[f"ca-{one}"] = Watched(certificate, _remedy(authority, one))
        if shown_to_etcd is not None:
            remedy = f"put a new one in the place of --etcd-cert {etcd}, and start the registry again"
            found["etcd"] = Watched(shown_to_etcd, remedy)
        return found | obtained()

    return watched


def _read(path: Path) -> x509.Certificate | None:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, *UNREADABLE):
        return None


def _remedy(authority: ClusterAuthority, one: str) -> str:
    if authority.from_files:
        return "replace the CA in the file of --cluster-ca, in the stages of docs/rotation.md"
    if one == authority.issuer_id:
        return "replace the CA (`portway-admin ca rotate`)"
    return f"another CA issues by now: retire this one (`portway-admin ca retire {one}`)"
