"""The tables of a run, as text. Not here: the figures (figures.py, registry_load.py)."""

from portway_lab.simulation.figures import Load, Moved, Nearness, Newcomer, Placed, Returned, Spread
from portway_lab.simulation.registry_load import PeerLists, RegistryLoad

_LANDED_SHOWN = 4
_ROWS = (
    ("Locate", "locates"),
    ("Renew", "renewals"),
    ("messages of nodes", "node_messages"),
    ("KB to clients", "client_bytes"),
    ("KB from and to nodes", "node_bytes"),
    ("store: reads", "store_reads"),
    ("store: transactions", "store_transactions"),
    ("store: keys written or gone", "store_writes"),
    ("store: lease calls", "store_lease_calls"),
    ("store: KB written", "store_written_bytes"),
    ("watch events, each replica", "events"),
    ("watch KB, each replica", "event_bytes"),
)


def placement_table(placed: Placed) -> str:
    heads = f"{'ms over it: 50, 90, 99 %':<27}{'times it: 50, 90, 99 %'}"
    lines = [f"{'How far from the best possible node':<42}{'clients':>8}{'at best':>8}   {heads}"]
    rows = [("first of the registry's order", placed.first_candidate), ("after the race", placed.after_race)]
    rows.append(("  the later half of them", placed.later_half))
    rows += [(f"  GeoIP: {name}", one) for name, one in placed.by_location.items()]
    lines += [_nearness(title, one) for title, one in rows]
    raced, known = placed.one_region_raced, placed.one_region_known
    lines += [
        f"{placed.sessions:,} sessions, {placed.refused:,} refused; the best node is {_ms(placed.best_ms)} ms away",
        f"one region has all that are raced for {raced:.1%} of clients, all candidates for {known:.1%}",
    ]
    return "\n".join(lines)


def load_table(load: Load, newcomer: Newcomer) -> str:
    fill = load.region_fill
    lines = (
        "How evenly load spreads",
        f"  sessions a node: {load.least:,} to {load.most:,}, mean {load.mean:,.0f}",
        f"  the fullest node of a region over its mean: {_times(load.within_region)} (50, 90, 99 % of regions)",
        f"  how full regions are: {fill.p50:.0%}, {fill.p90:.0%}, {fill.worst:.0%} (50, 90, 100 %)",
        f"  a new node in {newcomer.region}: sessions a second {newcomer.a_second:.2f}, most {newcomer.most_a_second}",
        f"  meanwhile to each of its siblings: {newcomer.siblings_a_second:.2f}",
    )
    return "\n".join(lines)


def death_table(moved: Moved) -> str:
    landed = ", ".join(f"{name} {share:.0%}" for name, share in list(moved.landed.items())[:_LANDED_SHOWN])
    more = len(moved.landed) - _LANDED_SHOWN
    others = f" and {more} more" if more > 0 else ""
    back = moved.back_seconds
    lines = (
        f"When {moved.region} falls silent ({moved.nodes} nodes)",
        f"  {moved.sessions:,} sessions move; they land in {landed}{others}",
        f"  back after {back.p50:.1f}, {back.p90:.1f}, {back.p99:.1f} s (50, 90, 99 %)",
        f"  the last after {back.worst:.1f} s; not back: {moved.not_back}",
        f"  round trip to the node before {_ms(moved.before_ms)} ms, after {_ms(moved.after_ms)} ms (50, 90, 99 %)",
        f"  {moved.dials_in_vain:,} dials without an answer, {moved.turned_away:,} connections closed by full nodes",
        f"  {moved.postponed:,} sessions were asked to come later or elsewhere",
        f"  at most {moved.most_to_one_node:,} sessions went to one node",
        f"  handshakes waited at most {moved.longest_queue_seconds:.1f} s",
    )
    return "\n".join(lines)


def return_table(returned: Returned, region: str) -> str:
    back = returned.back_seconds
    before, away, after = _ms(returned.before_ms), _ms(returned.away_ms), _ms(returned.after_ms)
    lines = (
        f"When {region} is ready again: {returned.clients:,} of its clients, for an hour",
        f"  it is clearly nearer to {returned.away:,} of them; {returned.still_away:,} of these are not back",
        f"  back after {back.p50:.0f}, {back.p90:.0f}, {back.p99:.0f}, {back.worst:.0f} s (50, 90, 99, 100 %)",
        f"  in one minute at most {returned.most_a_minute:.1%} of them",
        f"  their round trip before {before} ms, away {away} ms, back {after} ms (50, 90, 99 %)",
        f"  of all, {returned.moved:.1%} moved, {returned.more_than_once:.1%} more than once",
        f"  {returned.postponed:,} were asked to come later",
        f"  Locate a second: most {returned.most_looks:,}, at rest {returned.resting_looks:.1f}",
        f"  dials a second: most {returned.most_dials:,}, at rest {returned.resting_dials:.1f}",
    )
    return "\n".join(lines)


def registry_table(steady: RegistryLoad, worst: RegistryLoad, lists: PeerLists, replicas: int) -> str:
    lines = [f"{'Load of the registry, per second':<36}{'steady':>12}{'worst second':>14}{'per replica':>14}"]
    for title, name in _ROWS:
        shown = []
        for value in (getattr(steady, name), getattr(worst, name)):
            shown.append(value / 1000 if "KB" in title else value)
        share = "" if title.startswith("store") else f"{shown[1] / (1 if 'each' in title else replicas):>14,.0f}"
        lines.append(f"{title:<36}{shown[0]:>12,.0f}{shown[1]:>14,.0f}{share}")
    lines.append(
        f"lists of nodes as the region's leases end: {lists.rounds} of {lists.one_list_bytes / 1000:,.0f} KB to each "
        f"node, {lists.total_bytes / 1e9:,.2f} GB in all"
    )
    return "\n".join(lines)


def _nearness(title: str, one: Nearness) -> str:
    over, ratio = one.over_best_ms, one.ratio
    return (
        f"{title:<42}{one.share:>8.1%}{one.at_best:>8.1%}   "
        f"{f'{over.p50:.1f}, {over.p90:.1f}, {over.p99:.1f}':<27}{ratio.p50:.2f}, {ratio.p90:.2f}, {ratio.p99:.2f}"
    )


def _ms(one: Spread) -> str:
    return f"{one.p50:.1f}, {one.p90:.1f}, {one.p99:.1f}"


def _times(one: Spread) -> str:
    return f"{one.p50:.2f}, {one.p90:.2f}, {one.p99:.2f} ×"
