"""Clocks: the real ones."""

from datetime import UTC

from portway_runtime.clocks import RegistryClock, counting_sleep, utc_now


def test_certificates_are_compared_with_utc() -> None:
    """A datetime without a zone could not be compared with a certificate's."""
    assert utc_now().tzinfo is UTC


def test_the_registrys_time_goes_on_by_itself() -> None:
    """This machine's clock counts only until a registry has said what time it is; time asleep counts as well."""
    wall, elapsed = [1_000.0], [50.0]
    clock = RegistryClock(lambda: wall[0], lambda: elapsed[0])
    assert clock.now_ms() == 1_000_000
    clock.set(0)
    assert clock.now_ms() == 1_000_000
    clock.set(9_000_000)
    wall[0] = 77_777.0
    elapsed[0] += 3_600.5
    assert clock.now_ms() == 9_000_000 + 3_600_500


def test_the_counting_clock_does_not_go_back() -> None:
    """It is the system's."""
    first = counting_sleep()
    assert counting_sleep() >= first > 0
