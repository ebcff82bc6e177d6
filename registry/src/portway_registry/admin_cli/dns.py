"""`portway-admin dns`: records of the cluster's zone, and the zone for other name servers."""

import time
from pathlib import Path
from typing import Final

import click
from portway_proto.v1.admin_pb2 import (
    DNS_RECORD_SOURCE_CHALLENGE,
    DNS_RECORD_SOURCE_NAME_SERVER,
    DNS_RECORD_SOURCE_OPERATOR,
    AddDnsRecordRequest,
    ListDnsRecordsRequest,
    ListDnsRecordsResponse,
    ListedDnsRecord,
    ListNodesRequest,
    RemoveDnsRecordsRequest,
)
from portway_proto.v1.types_pb2 import DnsRecord, NodeInfo
from portway_runtime.printable import printable_json

from portway_registry.admin_cli.connection import ExitCode, Failure, GlobalOptions, json_option, pass_options
from portway_registry.admin_cli.output import print_json, print_list, print_result, print_text
from portway_registry.admin_cli.table import Column
from portway_registry.dns.export import exported, zone_file

_COLUMNS: Final = tuple(map(Column, ("NAME", "TTL", "TYPE", "DATA", "SET BY")))
_SOURCES: Final = {
    DNS_RECORD_SOURCE_OPERATOR: "operator",
    DNS_RECORD_SOURCE_NAME_SERVER: "name server",
    DNS_RECORD_SOURCE_CHALLENGE: "certificate",
}
_LOOK_EVERY: Final = 2.0  # seconds


@click.group()
def dns() -> None:
    """The cluster's zone: records beside tunnels' names, and the zone for other name servers."""


@dns.group()
def record() -> None:
    """Records beside tunnels' names: add, list, remove."""


@record.command("list")
@json_option
@pass_options
def list_(options: GlobalOptions) -> None:
    """List the records: those of operators, and those that the registry sets. Names of tunnels and regions are not
    among them: nodes answer them by themselves."""
    with options.calls() as calls:
        found = calls.call(calls.stub.ListDnsRecords, ListDnsRecordsRequest()).records
    print_list(options, "records", found, _json, _COLUMNS, _row, "There is no record.")


@record.command("add")
@click.argument("name")
@click.argument("type")
@click.argument("data", nargs=-1, required=True)
@click.option("--ttl", type=click.IntRange(5, 86_400), default=300, show_default=True, help="In seconds.")
@json_option
@pass_options
def add(options: GlobalOptions, name: str, type: str, data: tuple[str, ...], ttl: int) -> None:  # noqa: A002
    """Add a record: `add _psl TXT "https://..."`, `add @ CAA 0 issue letsencrypt.org`.

    NAME is below the domain, or "@" for the domain itself. The same record again gets the new TTL.
    """
    text = _text(type, data)
    request = AddDnsRecordRequest(record=DnsRecord(name=name, type=type, ttl=ttl, data=text))
    with options.calls() as calls:
        added = calls.call(calls.stub.AddDnsRecord, request).record
    print_result(options, _plain(added), f"Added: {_line(added)}")


@record.command("remove")
@click.argument("name")
@click.argument("type")
@click.argument("data", nargs=-1)
@json_option
@pass_options
def remove(options: GlobalOptions, name: str, type: str, data: tuple[str, ...]) -> None:  # noqa: A002
    """Remove the records of a name and type that operators added, or the one with this data."""
    request = RemoveDnsRecordsRequest(name=name, type=type, data=_text(type, data) if data else "")
    with options.calls() as calls:
        removed = calls.call(calls.stub.RemoveDnsRecords, request).removed
    if options.json:
        print_json({"removed": [_plain(one) for one in removed]})
        return
    for one in removed:
        print_text(f"Removed: {_line(one)}")


@dns.command()
@click.option(
    "--name-server",
    "name_servers",
    multiple=True,
    metavar="NAME",
    help="A name server of the zone, once for each: makes the file a whole zone, with SOA and NS records.",
)
@click.option("--watch", is_flag=True, help="Go on, and export again at each change, until interrupted.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write it to this file, replaced as a whole, in place of standard output.",
)
@json_option
@pass_options
def export(options: GlobalOptions, name_servers: tuple[str, ...], watch: bool, output: Path | None) -> None:
    """The cluster's names as a zone file, or with --json as a list, for a DNS provider or name servers of your own.

    Nodes that are ready are in it. Nodes that answer DNS themselves (--dns-listen) need none of this.
    """
    before: list[DnsRecord] | None = None
    with options.calls() as calls:
        while True:
            listed = calls.call(calls.stub.ListDnsRecords, ListDnsRecordsRequest())
            nodes = [one for page in calls.pages(calls.stub.ListNodes, ListNodesRequest()) for one in page.nodes]
            records = _exported(nodes, listed)
            if records != before:
                before = records
                _write(options, records, listed.domain, name_servers, output)
            if not watch:
                return
            time.sleep(_LOOK_EVERY)


def _exported(nodes: list[NodeInfo], listed: ListDnsRecordsResponse) -> list[DnsRecord]:
    if not listed.domain:
        raise Failure("the domain is not known yet: give the registry --domain, or start a node", ExitCode.REFUSED)
    return exported(nodes, listed)


def _write(
    options: GlobalOptions, records: list[DnsRecord], domain: str, name_servers: tuple[str, ...], output: Path | None
) -> None:
    if options.json:
        text = printable_json({"domain": domain, "records": [_plain(one) for one in records]}, sort_keys=True) + "\n"
    else:
        text = zone_file(records, domain, name_servers, int(time.time()))
    if output is None:
        click.echo(text, nl=False)
        return
    part = output.with_name(f"{output.name}.part")
    try:
        part.write_text(text)
        part.replace(output)
    except OSError as error:
        raise Failure(f"cannot write {output}: {error.strerror}", ExitCode.REFUSED) from None


def _text(kind: str, data: tuple[str, ...]) -> str:
    """Data as a zone file has it. A shell takes the quotes away from texts, which hold spaces and semicolons."""
    if kind.upper() in ("TXT", "SPF") and not any(one.startswith('"') for one in data):
        return " ".join('"' + one.replace("\\", "\\\\").replace('"', '\\"') + '"' for one in data)
    return " ".join(data)


def _plain(one: DnsRecord) -> dict[str, object]:
    """A record for programs, with the names of the protocol's DnsRecord."""
    return {"name": one.name, "type": one.type, "ttl": one.ttl, "data": one.data}


def _json(one: ListedDnsRecord) -> dict[str, object]:
    return _plain(one.record) | {"source": _SOURCES.get(one.source, "")}


def _row(one: ListedDnsRecord) -> list[str]:
    found = one.record
    return [found.name, str(found.ttl), found.type, found.data, _SOURCES.get(one.source, "")]


def _line(one: DnsRecord) -> str:
    return f"{one.name} {one.ttl} {one.type} {one.data}"
