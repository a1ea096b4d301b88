"""Random numbers for jitter."""

from __future__ import annotations

import random

#: Returns a float between two others. Not of the application's generator, whose numbers may have to
#: repeat; and different in each process that was forked.
uniform = random.SystemRandom().uniform
