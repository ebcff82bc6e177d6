"""`portway-admin certificate`: the certificates that registries obtain from an ACME server."""

import time
from collections.abc import Callable
from typing import Final

import click
from portway_proto.v1.admin_pb2 import (
    REVOCATION_REASON_CESSATION_OF_OPERATION,
    REVOCATION_REASON_KEY_COMPROMISE,
    REVOCATION_REASON_SUPERSEDED,
    REVOCATION_REASON_UNSPECIFIED,
    ListZoneCertificatesRequest,
    RenewZoneCertificateRequest,
    RevocationReason,
    RevokeZoneCertificateRequest,
    ZoneCertificateInfo,
)

from portway_registry.admin_cli.connection import (
    AdminCalls,
    ExitCode,
    Failure,
    GlobalOptions,
    json_option,
    pass_options,
)
from portway_registry.admin_cli.output import print_list, print_result, utc_time
from portway_registry.admin_cli.table import Column

_COLUMNS = (
    Column("ZONE"),
    Column("ISSUER", rank=3),
    Column("ENDS"),
    Column("RENEWED", rank=1),
    Column("STATE", wraps=True),
)
_REASONS: Final[dict[str, "RevocationReason.ValueType"]] = {
    "unspecified": REVOCATION_REASON_UNSPECIFIED,
    "key-compromise": REVOCATION_REASON_KEY_COMPROMISE,
    "superseded": REVOCATION_REASON_SUPERSEDED,
    "cessation-of-operation": REVOCATION_REASON_CESSATION_OF_OPERATION,
}
_LOOK_EVERY: Final = 0.5  # seconds
_PATIENCE: Final = 300.0  # seconds: a server may look for two minutes, and issue for two more

_no_wait = click.option("--no-wait", is_flag=True, help="Return at once; `certificate list` shows what becomes of it.")


@click.group()
def certificate() -> None:
    """Certificates of regions and of the registry's name: list, renew, revoke.

    Registries obtain them from an ACME server (--acme-directory), renew them in time and hand them to nodes.
    """


@certificate.command("list")
@json_option
@pass_options
def list_(options: GlobalOptions) -> None:
    """List the certificates that the cluster has or needs.

    RENEWED is when a certificate is renewed next. STATE says why one is not there or not renewed.
    """
    with options.calls() as calls:
        found = _all(calls)
    print_list(options, "certificates", found, _json, _COLUMNS, _row, "No certificate is needed yet.")


@certificate.command()
@click.argument("zone")
@_no_wait
@json_option
@pass_options
def renew(options: GlobalOptions, zone: str, no_wait: bool) -> None:
    """Obtain another certificate for ZONE now.

    ZONE is REGION.DOMAIN or the registry's name. Nodes show the new one to new connections at once.
    """
    with options.calls() as calls:
        request = RenewZoneCertificateRequest(zone=zone)
        before = calls.call(calls.stub.RenewZoneCertificate, request).certificate
        _report(options, zone, no_wait, lambda: _awaited(calls, before, lambda now: _is_newer(now, before)))


@certificate.command()
@click.argument("zone")
@click.option(
    "--reason", type=click.Choice(list(_REASONS)), default="unspecified", show_default=True, help="Why, for the server."
)
@click.option(
    "--first",
    is_flag=True,
    help="Revoke it before another one is there: visitors that look at revocations are refused until then.",
)
@_no_wait
@json_option
@pass_options
def revoke(options: GlobalOptions, zone: str, reason: str, first: bool, no_wait: bool) -> None:
    """Obtain another certificate for ZONE, with another key, and revoke the present one.

    After the theft of a node, or of its state folder: --reason key-compromise, for each region.
    """
    request = RevokeZoneCertificateRequest(zone=zone, reason=_REASONS[reason], first=first)
    with options.calls() as calls:
        before = calls.call(calls.stub.RevokeZoneCertificate, request).certificate
        _report(
            options,
            zone,
            no_wait,
            lambda: _awaited(calls, before, lambda now: _is_newer(now, before) and not now.revoking),
        )


def _all(calls: AdminCalls) -> list[ZoneCertificateInfo]:
    pages = calls.pages(calls.stub.ListZoneCertificates, ListZoneCertificatesRequest())
    return [one for page in pages for one in page.certificates]


def _is_newer(now: ZoneCertificateInfo, before: ZoneCertificateInfo) -> bool:
    return now.obtained_at_ms > before.obtained_at_ms


def _report(options: GlobalOptions, zone: str, no_wait: bool, awaited: Callable[[], ZoneCertificateInfo]) -> None:
    if no_wait:
        text = f"Ordered: `certificate list` shows when {zone} has another certificate."
        print_result(options, {"zone": zone, "ordered": True}, text)
        return
    found = awaited()
    print_result(options, _json(found), f"{zone} has a certificate until {utc_time(found.until_ms)}.")


def _awaited(
    calls: AdminCalls, before: ZoneCertificateInfo, done: Callable[[ZoneCertificateInfo], bool]
) -> ZoneCertificateInfo:
    """The certificate once it is `done`. Raises Failure when a try fails, and after _PATIENCE seconds."""
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        now = next((one for one in _all(calls) if one.zone == before.zone), before)
        if done(now):
            return now
        if now.failed_at_ms > before.failed_at_ms:
            raise Failure(f"{now.failure}; it is tried again at {utc_time(now.retry_at_ms)}", ExitCode.REFUSED)
        time.sleep(_LOOK_EVERY)
    raise Failure("no registry has done it yet: `certificate list` and the registries' logs say more", ExitCode.REFUSED)


def _json(found: ZoneCertificateInfo) -> dict[str, object]:
    """A certificate for programs, with the names of the protocol's ZoneCertificateInfo; null where there is nothing to
    say."""
    return {
        "zone": found.zone,
        "names": list(found.names),
        "directory": found.directory or None,
        "issuer": found.issuer or None,
        "from_ms": found.from_ms or None,
        "until_ms": found.until_ms or None,
        "obtained_at_ms": found.obtained_at_ms or None,
        "renew_at_ms": found.renew_at_ms or None,
        "wanted_at_ms": found.wanted_at_ms or None,
        "revoking": found.revoking,
        "failures": found.failures,
        "failure": found.failure or None,
        "failed_at_ms": found.failed_at_ms or None,
        "retry_at_ms": found.retry_at_ms or None,
    }


def _row(found: ZoneCertificateInfo) -> list[str]:
    return [found.zone, found.issuer or "-", utc_time(found.until_ms), utc_time(found.renew_at_ms), _state(found)]


def _state(found: ZoneCertificateInfo) -> str:
    if found.failures:
        times = "once" if found.failures == 1 else f"{found.failures} times"
        return f"failed {times}: {found.failure}; next try {utc_time(found.retry_at_ms)}"
    if not found.until_ms:
        return "being obtained"
    if not found.names:
        return "not renewed: no node needs it"
    if found.wanted_at_ms:
        return "being renewed"
    return "being revoked" if found.revoking else "valid"
