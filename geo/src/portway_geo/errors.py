"""Every error of this distribution."""


class GeoError(Exception):
    """A GeoIP file that is missing, damaged or of an unknown layout; the message says what to do."""
