"""The one error of a release."""


class ReleaseFailed(Exception):
    """Something cannot be built, or is not as it has to be. The message says what, and what to do."""
