"""How much memory and processor time a process takes. Imports next to nothing: a client is weighed
with it."""

import os


def resident_bytes(pid: int) -> int:
    """The memory a process has in RAM.

    Raises:
        ProcessLookupError: there is no such process.
    """
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # not Linux
        with os.popen(f"ps -o rss= -p {pid}") as output:
            text = output.read()
    if not text.strip():
        raise ProcessLookupError(pid)
    return int(text) * 1024


def processor_seconds(pid: int) -> float:
    """The processor time of a process's main thread, to the nanosecond.

    Raises:
        OSError: there is no such process, or this is not Linux.
    """
    with open(f"/proc/{pid}/schedstat") as file:
        return int(file.read().split()[0]) / 1e9
