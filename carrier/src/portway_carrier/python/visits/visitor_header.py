"""The PROXY header that a connection to a local server begins with: what OPEN said of the visitor.

Not here: the protocol (portway_runtime.proxy_protocol), writing it (served.py).
"""

from typing import Final

from portway_proto.wire.frames import Opening, VisitKind
from portway_runtime.endpoints import Endpoint
from portway_runtime.proxy_protocol import ProxyHeader, encode_v1, encode_v2, tls_tlvs

from portway_carrier.values import ProxyHeaderForm

# As OpenSSL and HAProxy write them.
_TLS_NAMES: Final = {0x0303: "TLSv1.2", 0x0304: "TLSv1.3"}


def visitor_header(form: ProxyHeaderForm, opening: Opening) -> bytes:
    """The header for one visit. OPEN does not say which of the cluster's addresses the visitor came to: its place is
    taken by the one that is none, 0.0.0.0 or ::, with the tunnel's port."""
    source = Endpoint(opening.visitor_host, opening.visitor_port)
    port = form.tls_port if opening.kind is VisitKind.TLS else form.raw_port
    destination = Endpoint("::" if ":" in source.host else "0.0.0.0", port)
    if form.version == 1:
        return encode_v1(ProxyHeader(source, destination))
    version = _TLS_NAMES.get(opening.tls_version, "")
    tlvs = tls_tlvs(version=version, server_name=opening.server_name, alpn=opening.alpn)
    return encode_v2(ProxyHeader(source, destination, tlvs))
