"""A part of a cluster that is ended and started again on the addresses that it had.

Here: its ends, with and without a word, and the starts after them. Not here: the first start (portway.py).
"""

import json
import signal
import subprocess

from portway_lab.cluster.processes import Process, Processes


class Restartable:
    """One process; one with a ready file must be ready now."""

    def __init__(self, processes: Processes, process: Process) -> None:
        self._processes = processes
        self.process = process
        self._command = list(process.command)
        told = json.loads(process.ready_file.read_text()) if process.ready_file is not None else {}
        for name, address in told.items():
            # Ports that were free ones are its own from now on.
            flag = f"--{name.replace('_', '-')}"
            if flag in self._command:
                self._command[self._command.index(flag) + 1] = address

    @property
    def pid(self) -> int:
        return self.process.pid

    def ended(self) -> bool:
        return self.process.ended()

    def was_ready(self) -> bool:
        """Whether it has written its ready file since it was started."""
        return self.process.ready_file is not None and self.process.ready_file.exists()

    def signal(self, number: signal.Signals) -> None:
        self.process.popen.send_signal(number)

    def kill(self) -> None:
        """SIGKILL: it says nothing to anybody, the kernel closes its sockets."""
        self.process.popen.kill()
        self.process.popen.wait()
        self._processes.forget_ended()

    def ask_to_end(self) -> None:
        """SIGTERM; it ends in order, in its own time."""
        self.signal(signal.SIGTERM)

    def wait_end(self, within: float) -> bool:
        """Until it has ended; False when it took longer, and was killed then."""
        try:
            self.process.popen.wait(within)
        except subprocess.TimeoutExpired:
            self.kill()
            return False
        self._processes.forget_ended()
        return True

    def drop_prefix(self, words: int) -> None:
        """From the next start on without the first words of its command line."""
        del self._command[:words]

    def begin(self) -> None:
        """Start it again, and wait for nothing."""
        with_ready_file = self.process.ready_file is not None
        self.process = self._processes.start(self.process.name, self._command, ready_flag=with_ready_file)

    def start(self) -> None:
        """Start it again, and wait until it is ready. Raises ProcessFailed."""
        self.begin()
        self._processes.wait_ready(self.process)
