"""All fuzz targets. Whoever writes another parser of bytes from outside adds it here."""

from typing import Final

from portway_testkit.fuzzing.dialogue_target import DIALOGUE
from portway_testkit.fuzzing.hello_target import HELLO
from portway_testkit.fuzzing.lane_target import FRAMES, LANE, OPEN

TARGETS: Final = {target.name: target for target in (HELLO, FRAMES, LANE, OPEN, DIALOGUE)}
