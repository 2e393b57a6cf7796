"""Set up before any test module is imported."""

import os

# The tests run in several processes: one thread each, or they contend for the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
