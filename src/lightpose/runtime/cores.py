"""How many CPU cores there are. Imports nothing heavy."""

import os

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
"""CPU cores that this process may use."""
MOST_WORKERS = 16
"""The most worker processes of a loader, unless the user gives a number."""
