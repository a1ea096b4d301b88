"""Several hosts behind one client.

Read ``resolver`` (what says which hosts there are), ``known`` (the hosts of one client, kept up to
date), ``balancer`` (which host gets a call, and which are ejected), ``host_pool`` and ``group``
(the pools of all hosts in one thread, in place of the one pool of a single address), then ``urls``
(from addresses such as ``dns://...`` to a resolver), ``dns`` and ``zookeeper``.
"""
