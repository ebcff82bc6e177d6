"""When the first bytes of a connection are enough: a whole ClientHello, or something else.

Not here: waiting for them (portway_runtime.first_bytes), parsing (client_hello.py), what becomes of a connection
(public_port.py).
"""

from portway_relay.ingress.client_hello import Invalid, NeedMore, Parsed, parse
from portway_relay.net.plain_http import LONGEST_METHOD, may_become_http


def read_hello(data: bytes) -> Parsed | Invalid | int:
    """What a connection begins with, or the number of bytes without which this cannot be said.

    What may become the method of an HTTP request is waited for, so that its sender can be answered.
    """
    hello = parse(data)
    if isinstance(hello, NeedMore):
        return hello.size
    if isinstance(hello, Invalid) and may_become_http(data):
        return LONGEST_METHOD
    return hello
