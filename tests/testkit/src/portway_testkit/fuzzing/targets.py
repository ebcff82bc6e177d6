"""All fuzz targets. A new parser of bytes from outside is added here."""

from typing import Final

from portway_testkit.fuzzing.connect_target import CONNECT
from portway_testkit.fuzzing.dialogue_target import DIALOGUE
from portway_testkit.fuzzing.dns_target import DNS
from portway_testkit.fuzzing.hello_target import HELLO
from portway_testkit.fuzzing.lane_target import FRAMES, LANE, OPEN
from portway_testkit.fuzzing.request_target import REQUEST

TARGETS: Final = {target.name: target for target in (HELLO, REQUEST, FRAMES, LANE, OPEN, DIALOGUE, CONNECT, DNS)}
