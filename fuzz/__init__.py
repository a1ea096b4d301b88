"""Any bytes, in any pieces: what peers may send, thrown at gtcp.

``python -m fuzz --seconds 60`` runs all targets in turn, ``python -m fuzz TARGET FILE`` one
input again. A target is a module of ``fuzz.targets`` with

- ``run(data)``: raises when gtcp breaks a promise on this input;
- ``SEEDS``: inputs to begin with, and ``TOKENS``: the words of its language.

``fuzz.engines`` drives it: by atheris, which is guided by coverage, where that is installed,
else by hypothesis. An input begins with a small header (``fuzz.inputs``).
"""

#: The modules of ``fuzz.targets``, in the order in which they run.
TARGETS = ("lines", "server", "client", "proxy", "secret")
