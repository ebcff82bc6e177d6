"""`portway-admin doctor`: what is wrong with the cluster, as the registry, a node, a visitor and a stranger's resolver
see it.

Here: options, asking the registry, printing. Not here: the checks (doctor/).
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, TypeVar, cast

import click
import grpc
from portway_proto.v1.admin_pb2 import (
    GetHealthRequest,
    GetHealthResponse,
    ListAuthoritiesRequest,
    ListGrantKeysRequest,
    ListNodesRequest,
    ListTunnelsRequest,
    ListZoneCertificatesRequest,
    ZoneCertificateInfo,
)
from portway_runtime.endpoints import Endpoint, parse_endpoint
from portway_runtime.version import VERSION

from portway_registry.admin_cli.connection import (
    AdminCalls,
    ExitCode,
    Failure,
    GlobalOptions,
    json_option,
    pass_options,
)
from portway_registry.admin_cli.output import print_json, print_text

if TYPE_CHECKING:
    # Imported when the command runs: they bring dnspython, which takes 60 ms.
    from portway_registry.doctor.facts import ClusterFacts
    from portway_registry.doctor.finding import Outcome, Severity

Answer = TypeVar("Answer")
_NAME_SERVERS_AT: Final = 53
_TUNNELS: Final = 1_000


def _resolver_address(ctx: click.Context, parameter: click.Parameter, text: str) -> Endpoint | None:
    if not text:
        return None
    try:
        return parse_endpoint(text, default_port=_NAME_SERVERS_AT)
    except ValueError as error:
        raise click.BadParameter(f"{text!r}: {error}") from None


@click.command()
@click.option(
    "--resolver",
    metavar="HOST[:PORT]",
    default="",
    callback=_resolver_address,
    help="The IP address of a resolver to ask for names, such as that of a stranger; by default this machine's.",
)
@click.option("--domain", default="", help="The cluster's domain, for when the registry does not answer.")
@click.option(
    "--visits/--no-visits",
    default=True,
    show_default=True,
    help="Visit one open tunnel of each region at each node: its server sees connections that are closed at once.",
)
@json_option
@pass_options
@click.pass_context
def doctor(ctx: click.Context, options: GlobalOptions, resolver: Endpoint | None, domain: str, visits: bool) -> None:
    """Look at every part of the cluster.

    Each finding says what is wrong, why it matters and what mends it. Checks run side by side, for some seconds at
    most. Run it where visitors are, too: what this machine reaches is part of it.

    \b
    Exit codes:
      0   nothing, or notes alone
      10  warnings: something will not work for long, or not everywhere
      11  errors: something does not work, or one more fault ends it
    """
    from portway_registry.doctor.check import run_checks
    from portway_registry.doctor.checkup import Surroundings, checks_of
    from portway_registry.doctor.finding import Severity, worst
    from portway_registry.doctor.resolver import Resolver

    began = time.monotonic()
    try:
        asking = Resolver([] if resolver is None else [resolver])
    except ValueError:
        raise click.BadParameter("give the resolver's IP address", param_hint="--resolver") from None
    around = Surroundings(options.direct_endpoints(), options.ca_content(), asking, VERSION)
    asked, facts = _ask_registry(options, domain, visits=visits)

    async def run() -> "list[Outcome]":
        return await run_checks(checks_of(facts, domain, around))

    outcomes = [asked, *asyncio.run(run())]
    found = worst(outcomes)
    if options.json:
        print_json(_json(outcomes, found, time.monotonic() - began))
    else:
        _print(outcomes, time.monotonic() - began)
    codes = {Severity.WARNING: ExitCode.WARNINGS, Severity.ERROR: ExitCode.ERRORS}
    ctx.exit(ExitCode.OK if found is None else codes.get(found, ExitCode.OK))


def _ask_registry(options: GlobalOptions, domain: str, *, visits: bool) -> "tuple[Outcome, ClusterFacts | None]":
    """What the registry says, and the outcome of asking it."""
    from portway_registry.doctor.checkup import no_answer
    from portway_registry.doctor.facts import ClusterFacts
    from portway_registry.doctor.finding import Outcome

    began = time.monotonic()
    try:
        with options.calls() as calls:
            stub = calls.stub
            nodes = [node for page in calls.pages(stub.ListNodes, ListNodesRequest()) for node in page.nodes]
            authorities = [
                one for page in calls.pages(stub.ListAuthorities, ListAuthoritiesRequest()) for one in page.authorities
            ]
            keys = [one for page in calls.pages(stub.ListGrantKeys, ListGrantKeysRequest()) for one in page.keys]
            tunnels = _one_of_each_zone(calls) if visits else {}
            obtained = _obtained(calls)
            before, sent_ms = time.monotonic(), time.time_ns() // 1_000_000
            health = _health(calls)
            took = time.monotonic() - before
    except Failure as failure:
        return Outcome("registry", time.monotonic() - began, (no_answer(str(failure)),)), None
    facts = ClusterFacts(health, nodes, authorities, keys, sent_ms + round(took * 500), took, domain, tunnels, obtained)
    return Outcome("registry", time.monotonic() - began), facts


def _health(calls: AdminCalls) -> GetHealthResponse | None:
    """None from a registry of an earlier release."""
    return _known(lambda: calls.call(calls.stub.GetHealth, GetHealthRequest()), None)


def _obtained(calls: AdminCalls) -> list[ZoneCertificateInfo]:
    """None from a registry of an earlier release, or without an ACME server."""
    pages = calls.pages(calls.stub.ListZoneCertificates, ListZoneCertificatesRequest())
    return _known(lambda: [one for page in pages for one in page.certificates], [])


def _known(ask: Callable[[], Answer], otherwise: Answer) -> Answer:
    """The answer; `otherwise` from a registry of an earlier release, which does not know the call, or from one whose
    settings leave out what it is about."""
    try:
        return ask()
    except grpc.RpcError as error:
        if cast("grpc.Call", error).code() in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.FAILED_PRECONDITION):
            return otherwise
        raise


def _one_of_each_zone(calls: AdminCalls) -> dict[str, str]:
    """By zone the host of one tunnel that is open, among the first ones."""
    listed = calls.call(calls.stub.ListTunnels, ListTunnelsRequest(page_size=_TUNNELS)).tunnels
    return {one.host.partition(".")[2]: one.host for one in listed if one.host}


def _json(outcomes: "Sequence[Outcome]", found: "Severity | None", took: float) -> dict[str, object]:
    return {
        "worst": None if found is None else found.name.lower(),
        "took_s": round(took, 3),
        "checks": [
            {
                "check": outcome.check,
                "took_s": round(outcome.took, 3),
                "skipped": outcome.skipped or None,
                "findings": [
                    {
                        "kind": one.kind,
                        "severity": one.severity.name.lower(),
                        "subject": one.subject,
                        "what": one.what,
                        "why": one.why,
                        "mend": one.mend,
                    }
                    for one in outcome.findings
                ],
            }
            for outcome in outcomes
        ],
    }


def _print(outcomes: "Sequence[Outcome]", took: float) -> None:
    width = max(len(outcome.check) for outcome in outcomes) + 2
    for outcome in outcomes:
        print_text(f"{outcome.check:<{width}}{_result(outcome)}")
    findings = sorted((one for outcome in outcomes for one in outcome.findings), key=lambda one: -one.severity)
    for one in findings:
        print_text("")
        print_text(f"{one.severity.name}  {one.kind}")
        print_text(f"  {one.what}")
        print_text(f"  Why: {one.why}")
        print_text(f"  Mend: {one.mend}")
    print_text("")
    done = sum(not outcome.skipped for outcome in outcomes)
    print_text(f"{done} checks in {took:.1f} s: {_counted([one.severity for one in findings]) or 'nothing found'}.")


def _result(outcome: "Outcome") -> str:
    if outcome.skipped:
        return f"skipped: {outcome.skipped}"
    return _counted([one.severity for one in outcome.findings]) or "ok"


def _counted(severities: "Sequence[Severity]") -> str:
    counts = {one: severities.count(one) for one in sorted(set(severities), reverse=True)}
    return ", ".join(f"{number} {one.name.lower()}{'s' if number > 1 else ''}" for one, number in counts.items())
