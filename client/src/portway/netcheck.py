"""What `portway netcheck` prints: a table of the nodes of every region for people, one JSON object for programs.

Here: the form of both. Not here: what is measured, and which node is picked (engine/survey.py).
"""

from collections import Counter
from collections.abc import Sequence
from typing import Final

from portway_runtime.printable import printable_json, printable_line

from portway.engine.survey import MeasuredNode, Pick, Survey

_HEADINGS: Final = ("REGION", "NODE", "ROUND TRIP", "READY AFTER", "EXPECTED", "DISTANCE", "LOAD", "ADDRESS", "")
_RIGHT_ALIGNED: Final = frozenset({2, 3, 5, 6})
_UNKNOWN: Final = "-"


def as_table(
    survey: Survey, measured: Sequence[MeasuredNode], picked: Pick | None, later: MeasuredNode | None = None
) -> str:
    """Text for people. Regions are in the order of their best nodes."""
    rows: list[tuple[str, ...]] = [_HEADINGS]
    rows += [_row(one, picked) for nodes in _by_region(measured).values() for one in nodes]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    lines = [f"registry  {survey.registry}", f"client    {_client(survey)}", *_proxies(measured), ""]
    for row in rows:
        cells = [
            cell.rjust(width) if column in _RIGHT_ALIGNED else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    if survey.total > len(measured):
        lines.append(f"and {survey.total - len(measured)} more nodes of these regions")
    unreached = sum(not one.reached for one in measured)
    if unreached:
        lines.append(f"not reached: {unreached} of {len(measured)}")
    lines += ["", _verdict(picked)]
    if later is not None:
        where = f"{later.node.node.name} in {later.node.node.region}"
        lines.append(f"later: {where}, which is clearly nearer: a tunnel goes there by itself")
    return "\n".join(map(printable_line, lines))


def as_json(
    survey: Survey, measured: Sequence[MeasuredNode], picked: Pick | None, later: MeasuredNode | None = None
) -> str:
    """One line of JSON for programs. Times are in milliseconds; an unknown value is null."""
    latitude, longitude = survey.position or (None, None)
    return printable_json(
        {
            "registry": survey.registry,
            "client": {
                "address": survey.address,
                "country": survey.country or None,
                "latitude": latitude,
                "longitude": longitude,
            },
            "nodes": survey.total,
            "regions": [
                {"region": region, "nodes": [_object(one) for one in nodes]}
                for region, nodes in _by_region(measured).items()
            ],
            "picked": None if picked is None else picked.measured.node.node.name,
            "ready_ms": None if picked is None else _rounded(picked.after * 1000),
            "why": "" if picked is None else picked.why,
            "later": None if later is None else later.node.node.name,
        }
    )


def _by_region(measured: Sequence[MeasuredNode]) -> dict[str, list[MeasuredNode]]:
    regions: dict[str, list[MeasuredNode]] = {}
    for one in measured:
        regions.setdefault(one.node.node.region, []).append(one)
    return regions


def _row(one: MeasuredNode, picked: Pick | None) -> tuple[str, ...]:
    node = one.node
    notes = [node.state] if not one.candidate else []
    if not one.reached:
        notes.append(f"not reached: {one.short}")
    if picked is not None and picked.measured is one:
        notes.append("<- picked")
    return (
        node.node.region,
        node.node.name,
        _ms(one.rtt_ms) if one.rtt_ms is not None else _UNKNOWN,
        _ms(one.took * 1000) if one.reached else _UNKNOWN,
        _expected(one),
        f"{node.distance_km:.0f} km" if node.distance_km else _UNKNOWN,
        f"+{node.load_ms} ms" if node.load_ms else _UNKNOWN,
        str(node.node.address),
        ", ".join(notes),
    )


def _object(one: MeasuredNode) -> dict[str, object]:
    node = one.node
    return {
        "name": node.node.name,
        "address": str(node.node.address),
        "proxy": None if node.node.via is None else str(node.node.via.address),
        "state": node.state,
        "reached": one.reached,
        "not_reached": one.short or None,
        "rtt_ms": None if one.rtt_ms is None else _rounded(one.rtt_ms),
        "ready_ms": None if not one.reached else _rounded(one.took * 1000),
        "problem": one.problem,
        "expected_rtt_ms": _rounded(node.expected.ms) if node.expected.ms else None,
        "learned": node.expected.learned,
        "distance_km": _rounded(node.distance_km) if node.distance_km else None,
        "load_ms": node.load_ms,
    }


def _client(survey: Survey) -> str:
    if survey.position is None:
        return f"{survey.address}, unknown to GeoIP: nodes of regions far apart are tried, and what others measured"
    latitude, longitude = survey.position
    country = f"{survey.country}, " if survey.country else ""
    return f"{survey.address}, for GeoIP in {country}at {latitude:g}, {longitude:g}"


def _proxies(measured: Sequence[MeasuredNode]) -> list[str]:
    counts = Counter(one.node.node.via for one in measured if one.node.node.via is not None)
    return [
        f"proxy     {via.address}, which {via.source} names, to {count} of {len(measured)} nodes: "
        "their round trips are those of TLS"
        for via, count in counts.items()
    ]


def _expected(one: MeasuredNode) -> str:
    expected = one.node.expected
    if not expected.ms:
        return _UNKNOWN
    return f"{_ms(expected.ms)}, {'learned' if expected.learned else 'by distance'}"


def _verdict(picked: Pick | None) -> str:
    if picked is None:
        return "picked: none, for no node that takes clients can be reached"
    node = picked.measured.node.node
    return f"picked: {node.name} in {node.region}, ready after {_ms(picked.after * 1000)}: {picked.why}"


def _ms(value: float) -> str:
    digits = 2 if value < 1 else 1 if value < 100 else 0
    return f"{value:.{digits}f} ms"


def _rounded(value: float) -> float:
    return round(value, 3)
