"""Descriptors: a process finds out in time that it can open no more."""

import os
import resource

import pytest
from portway_runtime.descriptors import demand_descriptors, raise_limit, unreserved, usage
from portway_runtime.errors import NoDescriptors
from portway_testkit.processes.descriptors import no_more_descriptors
from portway_testkit.waiting import eventually


def _lowest_free() -> int:
    descriptor = os.open(os.devnull, os.O_RDONLY)
    os.close(descriptor)
    return descriptor


def test_what_was_opened_to_find_out_is_closed_again() -> None:
    """Nothing is raised while there are enough, and nothing is kept."""
    before = _lowest_free()
    demand_descriptors()
    assert _lowest_free() <= before


def test_a_process_without_descriptors_hears_what_to_raise() -> None:
    """The error names the limit, and is over as soon as there are descriptors again."""
    with no_more_descriptors(), pytest.raises(NoDescriptors, match=r"Too many open files.*ulimit -n"):
        demand_descriptors()
    demand_descriptors()


def test_some_descriptors_are_reserved() -> None:
    """64 below the limit, or a quarter of a low one; those that are open count too."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert unreserved() <= limit - min(64, limit // 4)

    def counts_one_more() -> bool:
        before = unreserved()
        descriptor = os.open(os.devnull, os.O_RDONLY)
        try:
            # Descriptors are counted by their numbers, among which there may be free ones below.
            return unreserved() < before
        finally:
            os.close(descriptor)

    eventually(counts_one_more)  # something of another test may be closed at any time
    with no_more_descriptors(), pytest.raises(OSError, match="Too many open files"):
        unreserved()


def test_a_process_takes_as_many_as_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    """The soft limit, which is small for the sake of old programs, is raised to the hard one."""
    limits = [(1_024, 65_536)]
    monkeypatch.setattr(resource, "getrlimit", lambda which: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda which, pair: limits.append(pair))
    raise_limit()
    assert limits[-1] == (65_536, 65_536)


def test_usage_is_what_is_open_of_what_may_be() -> None:
    """Also when there is none left to look with."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = _lowest_free()
    used, whole = usage()
    assert _lowest_free() <= used <= before  # something of another test may be closed at any time
    assert whole == limit
    with no_more_descriptors():
        lowered, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert usage() == (lowered, lowered)
