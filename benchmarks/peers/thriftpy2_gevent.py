"""thriftpy2 as with threads, both sides patched for gevent."""

from benchmarks.peers.thriftpy2_threads import callers, serve

__all__ = ["callers", "serve"]

NAME = "thriftpy2, gevent"
REQUIRES = ("thriftpy2",)
PATCHED = True
CALLERS = "greenlets"
