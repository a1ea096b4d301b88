"""``gtcp resolve``, the subcommand."""
