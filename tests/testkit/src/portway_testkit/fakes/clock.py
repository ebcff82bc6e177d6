"""Time that stands still until a test says otherwise."""


class ManualClock:
    """Seconds, as an injected clock gives them; tests add to `now`."""

    def __init__(self, now: float = 1_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now
