"""Both ends of a lane, driven through random orders of everything that may happen.

The two ends are joined by two queues of bytes, delivered in pieces of random size through real encoders and readers.
Whatever the order: no legal step is ever an error for the peer; no byte of one visit is taken for another's; whenever
nothing is on its way, both ends agree on every visit, and on being idle.

That this test notices was tried by breaking the rules one by one; each of these made it fail:
  LaneState._receive_reset   answers nothing; or answers also after an own ending
  LaneState.receive          old numbers are not dropped; or frames for an idle lane are not
  LaneState.reset            makes its side idle at once, without waiting for the answer
  LaneState.refuse           forgets to discard what was on its way
  LaneState.takes            delivers after an own RESET; or is an error then
  LaneState._send_ending     leaves an acceptor that resets free to answer OPENED
  LaneState._receive_end     makes its side idle without an own ending
  FrameReader.feed           a piece of DATA ends with the bytes that came first
"""

from collections import defaultdict
from dataclasses import dataclass, field

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from portway_proto.wire.frames import FrameReader, FrameType, Opening, RefusalReason, data_header
from portway_proto.wire.lane import (
    Ending,
    Event,
    LaneState,
    Phase,
    Side,
    Take,
    VisitEnded,
    VisitOpened,
    VisitOpening,
    VisitRefused,
    VisitReset,
)

SIDES = st.sampled_from(list(Side))


def opening_of(number: int) -> Opening:
    """An opening that tells which visit it belongs to."""
    return Opening(f"visit{number}", "192.0.2.1", number)


@dataclass
class Told:
    """What one end was told of one visit."""

    opened: bool = False
    refused: bool = False
    ended: bool = False
    reset: bool = False


@dataclass
class End:
    """One end: its state, what it sent and was given of each visit, and the bytes on their way to it."""

    state: LaneState
    reader: FrameReader = field(default_factory=FrameReader)
    arriving: bytearray = field(default_factory=bytearray)
    sent: dict[int, bytearray] = field(default_factory=lambda: defaultdict(bytearray))
    given: dict[int, bytearray] = field(default_factory=lambda: defaultdict(bytearray))
    gave_up: set[int] = field(default_factory=set)  # visits this end reset or refused: what comes of them is dropped
    ended: set[int] = field(default_factory=set)  # visits of which this end sent END or RESET
    told: dict[int, Told] = field(default_factory=lambda: defaultdict(Told))


class Lane(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.ends = {side: End(LaneState(side)) for side in Side}
        self.refused: set[int] = set()

    @property
    def opener(self) -> End:
        return self.ends[Side.OPENER]

    @property
    def acceptor(self) -> End:
        return self.ends[Side.ACCEPTOR]

    def peer(self, side: Side) -> End:
        return self.acceptor if side is Side.OPENER else self.opener

    def send(self, side: Side, raw: bytes) -> None:
        self.peer(side).arriving += raw

    @precondition(lambda self: self.opener.state.idle)
    @rule()
    def open(self) -> None:
        number = self.opener.state.number + 1
        self.send(Side.OPENER, self.opener.state.open(opening_of(number)))
        assert self.opener.state.number == number

    @precondition(lambda self: self.acceptor.state.phase is Phase.OPENING)
    @rule()
    def take(self) -> None:
        assert self.acceptor.state.number not in self.acceptor.gave_up
        self.send(Side.ACCEPTOR, self.acceptor.state.opened())

    @precondition(lambda self: self.acceptor.state.phase is Phase.OPENING)
    @rule(reason=st.sampled_from(list(RefusalReason)))
    def refuse(self, reason: RefusalReason) -> None:
        assert self.acceptor.state.number not in self.acceptor.gave_up
        self.refused.add(self.acceptor.state.number)
        self.acceptor.gave_up.add(self.acceptor.state.number)
        self.send(Side.ACCEPTOR, self.acceptor.state.refuse(reason, "no"))

    @precondition(lambda self: self.opener.state.sends)
    @rule(size=st.integers(1, 40))
    def data_from_opener(self, size: int) -> None:
        self._data(Side.OPENER, size)

    @precondition(lambda self: self.acceptor.state.sends)
    @rule(size=st.integers(1, 40))
    def data_from_acceptor(self, size: int) -> None:
        self._data(Side.ACCEPTOR, size)

    @precondition(lambda self: self.opener.state.sends)
    @rule()
    def end_of_opener(self) -> None:
        self._end(Side.OPENER)

    @precondition(lambda self: self.acceptor.state.sends)
    @rule()
    def end_of_acceptor(self) -> None:
        self._end(Side.ACCEPTOR)

    @precondition(lambda self: self.may_reset(Side.OPENER))
    @rule()
    def reset_by_opener(self) -> None:
        self._reset(Side.OPENER)

    @precondition(lambda self: self.may_reset(Side.ACCEPTOR))
    @rule()
    def reset_by_acceptor(self) -> None:
        self._reset(Side.ACCEPTOR)

    @precondition(lambda self: self.opener.arriving)
    @rule(size=st.integers(1, 60))
    def deliver_to_opener(self, size: int) -> None:
        """The next bytes on their way arrive: part of a frame, or several."""
        self._deliver(Side.OPENER, size)

    @precondition(lambda self: self.acceptor.arriving)
    @rule(size=st.integers(1, 60))
    def deliver_to_acceptor(self, size: int) -> None:
        self._deliver(Side.ACCEPTOR, size)

    @precondition(lambda self: any(end.arriving for end in self.ends.values()))
    @rule(side=SIDES)
    def deliver_all(self, side: Side) -> None:
        self._deliver(side, len(self.ends[side].arriving))

    def may_reset(self, side: Side) -> bool:
        state = self.ends[side].state
        return not state.idle and state.sent is not Ending.RESET

    def settle(self) -> None:
        """Everything on its way arrives, answers included."""
        while any(end.arriving for end in self.ends.values()):
            for side, end in self.ends.items():
                self._deliver(side, len(end.arriving))

    def _data(self, side: Side, size: int) -> None:
        end = self.ends[side]
        tag = bytes((end.state.number & 0xFF,)) * size
        end.sent[end.state.number] += tag
        self.send(side, data_header(size) + tag)

    def _end(self, side: Side) -> None:
        end = self.ends[side]
        end.ended.add(end.state.number)
        self.send(side, end.state.end())

    def _reset(self, side: Side) -> None:
        end = self.ends[side]
        end.ended.add(end.state.number)
        end.gave_up.add(end.state.number)
        self.send(side, end.state.reset())

    def _deliver(self, side: Side, size: int) -> None:
        end = self.ends[side]
        piece = bytes(end.arriving[:size])
        del end.arriving[:size]
        for frame_type, payload in end.reader.feed(piece):
            if frame_type == FrameType.DATA:
                self._data_arrived(end, bytes(payload))
            else:
                self._told(side, end, end.state.receive(frame_type, payload))

    def _data_arrived(self, end: End, data: bytes) -> None:
        number, take = end.state.number, end.state.takes
        assert take is not Take.ERROR, f"DATA {data[:1].hex()} at {end.state!r}"
        assert set(data) == {number & 0xFF}, f"DATA of visit {data[0]} in visit {number}"
        if take is Take.DELIVER:
            assert number not in end.gave_up
            end.given[number] += data
        else:
            assert number in end.gave_up, f"DATA of visit {number} was lost"

    def _told(self, side: Side, end: End, event: Event | None) -> None:
        number = end.state.number
        told = end.told[number]
        if event is not None and not isinstance(event, VisitOpening):
            assert number not in end.gave_up, f"{event} after giving up"
        match event:
            case VisitOpening(opening):
                assert side is Side.ACCEPTOR
                assert opening == opening_of(number)
            case VisitOpened():
                assert not told.opened
                told.opened = True
            case VisitRefused():
                assert not told.opened
                assert number in self.peer(side).gave_up
                told.refused = True
            case VisitEnded():
                assert not told.ended
                told.ended = True
                assert end.given[number] == self.peer(side).sent[number], "END came, and not all that was before it"
            case VisitReset(answer):
                assert not told.reset
                told.reset = True
                assert bool(answer) is (number not in end.ended), (
                    "a RESET is answered by who has not ended, and only then"
                )
                end.gave_up.add(number)
                if answer:
                    end.ended.add(number)
                    self.send(side, answer)

    @invariant()
    def what_was_given_was_sent(self) -> None:
        """Each end has been given a beginning of what the other sent for that visit, and nothing else."""
        for side, end in self.ends.items():
            for number, given in end.given.items():
                assert self.peer(side).sent[number].startswith(given)

    @invariant()
    def the_opener_is_never_more_than_one_visit_ahead(self) -> None:
        assert 0 <= self.opener.state.number - self.acceptor.state.number <= 1

    @invariant()
    def an_idle_opener_can_rely_on_the_acceptor(self) -> None:
        """Nothing but drops can come to an idle opener, and by the time its next OPEN arrives the acceptor is idle."""
        if self.opener.state.idle:
            assert not self.opener.state.sends
            assert not self.opener.state.awaits_answer
            assert self.opener.state.takes is Take.ERROR

    @invariant()
    def only_a_refuser_discards_while_idle(self) -> None:
        state = self.acceptor.state
        if state.idle:
            assert state.takes is (Take.DISCARD if state.number in self.refused else Take.ERROR)

    @invariant()
    def both_agree_when_nothing_is_on_its_way(self) -> None:
        if any(end.arriving for end in self.ends.values()):
            return
        one, other = self.opener.state, self.acceptor.state
        assert one.number == other.number
        assert one.phase is other.phase
        assert not one.awaits_answer, "a RESET was not answered"
        assert not other.awaits_answer, "a RESET was not answered"
        if not one.idle:
            assert (one.sent, one.received) == (other.received, other.sent)
            assert self.opener.given[one.number] == self.acceptor.sent[one.number]
            assert self.acceptor.given[one.number] == self.opener.sent[one.number]

    def teardown(self) -> None:
        """From wherever it stands a lane can be brought to idle on both sides, and serves another visit."""
        for side in Side:
            if self.may_reset(side):
                self._reset(side)
        self.settle()
        self.both_agree_when_nothing_is_on_its_way()
        assert self.opener.state.idle
        self.open()
        self._data(Side.OPENER, 3)
        self.settle()
        self.take()
        self._end(Side.ACCEPTOR)
        self._end(Side.OPENER)
        self.settle()
        assert self.acceptor.given[self.acceptor.state.number] == self.opener.sent[self.opener.state.number]
        assert self.opener.state.idle
        assert self.acceptor.state.idle


def test_both_ends_agree_in_every_order_of_events() -> None:
    """Random orders of every event in both directions leave both ends agreed, and each visit's bytes its own."""
    run_state_machine_as_test(
        Lane,
        settings=settings(
            max_examples=300,
            stateful_step_count=80,
            derandomize=True,
            database=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
