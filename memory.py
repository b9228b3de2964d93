"""How this process's C library hands out memory."""

import ctypes

MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1  # mallopt's names for them, of malloc.h
# the most that glibc takes for the former: any number, and in its older versions half a heap
LARGEST, LARGEST_OF_OLD = 2**30, 32 * 2**20
# where the C library's own adapting thresholds end up once large blocks have been freed
USUAL_MMAP_THRESHOLD, USUAL_TRIM_THRESHOLD = 32 * 2**20, 64 * 2**20


def keep_freed(keep: bool = True) -> bool:
    """Let freed memory stay with the process, up to its highest need; returns whether the C library can do that.

    A net's activations are allocated and freed at each step. Left to itself, glibc gives blocks of such sizes back to
    the system, which then has to find and blank every page of them anew. `keep` False: as it was.
    """
    try:
        libc = ctypes.CDLL(None)
        set_option, trim = libc.mallopt, libc.malloc_trim
    except (OSError, AttributeError):  # another C library than glibc
        return False
    thresholds = (LARGEST, LARGEST_OF_OLD) if keep else (USUAL_MMAP_THRESHOLD,)
    # setting either stops both from adapting, and so the latter is set only where the former could be
    done = any(set_option(MMAP_THRESHOLD, size) for size in thresholds) and set_option(
        TRIM_THRESHOLD, 2 * LARGEST - 1 if keep else USUAL_TRIM_THRESHOLD
    )
    if not keep:
        trim(0)
    return bool(done)
