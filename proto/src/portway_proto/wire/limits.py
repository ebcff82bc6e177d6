"""The numbers that both ends of a lane must agree on, each with its reason."""

from typing import Final

# Sent in the first frame of every lane. A lane of another version is answered with FAIL and closed.
PROTOCOL_VERSION: Final = 2

LINK_ALPN: Final = "portway-link/1"
MESH_ALPN: Final = "portway-mesh/1"

HEADER_SIZE: Final = 4

# Bytes. One read of a fast sender fits (uvloop reads up to 256 KiB at a time). A receiver passes DATA on as it arrives
# and never waits for the whole frame, so this does not bound a receiver's memory.
MAX_DATA: Final = 256 * 1024

# Twice the size of a large grant. Control frames are buffered whole, before their sender is authenticated.
MAX_CONTROL: Final = 16 * 1024

# OPEN: number, label, address. REFUSED: number, reason and a sentence for people.
MAX_VISIT_FRAME: Final = 512

# Labels have 16 characters. The length is one byte, so that later versions can use longer names.
MAX_OPEN_LABEL: Final = 255

# Holds a sender's clock or counter, which PONG echoes.
MAX_PING: Final = 8

# What the opener sends and keeps of a visit until OPENED, so that a refused one can be tried elsewhere. A browser's
# whole first flight fits; a visitor that sends more is not read until OPENED.
MAX_KEPT: Final = 64 * 1024

# An idle peer is sent a PING after PING_INTERVAL seconds of silence, and is dead after SILENCES such intervals.
PING_INTERVAL: Final = 5.0
SILENCES: Final = 2

# Seconds. A live peer answers a RESET at once, behind at most one full buffer of DATA.
RESET_ANSWER_TIMEOUT: Final = 5.0

# Seconds. A home node may wait 10 s for a lane, and its client 10 s for each of two addresses of the local server.
OPEN_ANSWER_TIMEOUT: Final = 40.0

# 2 ** 32 visits on one lane at a thousand a second are 49 days; a lane that gets there is closed.
MAX_NUMBER: Final = 2**32 - 1

# Statements (statements.py). Bytes of an Ed25519 public key, of its signature, of the tag of a cluster, and of the part
# of a claim's SHA-256 that a presence lists: a session's own claims are told apart, and only their signer could make
# two that are not.
KEY_SIZE: Final = 32
SIGNATURE_SIZE: Final = 64
CLUSTER_SIZE: Final = 16
CLAIM_ID_SIZE: Final = 8

# Characters of a node's name, which is one label of a DNS name.
MAX_NODE_NAME: Final = 63

# Bytes of a tunnel's options in a claim: room for allow-lists of later versions.
MAX_OPTIONS: Final = 2048
MAX_CLAIM: Final = 2304

# Claims that one presence lists: it fits in one control frame. Ten times the tunnels of any program seen so far.
MAX_CLAIMS: Final = 1000

# Seconds. A session signs its presence every PRESENCE_INTERVAL; one counts for PRESENCE_FRESH, so that a late one does
# no harm. CLOCK_LEEWAY is what the clocks of two parties may differ by.
PRESENCE_INTERVAL: Final = 300
PRESENCE_FRESH: Final = 420
CLOCK_LEEWAY: Final = 900

# Seconds that an epoch, which is a time, may be ahead: twice the leeway of clocks. One in the year 2100 is nobody's.
MAX_EPOCH_AHEAD: Final = 1800

# Seconds after its start in which a receiver asks about every route before its first use: twice the leeway and
# PRESENCE_FRESH, in which any presence that was signed before its start, and that it cannot know, has ended.
YOUNG: Final = 2400
