"""``gtcp demo``: a server with sample commands, and a tour of them."""
