"""Every error of this distribution.

ServerError
"""


class ServerError(Exception):
    """Base of every error this distribution raises."""
