"""`portway-admin backup`: that the store was backed up by other means than `portway-registry export`."""

import click
from portway_proto.v1.admin_pb2 import NoteBackupRequest

from portway_registry.admin_cli.connection import GlobalOptions, json_option, pass_options
from portway_registry.admin_cli.output import print_result, utc_time


@click.group()
def backup() -> None:
    """Back-ups of the store: note. `portway-registry export` makes one."""


@backup.command()
@click.option("--by", default="", help="What made it, such as 'etcdctl snapshot', for people.")
@json_option
@pass_options
def note(options: GlobalOptions, by: str) -> None:
    """Record that the store was backed up now.

    For a script that has made a snapshot of etcd. `portway-admin doctor` warns when the last one is too old;
    `portway-registry export` records itself.
    """
    with options.calls() as calls:
        noted = calls.call(calls.stub.NoteBackup, NoteBackupRequest(by=by)).backup
    text = f"Recorded: the store was backed up at {utc_time(noted.at_ms)}."
    print_result(options, {"at_ms": noted.at_ms, "by": noted.by or None}, text)
