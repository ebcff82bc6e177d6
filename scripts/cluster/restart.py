"""A part of a cluster that is killed and started again on the addresses that it had.

Here: the end without a word (SIGKILL) and the start after it. Not here: the first start (portway.py).
"""

import json

from cluster.processes import Process, Processes


class Restartable:
    """One process with a ready file; it must be ready now."""

    def __init__(self, processes: Processes, process: Process) -> None:
        self._processes = processes
        self._process = process
        assert process.ready_file is not None
        told = json.loads(process.ready_file.read_text())
        self._command = list(process.command)
        for name, address in told.items():
            # Ports that were free ones are its own from now on.
            flag = f"--{name.replace('_', '-')}"
            if flag in self._command:
                self._command[self._command.index(flag) + 1] = address

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        """SIGKILL: it says nothing to anybody, the kernel closes its sockets."""
        self._process.popen.kill()
        self._process.popen.wait()
        self._processes.forget_ended()

    def start(self) -> None:
        """Start it again, and wait until it is ready. Raises ProcessFailed."""
        self._process = self._processes.start(self._process.name, self._command, ready_flag=True)
        self._processes.wait_ready(self._process)
