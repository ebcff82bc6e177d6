"""What is needed of the cluster's DNS to prove to an ACME server whose a name is (DNS-01, RFC 8555, section 8.4).

Here: the contract alone.
"""

from typing import Protocol


class Publisher(Protocol):
    """Has the DNS servers of the domain answer with TXT records while an order is open."""

    async def publish(self, name: str, value: str) -> None:
        """Answer with it from now on: returns once all servers do, or after some seconds. Several values of one name
        are answered together."""
        ...

    async def withdraw(self, name: str, value: str) -> None:
        """Answer with it no more. One that is not published is not an error."""
        ...
