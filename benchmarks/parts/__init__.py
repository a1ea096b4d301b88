"""The parts of a run. Each module has `contests(bench)`, which starts what it measures; what it
takes is listed in `ALL`, in the order of a whole run."""

ALL = ("server", "client", "memory", "latency", "scale", "overload", "streams", "hosts", "rolling")

#: The tables a chart is made of are found by these titles.
SEQUENTIAL, CONCURRENT = "one caller", "64 callers"
CALLS = "Calls, each peer's client against its server"
REPLIES = "One server process, driven by lineload"
