"""Set up before any test module is imported."""

import os

# The tests run in several processes: one thread each, or they contend for the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# No test draws on a screen.
os.environ.setdefault("MPLBACKEND", "agg")
