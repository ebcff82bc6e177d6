"""The tree of errors, and what a refusal says on a lane."""

import inspect

import pytest
from portway_proto.v1.lane_pb2 import FAILURE_CODE_GRANT, FAILURE_CODE_PORTS, Failure, FailureCode
from portway_relay import errors
from portway_relay.errors import GrantRefused, Refused, RelayError
from portway_runtime.errors import ListenError


def test_every_error_is_in_the_tree() -> None:
    """One root for all, and the module's first lines name each of them."""
    assert errors.__doc__ is not None
    for name, kind in inspect.getmembers(errors, inspect.isclass):
        if issubclass(kind, Exception):
            assert issubclass(kind, RelayError)
            assert name in errors.__doc__


@pytest.mark.parametrize(("kind", "code"), [(Refused, FAILURE_CODE_PORTS), (GrantRefused, FAILURE_CODE_GRANT)])
def test_a_refusal_is_said_as_it_is(kind: type[Refused], code: FailureCode.ValueType) -> None:
    """The code for the client and the sentence for its user, and nothing else, travel."""
    refused = kind(code, "no port is free: try again")
    assert str(refused) == "no port is free: try again"
    assert refused.failure == Failure(code=code, message="no port is free: try again")


def test_a_listen_error_says_whether_another_port_would_do() -> None:
    """Only a port that is taken makes trying the next one worth it."""
    assert not ListenError("no such host").port_taken
    assert ListenError("in use", port_taken=True).port_taken
