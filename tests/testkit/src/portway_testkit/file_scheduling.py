"""Tests of one file run on one worker, and a run ends although a worker has died.

pytest-xdist's own (3.8.0) gives the files that a dead worker had finished to other workers again, and the test that
ended it. A worker with nothing to do is never asked again, and the run waits for it for ever
(https://github.com/pytest-dev/pytest-xdist/issues/1378, /1327).
"""

from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController

_LEAST_PENDING = 3  # a worker begins its last test but one when it is told what comes after it


class FileScheduling(LoadFileScheduling):  # type: ignore[misc] # xdist has no types
    """What pytest_xdist_make_scheduler returns for `--dist loadfile`."""

    def remove_node(self, node: WorkerController) -> str | None:
        """Queue what the worker has not begun. Returns the test that it died in, which is not run again."""
        files = self.assigned_work[node]
        died_in = next((test for tests in files.values() for test, done in tests.items() if not done), None)
        if died_in is not None:
            files[self._split_scope(died_in)][died_in] = True
        self.assigned_work[node] = {name: tests for name, tests in files.items() if not all(tests.values())}
        super().remove_node(node)
        return died_in

    def _reschedule(self, node: WorkerController) -> None:
        """Give a worker its next file, unless it still collects the tests: `schedule` is called when it has."""
        if node in self.registered_collections:
            super()._reschedule(node)

    def schedule(self) -> None:
        """Give each worker its first files, and one that takes a dead one's place as many."""
        super().schedule()
        for node in self.nodes:
            for _ in range(_LEAST_PENDING):
                self._reschedule(node)
