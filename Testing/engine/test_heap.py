"""The heap: what freed arrays held goes back to the system."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

TRIAL = """
import re, sys
import numpy as np
from RVQCLib.heap import LARGE, give_back

def held():
    return int(re.findall(r"VmRSS:\\s+(\\d+) kB", open("/proc/self/status").read())[0]) / 1024

for megabytes in (30, 15):  # the library learns from what is freed that blocks as large will come again, and keeps them
    np.ones(megabytes * 2**17)
small = [np.ones(2**17) for _ in range(100)]
full = held()
pins = small[::10]
del small
kept = held()
give_back()
given = held()
large = np.ones(LARGE // 8 + 1)
pin = np.ones(2**17)
with_large = held()
del large
print(full, kept, given, with_large, held())
"""


def test_freed_memory_goes_back() -> None:
    if sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "malloc_trim"):
        pytest.skip("the C library is not GNU's")
    said = subprocess.run([sys.executable, "-c", TRIAL], capture_output=True, text=True, check=True).stdout
    full, kept, given, with_large, without = map(float, said.split())
    assert kept > full - 20, "before, the gaps are kept"
    assert given < kept - 60
    assert without < with_large - 14
