"""Every number the two ends of a lane must agree on, each with its reason."""

from typing import Final

# The first frame of every lane carries it; another version is answered with FAIL and closed.
PROTOCOL_VERSION: Final = 1

LINK_ALPN: Final = "portway-link/1"
MESH_ALPN: Final = "portway-mesh/1"

HEADER_SIZE: Final = 4

# One read of a fast sender fits (uvloop hands over up to 256 KiB); a receiver passes DATA on as it arrives
# and never waits for the whole frame, so this bounds nobody's memory.
MAX_DATA: Final = 256 * 1024

# A grant of a generous size, twice. Control frames are buffered whole, before their sender is known.
MAX_CONTROL: Final = 16 * 1024

# OPEN: number, label, address. REFUSED: number, reason and a sentence for people.
MAX_VISIT_FRAME: Final = 512

# Labels have 16 characters; the length is one byte, for names of another kind in versions to come.
MAX_OPEN_LABEL: Final = 255

# Room for a sender's clock or counter, echoed in PONG.
MAX_PING: Final = 8

# What the opener keeps of a visit until OPENED, so that a refused one can be tried elsewhere. A browser's
# whole first flight fits; a faster sender is paused there.
MAX_KEPT: Final = 64 * 1024

# An idle peer is asked after this many seconds of silence, and is dead after as many silences.
PING_INTERVAL: Final = 5.0
SILENCES: Final = 2

# A peer that is alive answers a RESET at once, behind at most one full buffer of DATA.
RESET_ANSWER_TIMEOUT: Final = 5.0

# A home node may wait 10 s for a lane, and its client 10 s for each of two addresses of the local server.
OPEN_ANSWER_TIMEOUT: Final = 40.0

# 2 ** 32 visits on one lane at a thousand a second are 49 days; a lane that gets there is closed.
MAX_NUMBER: Final = 2**32 - 1
