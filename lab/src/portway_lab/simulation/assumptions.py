"""What cannot be read from the sources: the world around Portway, each figure with where it is from.

Here: figures that no setting holds. Not here: whatever Portway decides by, which is imported where it is used.
"assumed" means that nobody measured it for this; the results say how they depend on it (docs/simulation.md).
"""

from typing import Final

# IPv4 space stands for clients: they are programs, most of them in data centres. A run of addresses counts for a /16 at
# the most: longer ones are legacy blocks of one institution (the US DoD's are 7 % of all, at one point in Ohio).
MOST_OF_A_RUN: Final = 256  # in units of one /24
# Clients of one /24: one container host, office or NAT. Assumed; only what is learned of prefixes depends on it.
CLIENTS_PER_PREFIX: Final = 20
# API tokens among them. Learning needs three. Assumed.
TOKENS_PER_PREFIX: Final = 5
# Networks with routes of their own at one place. Assumed.
NETWORKS_PER_PLACE: Final = 3

# How wrong GeoIP is, beyond its whole degrees. Shares of places missed: Europe 9 to 20 %, Asia 53 to 61 %, Africa 66
# to 72 %; where it misses it is by the error of mobile networks, 179 to 207 km in the median ("Lost in the Prefix",
# arXiv 2605.21937, which rates DB-IP among others). North America and Oceania count as Europe, South America as Asia.
MISPLACED_WELL_MAPPED: Final = 0.15
MISPLACED_ELSEWHERE: Final = 0.57
MISPLACED_AFRICA: Final = 0.69
MISPLACED_MEDIAN_KM: Final = 190.0
MISPLACED_SPREAD: Final = 1.0  # sigma of the logarithm: one in ten of them is off by 680 km and more. Assumed
# At another place of the world altogether: VPN exits, blocks that were sold. The reduced table alone differs from its
# source in country for 1.1 % of addresses; the source's own error is assumed to be as large again.
ELSEWHERE: Final = 0.02
# Not located: clients that reach the registry by a private network. The table itself knows every public IPv4 block.
# Assumed.
UNLOCATED: Final = 0.01

# Round trips. The median factor over the great circle is placement's own PATH_STRETCH.
STRETCH_SPREAD: Final = 0.25  # sigma of the logarithm, between pairs of network and region. Assumed
LEAST_STRETCH: Final = 1.2  # roads, railways and sea beds: median 1.3 for the best conduits (Bozkurt et al., 2018)
DETOUR_MEAN_MS: Final = 1.0  # to the next exchange and back, of each pair of network and region. Assumed
# The client's own access. Data centres are the most of it; fixed lines have a few to some tens of ms (Bajpai et al.,
# "Dissecting Last-mile Latency Characteristics", CCR 2017). The shares are assumed.
IN_DATA_CENTRES: Final = 0.6
DATA_CENTRE_MS: Final = 0.5
ACCESS_MEDIAN_MS: Final = 12.0
ACCESS_SPREAD: Final = 0.6
NOISE_MEAN_MS: Final = 0.5  # queues, for each round trip; exponential. Assumed

# Round trips until something is there.
HANDSHAKE_ROUND_TRIPS: Final = 2  # TCP, TLS 1.3
LOCATE_ROUND_TRIPS: Final = 3  # the same and a call, on a channel of its own
ANSWER_ROUND_TRIPS: Final = 1  # HELLO to WELCOME, BIND to BOUND

# CPU of one new TLS connection with the Python carrier, the visitor's share of a visit included (DESIGN §5: 3,200 µs);
# one core. So a storm of link lanes is not flattered.
HANDSHAKE_SECONDS: Final = 0.0032

# How long a tunnel is open. Assumed: an hour's work.
TUNNEL_LIFE_SECONDS: Final = 3600.0
# All arrive within so long in the beginning, 833 a second for a million: 3 times what churn brings.
FILL_SECONDS: Final = 1200
