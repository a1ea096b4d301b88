"""``gtcp top`` and ``gtcp stacks``: what a running server does."""
