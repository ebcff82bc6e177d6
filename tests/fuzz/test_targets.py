"""Every parser of bytes from outside, briefly, with the same input each time. `scripts/fuzz` goes on for longer."""

import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from portway_relay.ingress.client_hello import Parsed, parse
from portway_relay.ingress.decision import choose_group
from portway_testkit.fuzzing.edits import Edit, EditKind, apply
from portway_testkit.fuzzing.hello_target import RecordedHello, recorded_hellos
from portway_testkit.fuzzing.target import Target
from portway_testkit.fuzzing.targets import TARGETS

EXAMPLES = 300
EDITS = st.builds(
    Edit,
    st.sampled_from(EditKind),
    st.integers(0, 64) | st.integers(0, 1 << 16),
    st.integers(1, 512),
    st.binary(min_size=1, max_size=4),
)

every_target = pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS.keys())


def inputs(seeds: tuple[bytes, ...]) -> st.SearchStrategy[bytes]:
    """Bytes that are nearly right, two inputs in a row, and any bytes at all."""
    some = st.sampled_from(seeds)
    edited = st.builds(apply, some, st.lists(EDITS, max_size=6))
    return st.one_of(edited, st.builds(bytes.__add__, edited, some), st.binary(max_size=256))


@every_target
def test_seeds_keep_the_invariant(target: Target) -> None:
    """The bytes that fuzzing begins with are the first that must be read well."""
    seeds = target.seeds()
    assert len(seeds) > 10
    for data in seeds:
        target.check(data)


def test_seeds_are_the_same_in_every_process() -> None:
    """A run with a seed can be had again, and an input that failed comes again."""
    code = "from portway_testkit.fuzzing.targets import TARGETS; print({n: t.seeds() for n, t in TARGETS.items()})"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == str({name: target.seeds() for name, target in TARGETS.items()})


@every_target
def test_the_invariant_holds_for_what_is_nearly_right(target: Target) -> None:
    """Random changes of well-formed bytes, the same in every run, never break what the target promises."""

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(inputs(target.seeds()))
    def holds(data: bytes) -> None:
        target.check(data)

    holds()


@every_target
def test_an_invariant_is_one_sentence(target: Target) -> None:
    """What cannot be said in one sentence is two targets."""
    assert target.invariant.startswith("Whatever ")
    assert target.invariant.endswith(".")
    assert ". " not in target.invariant


@pytest.mark.parametrize("hello", recorded_hellos(), ids=lambda hello: hello.client)
def test_real_clients_are_understood(hello: RecordedHello) -> None:
    """Recorded hellos of browsers, libraries and commands say what their sender meant."""
    parsed = parse(hello.data)
    assert isinstance(parsed, Parsed)
    assert (parsed.sni, parsed.alpn) == (hello.server_name, hello.alpn)
    assert choose_group(parsed.groups, parsed.shares) is not None
