"""Which status an exception becomes, and with which text."""

import inspect

import pytest
from grpc import StatusCode
from portway_registry import errors
from portway_registry.services.error_status import status_of, trailers_of
from portway_runtime.grpc_channels import NODE_IS_OUT, STORE_IS_AWAY, STORE_IS_FULL

CALL_ERRORS = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, errors.CallError) and kind is not errors.CallError
]


@pytest.mark.parametrize("kind", CALL_ERRORS)
def test_every_call_error_has_a_status_of_its_own(kind: type[errors.CallError]) -> None:
    """None becomes an internal failure, and its text goes out as it is."""
    error = kind.__new__(kind, "what to do next")  # whatever its own text would be
    code, text = status_of(error)
    assert code not in (StatusCode.INTERNAL, StatusCode.UNKNOWN, StatusCode.OK)
    assert text == str(error)


@pytest.mark.parametrize("kind", CALL_ERRORS)
def test_a_node_that_is_out_is_told_so_in_a_form_that_programs_read(kind: type[errors.CallError]) -> None:
    """And by no other refusal: it stops the node for good."""
    out = kind in (errors.NodeRemoved, errors.CertificateSuperseded)
    assert trailers_of(kind.__new__(kind, "what to do next")) == ((NODE_IS_OUT,) if out else ())


def test_a_store_that_is_away_is_not_described() -> None:
    """The text says that the caller may try again, and nothing about where etcd is."""
    code, text = status_of(errors.StoreUnavailable("etcd at 10.0.0.1 said no"))
    assert code is StatusCode.UNAVAILABLE
    assert "10.0.0.1" not in text
    assert "try again" in text
    assert trailers_of(errors.StoreUnavailable("away")) == (STORE_IS_AWAY,)


def test_a_store_that_is_full_is_no_store_that_is_away(caplog: pytest.LogCaptureFixture) -> None:
    """Trying again does not help. Where it is stands in the log alone."""
    code, text = status_of(errors.StoreFull("/srv/registry.db cannot grow"))
    assert (code, "/srv" in text) == (StatusCode.UNAVAILABLE, False)
    assert "store is full: an operator has to make room" in text
    assert trailers_of(errors.StoreFull("full")) == (STORE_IS_FULL,)
    assert caplog.messages == ["call failed: the store is full"]
    assert caplog.records[0].__dict__["reason"] == "/srv/registry.db cannot grow"


@pytest.mark.parametrize("error", [ValueError("inside"), errors.StoreError("inside"), errors.LeaseLost("inside")])
def test_anything_else_is_internal(error: Exception) -> None:
    """With a number that leads to the log, and nothing more."""
    code, text = status_of(error)
    assert code is StatusCode.INTERNAL
    assert "inside" not in text
