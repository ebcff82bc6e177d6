"""How many answers a network gets over UDP: a server that answers whatever a forged address asks floods its owner.

Above the rate every second query is answered with the request to come over TCP, which a forged address cannot; the rest
not at all. Such an answer is as long as the query.
"""

from enum import Enum
from typing import Final

from portway_runtime.clocks import Monotonic
from portway_runtime.rates import KeyedRate, address_prefixes

# Networks that have a bucket: 4 MB. A forged flood from more of them is bounded by the loop's share alone.
_NETWORKS: Final = 16_384


class Verdict(Enum):
    ANSWER = "answer"
    CUT = "cut"
    DROP = "drop"


class ResponseRate:
    """A token bucket for each IPv4 /24 and IPv6 /48."""

    def __init__(self, rate: float, burst: float, clock: Monotonic) -> None:
        self._rates: KeyedRate[str | bytes] = KeyedRate(rate, burst, clock, _NETWORKS)
        self._over = 0
        self.cut = self.dropped = 0

    def __len__(self) -> int:
        """The number of networks that have a bucket."""
        return len(self._rates)

    def judge(self, address: str) -> Verdict:
        """What a query from this address gets."""
        if self._rates.take(address_prefixes(address)[0]):
            return Verdict.ANSWER
        self._over += 1
        if self._over % 2:
            self.cut += 1
            return Verdict.CUT
        self.dropped += 1
        return Verdict.DROP
