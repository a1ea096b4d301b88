"""``gtcp health``: ``probe`` is the fast path without options, ``command`` the subcommand."""
