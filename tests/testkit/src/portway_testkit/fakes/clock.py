"""A clock that stands still until a test advances it."""


class ManualClock:
    """An injected clock in seconds; tests add to `now`."""

    def __init__(self, now: float = 1_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now
