"""portway.errors: one tree, fields beside the message."""

import portway
import pytest
from portway import errors
from portway.errors import Attempt, RemoteError, TunnelLostError, UnreachableError


def test_every_error_is_an_error() -> None:
    """Whoever catches portway.Error catches all of them; each that can be seen is exported."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert len(kinds) == 10
    for kind in kinds:
        assert issubclass(kind, portway.Error)
        assert getattr(portway, kind.__name__) is kind


def test_unreachable_lists_who_was_tried() -> None:
    """One line each, and as values."""
    attempts = (Attempt("fra-1", "192.0.2.1:443", "refused"), Attempt("", "registry:7400", "no answer"))
    error = UnreachableError("nobody", attempts)
    assert error.attempts == attempts
    assert str(error) == "nobody\n  fra-1 (192.0.2.1:443): refused\n  registry:7400: no answer"
    assert str(UnreachableError("nobody")) == "nobody"


def test_a_lost_tunnel_says_which_and_why() -> None:
    """The reason is an error of its own."""
    reason = RemoteError("somebody took it")
    error = TunnelLostError("https://a.test", reason)
    assert (error.url, error.reason) == ("https://a.test", reason)
    assert str(error) == "the tunnel to https://a.test is gone for good: somebody took it"


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    """The module opens with it."""
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, Exception):
            assert kind.__name__ in (errors.__doc__ or "")


def test_attempts_are_values() -> None:
    """They can be compared and not changed."""
    attempt = Attempt("a", "b", "c")
    assert attempt == Attempt("a", "b", "c")
    with pytest.raises(AttributeError):
        attempt.reason = "d"  # type: ignore[misc]
