"""That fuzzing would notice: a target of which one rule is broken fails within a bounded number of inputs."""

import random
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from portway.engine import dialogue
from portway_proto.wire import frames
from portway_proto.wire.frames import FrameReader, FrameType, encode_number
from portway_proto.wire.lane import Ending, LaneState, Phase, Take
from portway_relay.dns import query
from portway_relay.dns.query import Subnet
from portway_relay.ingress import client_hello
from portway_relay.ingress.client_hello import Parsed
from portway_relay.net import http_pages, plain_http
from portway_relay.net.plain_http import Request
from portway_runtime import connect_dialogue
from portway_runtime.parse_results import Invalid, NeedMore
from portway_testkit.fuzzing import hello_target, lane_target, request_target
from portway_testkit.fuzzing.edits import random_input
from portway_testkit.fuzzing.targets import TARGETS

TRIES = 3_000

Break = Callable[[pytest.MonkeyPatch], None]


def holds_its_invariant(name: str) -> bool:
    """Whether the target keeps its promise for its seeds and a bounded number of inputs made of them."""
    target = TARGETS[name]
    seeds = target.seeds()
    try:
        for data in seeds:
            target.check(data)
        for number in range(TRIES):
            target.check(random_input(seeds, random.Random(f"{name} {number}")))
    except Exception:
        return False
    return True


def _unbounded_reading(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(client_hello, "_parse_message", client_hello._read_message)


def _any_number_of_records(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(client_hello, "MAX_RECORDS", 1_000_000)


def _impatient(patch: pytest.MonkeyPatch) -> None:
    really = client_hello.parse

    def parse(data: bytes) -> Parsed | NeedMore | Invalid:
        answer = really(data)
        return Invalid("too little") if isinstance(answer, NeedMore) and len(data) > 50 else answer

    patch.setattr(hello_target, "parse", parse)


def _any_host(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(http_pages, "_host_name", lambda authority: authority.decode("latin-1"))


def _any_target(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(plain_http, "_REQUEST", re.compile(rb"([^ ]*) ([^ ]*) HTTP/1\."))


def _the_last_host(patch: pytest.MonkeyPatch) -> None:
    really = plain_http.read_request

    def read_request(data: bytes) -> Request | NeedMore | None:
        answer = really(data)
        last = re.findall(rb"\nhost:(.*)\n", data.lower())
        return Request(answer.target, last[-1]) if isinstance(answer, Request) and last else answer

    patch.setattr(request_target, "read_request", read_request)


def _pieces_taken_for_frames(patch: pytest.MonkeyPatch) -> None:
    def gather(reader: Any, piece: memoryview, found: list[Any]) -> None:
        found.append((reader._type, bytes(piece)))

    patch.setattr(FrameReader, "_gather", gather)


def _forgotten_body(patch: pytest.MonkeyPatch) -> None:
    def gather(reader: Any, piece: memoryview, found: list[Any]) -> None:
        reader._body += piece
        if not reader._left:
            found.append((reader._type, bytes(reader._body)))

    patch.setattr(FrameReader, "_gather", gather)


def _no_limits(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(frames, "_LIMITS", dict.fromkeys(frames._LIMITS, 1 << 24))


def _never_idle(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LaneState, "_settle", lambda state: None)


def _delivers_after_the_end(patch: pytest.MonkeyPatch) -> None:
    def takes(state: LaneState) -> Take:
        return Take.ERROR if state.phase is Phase.IDLE else Take.DELIVER

    patch.setattr(LaneState, "takes", property(takes))


def _counts_without_opening(patch: pytest.MonkeyPatch) -> None:
    really = LaneState._receive_reset

    def receive_reset(state: LaneState) -> Any:
        state.number += 1
        return really(state)

    patch.setattr(LaneState, "_receive_reset", receive_reset)


def _forgets_what_it_sent(patch: pytest.MonkeyPatch) -> None:
    def send_ending(state: LaneState, ending: Ending) -> bytes:
        return encode_number(FrameType.RESET if ending is Ending.RESET else FrameType.END, state.number)

    patch.setattr(LaneState, "_send_ending", send_ending)


def _payloads_taken_on_trust(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(lane_target, "decode_refused", lambda data: (data[4], data[5:].decode()))


def _addresses_as_sent(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(frames, "_plain_address", lambda address: address)


def _messages_taken_on_trust(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(dialogue, "_read", lambda kind, payload: kind.FromString(payload))


def _answers_to_nobody(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(dialogue.Dialogue, "_answered", lambda self, request: next(iter(self._unanswered.values())))


def _no_end_of_a_header(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(connect_dialogue, "MAX_HEADER", 1 << 30)


def _the_rest_is_dropped(patch: pytest.MonkeyPatch) -> None:
    really = connect_dialogue.ConnectDialogue.take
    patch.setattr(connect_dialogue.ConnectDialogue, "take", lambda *given: None if really(*given) is None else b"")


def _reasons_as_sent(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(connect_dialogue, "printable_line", lambda text: text)


def _subnets_taken_on_trust(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(query, "_read_subnet", lambda option: Subnet(1, 24, b"\x01\x02\x03"))


def _answers_are_answered(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(query, "RESPONSE", 0)


def _names_as_they_came(patch: pytest.MonkeyPatch) -> None:
    really = query._read_common
    patch.setattr(query, "_read_common", lambda data: (one := really(data)) and replace(one, name=one.question[:-4]))


BROKEN: list[tuple[str, Break]] = [
    ("hello", _unbounded_reading),
    ("hello", _any_number_of_records),
    ("hello", _impatient),
    ("request", _any_host),
    ("request", _any_target),
    ("request", _the_last_host),
    ("frames", _pieces_taken_for_frames),
    ("frames", _forgotten_body),
    ("frames", _no_limits),
    ("lane", _never_idle),
    ("lane", _delivers_after_the_end),
    ("lane", _counts_without_opening),
    ("lane", _forgets_what_it_sent),
    ("open", _payloads_taken_on_trust),
    ("open", _addresses_as_sent),
    ("dialogue", _messages_taken_on_trust),
    ("dialogue", _answers_to_nobody),
    ("connect", _no_end_of_a_header),
    ("connect", _the_rest_is_dropped),
    ("connect", _reasons_as_sent),
    ("dns", _subnets_taken_on_trust),
    ("dns", _answers_are_answered),
    ("dns", _names_as_they_came),
]


@pytest.mark.parametrize(("name", "break_a_rule"), BROKEN, ids=lambda value: getattr(value, "__name__", value))
def test_a_broken_rule_is_noticed(name: str, break_a_rule: Break, monkeypatch: pytest.MonkeyPatch) -> None:
    """A parser that does this wrong does not pass."""
    break_a_rule(monkeypatch)
    assert not holds_its_invariant(name)


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_not_broken_passes(name: str) -> None:
    """The same inputs are no trouble to the parsers as they are."""
    assert holds_its_invariant(name)
