"""The heap of the C library, which on Linux keeps what freed arrays held: in whole gaps where arrays of many sizes take turns."""

from __future__ import annotations

import ctypes
import sys

LARGE = 16 * 2**20
"""Bytes from which an array is given back when it is freed. Smaller ones would cost time: every new one is zeroed by the system."""
_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of malloc.h


def give_back() -> None:
    """Return to the system what lies free in the heap, and from now on every large array as soon as it is freed.

    Only the GNU C library has such a heap; elsewhere nothing happens.
    """
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(library, "mallopt") and hasattr(library, "malloc_trim"):
        library.mallopt(_MMAP_THRESHOLD, LARGE)
        library.malloc_trim(0)
