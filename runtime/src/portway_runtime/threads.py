"""Starting threads, which the system may refuse: a limit of processes (RLIMIT_NPROC), a full pids cgroup.

gRPC ends the process when it cannot start the threads that it needs, so code that starts it calls `demand_threads`
first.
"""

import _thread
import atexit
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from portway_runtime import os_threads
from portway_runtime.errors import NoThread

# gRPC starts one worker for each core, from 4 to 16, and two to watch them and its timers; some are for other threads.
_GRPC_WORKERS: Final = min(max(os.cpu_count() or 1, 4), 16)
GRPC_THREADS: Final = _GRPC_WORKERS + 4


def start_thread(function: Callable[[], object], name: str, *, daemon: bool = True) -> None:
    """Run `function` on a new thread: one of the system's, whatever the program has in their place. For one that is not
    a daemon the interpreter's end waits. Raises NoThread when none can be had."""
    try:
        if daemon:
            os_threads.start_thread(function, name)
        elif os_threads.patched():
            _start_awaited(function, name)
        else:
            threading.Thread(target=function, name=name, daemon=False).start()
    except RuntimeError as error:
        raise _no_thread(error) from None


def _start_awaited(function: Callable[[], object], name: str) -> None:
    """What `threading` does for a thread that is no daemon, where its threads are others. Raises RuntimeError."""
    ended = os_threads.Event()

    def run() -> None:
        try:
            function()
        finally:
            ended.set()

    os_threads.start_thread(run, name)
    atexit.register(ended.wait_among_others)


def single_thread(name: str) -> ThreadPoolExecutor:
    """An executor with one thread, which runs by now: a later call cannot fail for want of one. Raises NoThread."""
    executor = ThreadPoolExecutor(1, thread_name_prefix=name)
    try:
        executor.submit(_nothing)
    except RuntimeError as error:
        raise _no_thread(error) from None
    return executor


def demand_threads(count: int = GRPC_THREADS) -> None:
    """Raise NoThread unless so many threads can be started now. They are started, and have ended when it returns: some
    20 µs for each. In a program whose threads gevent or eventlet has replaced, nothing is tried."""
    if os_threads.patched():
        return
    gate = _thread.allocate_lock()
    ended = threading.Semaphore(0)

    def wait() -> None:
        with gate:
            pass
        ended.release()

    started = 0
    gate.acquire()
    try:
        for _ in range(count):
            _thread.start_new_thread(wait, ())
            started += 1
    except RuntimeError as error:
        raise _no_thread(error) from None
    finally:
        gate.release()
        for _ in range(started):
            ended.acquire()


def _nothing() -> None:
    pass


def _no_thread(error: RuntimeError) -> NoThread:
    if "shutdown" in str(error):  # from Python 3.12 on
        return NoThread("this program is ending, and starts no thread any more: do this earlier")
    return NoThread(f"{error}: raise the limit of threads (ulimit -u, TasksMax=, the container's limit of pids)")
