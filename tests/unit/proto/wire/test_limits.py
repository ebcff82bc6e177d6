"""The limits that WIRE.md gives are the limits that the code has."""

from portway_proto.wire import labels, limits
from portway_proto.wire.frames import FIRST_SKIPPABLE
from portway_testkit.wire_spec import table


def _numbers(module: object) -> dict[str, float]:
    return {name: value for name, value in vars(module).items() if name.isupper() and isinstance(value, (int, float))}


def test_documented_limits_are_the_codes() -> None:
    """WIRE.md's table of limits has every constant of the code, with its value, and a reason for it."""
    rows = table("name", "value", "reason")
    code = _numbers(limits) | {n: v for n, v in _numbers(labels).items() if not n.startswith("_")}
    assert {row["name"]: float(row["value"]) for row in rows} == code
    assert all(row["reason"] for row in rows)


def test_what_fits_in_what() -> None:
    """A visit's frames fit where control frames do, and a DATA frame holds what may be kept."""
    assert limits.MAX_VISIT_FRAME <= limits.MAX_CONTROL
    assert limits.MAX_KEPT <= limits.MAX_DATA < 2**24
    assert limits.MAX_NUMBER < 2**32
    assert FIRST_SKIPPABLE == 0x80
