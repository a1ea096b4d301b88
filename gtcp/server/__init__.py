"""The server: a greenlet per connection reads lines and calls handlers.

Read ``server`` (the public class) and ``settings`` (with ``setting_layers`` and ``setting_rules``),
then ``listener`` (accepts connections), ``handshake`` (what a new peer passes), ``connections``
(requests and replies of one peer) and ``commands`` (from a handler to a reply). ``address_check``
checks addresses without listening. ``worker`` runs a server under gunicorn, ``master`` is
``gtcp serve --workers``, and ``workers`` holds the rest of what several processes need.
"""
