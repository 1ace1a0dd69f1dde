"""Set before anything is imported: tests run offline, draw without a screen, and leave the cores to xdist's workers."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from hypothesis import settings

settings.register_profile("busy machine", deadline=None)  # a time limit would fail where others share the cores
settings.load_profile("busy machine")
