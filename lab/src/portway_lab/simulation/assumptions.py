"""The world around Portway: figures that are not in its code, each with its source.

"Assumed" means that it was not measured for this simulation; docs/simulation.md says how the results depend on it. Not
here: values that Portway decides by, which are imported where they are used.
"""

from typing import Final

# Clients are distributed as IPv4 addresses are: they are programs, most of them in data centres. A run of addresses
# counts as a /16 at most, for longer ones are legacy blocks of one institution (7 % of all are those of the US DoD, at
# one point in Ohio).
MAX_RUN: Final = 256  # in /24s
# Clients of one /24: a container host, an office or a NAT. Assumed; only learning depends on it.
CLIENTS_PER_PREFIX: Final = 20
# API tokens of these clients; learning needs three. Assumed.
TOKENS_PER_PREFIX: Final = 5
# Networks at one place that have different routes. Assumed.
NETWORKS_PER_PLACE: Final = 3

# Errors of GeoIP beyond its rounding to whole degrees. Share of wrong places: Europe 9 to 20 %, Asia 53 to 61 %, Africa
# 66 to 72 %. A wrong place is off by the error for mobile networks, 179 to 207 km in the median ("Lost in the Prefix",
# arXiv 2605.21937, which rates DB-IP among others). North America and Oceania count as Europe, South America as Asia.
MISPLACED_WELL_MAPPED: Final = 0.15
MISPLACED_ELSEWHERE: Final = 0.57
MISPLACED_AFRICA: Final = 0.69
MISPLACED_MEDIAN_KM: Final = 190.0
MISPLACED_SPREAD: Final = 1.0  # sigma of the logarithm: one in ten is off by 680 km or more. Assumed
# Anywhere else in the world: VPN exits, blocks that were sold. The reduced table alone differs from its source in the
# country for 1.1 % of addresses; the source's own error is assumed to be as large.
ELSEWHERE: Final = 0.02
# Not located: clients that reach the registry over a private network (the table has every public IPv4 block). Assumed.
UNLOCATED: Final = 0.01

# Round trips. The median factor over the great circle is PATH_STRETCH, which placement uses too.
STRETCH_SPREAD: Final = 0.25  # sigma of the logarithm, between pairs of network and region. Assumed
LEAST_STRETCH: Final = 1.2  # roads, railways and sea beds: median 1.3 for the best conduits (Bozkurt et al., 2018)
DETOUR_MEAN_MS: Final = 1.0  # to the next exchange and back, for each pair of network and region. Assumed
# The client's access. Most are in data centres; fixed lines have a few to some tens of ms (Bajpai et al.,
# "Dissecting Last-mile Latency Characteristics", CCR 2017). The shares are assumed.
IN_DATA_CENTRES: Final = 0.6
DATA_CENTRE_MS: Final = 0.5
ACCESS_MEDIAN_MS: Final = 12.0
ACCESS_SPREAD: Final = 0.6
NOISE_MEAN_MS: Final = 0.5  # of queues, for each round trip; exponential. Assumed

# Round trips that something takes.
HANDSHAKE_ROUND_TRIPS: Final = 2  # TCP, TLS 1.3
LOCATE_ROUND_TRIPS: Final = 3  # the same and a call, on a channel of its own
ANSWER_ROUND_TRIPS: Final = 1  # HELLO to WELCOME, BIND to BOUND

# CPU time of one new TLS connection with the Python carrier on one core, measured with the visitor's part of a visit
# (3,200 µs): more than a client's lane costs, so the result is not too optimistic.
HANDSHAKE_SECONDS: Final = 0.0032

# How long a tunnel is open. Assumed: an hour's work.
TUNNEL_LIFE_SECONDS: Final = 3600.0
# Seconds in which all clients arrive at first: 833 per second for a million, 3 times the churn.
FILL_SECONDS: Final = 1200
