"""Available memory, and checks that data will fit before it is allocated."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from whorl.errors import InputError

_CGROUP = Path("/sys/fs/cgroup/memory.max")


def memory_limit() -> int | None:
    """Return the bytes of memory that this process may use at most, or ``None`` where that is not known.

    The least of the machine's memory, the limit of its container, and the process's own (``ulimit -v``).
    """
    limits = []
    with suppress(AttributeError, ValueError, OSError):  # not a POSIX system
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with suppress(OSError, ValueError):  # no container, or one without a limit ("max")
        limits.append(int(_CGROUP.read_text(encoding="ascii")))
    with suppress(ImportError):  # not a POSIX system
        import resource

        soft, _ = resource.getrlimit(resource.RLIMIT_AS)
        if soft != resource.RLIM_INFINITY:
            limits.append(soft)
    return min(limits, default=None)


def require_memory(needed: int, what: str, remedy: str) -> None:
    """Refuse what needs more memory than there is.

    Args:
        needed: Bytes.
        what: Needs them, as the beginning of a sentence.
        remedy: What to do about it.

    Raises:
        InputError: It needs more than :func:`memory_limit`.
    """
    limit = memory_limit()
    if limit is not None and needed > limit:
        raise InputError(f"{what} would need {in_words(needed)} of memory, of {in_words(limit)}. {remedy}")


def in_words(count: int) -> str:
    """Return a number of bytes for people.

    >>> in_words(2_500_000_000), in_words(12_000)
    ('2.5 GB', '12 kB')
    """
    for unit, size in (("PB", 10**15), ("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count // size:,} {unit}" if count >= 10 * size else f"{count / size:.1f} {unit}"
    return f"{count} bytes"
