"""TLS towards an HTTP proxy whose URL begins with https://. Not here: TLS through it."""

import os
import ssl
from functools import lru_cache

from portway_runtime.errors import CertificateError, ProxyFailed
from portway_runtime.proxies import Proxy
from portway_runtime.trusted_roots import system_roots


def context_for(proxy: Proxy) -> ssl.SSLContext:
    """A client's context that trusts the system's CAs as they are now. Raises ProxyFailed."""
    try:
        return _context(system_roots(), os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))
    except (CertificateError, ssl.SSLError, ValueError) as error:
        raise ProxyFailed(f"{proxy}, cannot be trusted: the system's CAs cannot be used: {error}") from None


@lru_cache(maxsize=1)
def _context(roots: bytes | None, *_: str | None) -> ssl.SSLContext:
    """The same one for the same CAs: reading 144 of them takes 19 ms, and each lane needs one. Without `roots` OpenSSL
    finds its own, by the variables."""
    return ssl.create_default_context(cadata=None if roots is None else roots.decode("latin-1"))


def tls_failure(proxy: Proxy, error: OSError) -> ProxyFailed:
    """What a handshake with a proxy that failed with `error` means."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return ProxyFailed(
            f"{proxy}, has a certificate that is not trusted ({error.verify_message}): add its CA to the system's, or "
            "name it with SSL_CERT_FILE",
            lasting=True,
        )
    if isinstance(error, ssl.SSLError):
        return ProxyFailed(f"{proxy}, does not speak TLS ({error.reason or error}): is it an http:// proxy?")
    return ProxyFailed(f"{proxy}, ended the connection in the TLS handshake: is it an http:// proxy?")
