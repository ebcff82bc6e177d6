"""Clocks: the real ones."""

from datetime import UTC

from portway_runtime.clocks import utc_now


def test_certificates_are_compared_with_utc() -> None:
    """A datetime without a zone could not be compared with a certificate's."""
    assert utc_now().tzinfo is UTC
