"""The contract of a server: its commands with their types, as data and as Python source.

Read ``model`` (what a contract is, and its JSON), ``describe`` (from the types of handlers to a
contract), then ``stubs`` (from a contract to a typed client; ``source``, ``annotations``,
``defaults``, ``classes`` and ``methods`` write its parts), and ``diff`` (what changed between two
contracts; ``compatible`` compares types). No sockets, no gevent.
"""
