"""When the first bytes of a connection are enough: a whole ClientHello, a request without TLS, or something else.

Not here: waiting for them (portway_runtime.first_bytes), parsing (client_hello.py), what becomes of a connection
(public_port.py).
"""

from portway_relay.ingress.client_hello import Invalid, NeedMore, Parsed, parse
from portway_relay.net.plain_http import Request, read_request

FirstMessage = Parsed | Request | Invalid


def read_hello(data: bytes) -> FirstMessage | int:
    """What a connection begins with, or the number of bytes without which this cannot be said.

    What may become an HTTP request is waited for, so that its sender can be answered.
    """
    hello = parse(data)
    if isinstance(hello, NeedMore):
        return hello.size
    if isinstance(hello, Invalid):
        request = read_request(data)
        return hello if request is None else request
    return hello
