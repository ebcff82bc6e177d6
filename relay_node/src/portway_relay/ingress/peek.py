"""When the first bytes of a connection are enough: a whole ClientHello, a request without TLS, or something else.

Not here: waiting for them (portway_runtime.first_bytes), parsing (client_hello.py), what becomes of a connection
(public_port.py).
"""

from portway_runtime.parse_results import Invalid, NeedMore

from portway_relay.ingress.client_hello import Parsed, parse
from portway_relay.net.plain_http import Request, read_request

FirstMessage = Parsed | Request | Invalid


def read_hello(data: bytes) -> FirstMessage | NeedMore:
    """What a connection begins with. What may become an HTTP request is waited for, so that its sender can be
    answered."""
    hello = parse(data)
    if isinstance(hello, Invalid):
        request = read_request(data)
        return hello if request is None else request
    return hello
