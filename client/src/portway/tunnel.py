"""What a program gets to know of its tunnel. Opening and closing it is not here."""

from dataclasses import dataclass

from portway.errors import InvalidError

HTTPS_PORT = 443


@dataclass(frozen=True)
class Tunnel:
    """The public address of a forwarded port. Fields and properties are those of Modal's `Tunnel`."""

    host: str
    port: int
    unencrypted_host: str = ""
    unencrypted_port: int = 0

    @property
    def url(self) -> str:
        """`https://HOST`, with the port when it is not 443."""
        return f"https://{self.host}" if self.port == HTTPS_PORT else f"https://{self.host}:{self.port}"

    @property
    def tls_socket(self) -> tuple[str, int]:
        """Host and port for a TLS connection."""
        return (self.host, self.port)

    @property
    def tcp_socket(self) -> tuple[str, int]:
        """Host and port for a connection without TLS. Raises InvalidError when the tunnel has none."""
        if not self.unencrypted_host:
            raise InvalidError("this tunnel has no unencrypted port: open it with forward(port, unencrypted=True)")
        return (self.unencrypted_host, self.unencrypted_port)
