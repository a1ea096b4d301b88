"""``gtcp schema``, ``stubs`` and ``diff``: the subcommands, and ``source``: finds a contract."""
