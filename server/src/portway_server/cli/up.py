"""`portway-server up`: runs this machine's programs until a signal, or until one of them fails."""

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

import click
from portway_runtime.run import FAILED, STOPPED, UNUSABLE_SETTINGS, OnFailure, run_program, serve

from portway_server.cli.options import config_option
from portway_server.config import SETTINGS, MachineConfig, load
from portway_server.errors import ChildEnded, ServerError

_STDERR: Final = 2
_REMOVED: Final = 3
# What systemd sets for a service, whose standard output is the journal.
_SERVICE: Final = ("NOTIFY_SOCKET", "INVOCATION_ID")


@click.command()
@config_option
def up(config: Path) -> None:
    """Run this machine's programs: the registry, if it has one, and the relay node.

    Until SIGTERM or SIGINT, or until one of them fails: the other one is stopped then, and the reason is the last line
    of the log. SIGHUP has both read their certificates again. Once all is ready the first client's line is printed, and
    nothing else is; later starts print in which file its token is. As a service nothing is printed: the service manager
    is told, and the line is in the file that the log names.

    Exit codes: 0 stopped by a signal, 1 a part failed, 2 settings that cannot be used, 3 an operator removed the node
    from the cluster.
    """
    # The log's own descriptor 2 is a pipe from now on; the programs have logs of their own.
    log = os.dup(_STDERR)
    words = ["--config", str(config)]
    run_program(
        "portway-server",
        lambda: _Loaded(load(config, os.environ)),
        partial(_run, log=log, environment=os.environ),
        faults=ServerError,
        form=SETTINGS.log_format(words, os.environ),
    )


class _Loaded:
    """All settings, with those of the log at the front."""

    def __init__(self, machine: MachineConfig) -> None:
        self.machine = machine
        self.log_format = machine.own.log_format
        self.log_level = machine.own.log_level


async def _run(loaded: _Loaded, *, log: int, environment: Mapping[str, str]) -> int:
    # gRPC is imported late: `init` does without.
    from portway_server.up import Up

    ended: list[ChildEnded] = []

    def make(on_failure: OnFailure) -> Up:
        def failed(error: BaseException) -> None:
            if isinstance(error, ChildEnded):
                ended.append(error)
            on_failure(error)

        return Up(
            loaded.machine,
            environment,
            log=log,
            on_ready=partial(_tell, service=any(name in environment for name in _SERVICE)),
            on_failure=failed,
        )

    try:
        code = await serve(make, ready_file=None, addresses=lambda _: {}, on_hangup=Up.reload)
    except ChildEnded as error:
        return _exit_code(error)
    return code if code == STOPPED or not ended else _exit_code(ended[0])


def _exit_code(end: ChildEnded) -> int:
    """A program's own code, where it says what to do about it."""
    return end.code if end.code in (UNUSABLE_SETTINGS, _REMOVED) else FAILED


def _tell(line: str, *, service: bool) -> None:
    if line and not service:
        with suppress(BrokenPipeError):
            print(line, file=sys.stdout, flush=True)
