"""Brings files into the page cache or out of it, and says how much of them is there."""

import ctypes
import mmap
import os
import pathlib

BLOCK_BYTES = 8 * 1024 * 1024
ATTEMPTS = 3  # under pressure the kernel drops new pages too; pages that are being read ahead stay
COLD, WARM = 0.01, 0.99  # share of the pages at most, at least

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]


def _resident_pages(path: pathlib.Path) -> tuple[int, int]:
    """(pages in the page cache, pages in all), as mincore says."""
    size = path.stat().st_size
    pages = -(-size // mmap.PAGESIZE)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        address = _libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
        if address in (None, ctypes.c_void_p(-1).value):
            raise OSError(ctypes.get_errno(), f"mmap {path}")
        vector = ctypes.create_string_buffer(pages)
        result = _libc.mincore(address, size, vector)
        _libc.munmap(address, size)
        if result != 0:
            raise OSError(ctypes.get_errno(), f"mincore {path}")
    finally:
        os.close(descriptor)
    return sum(byte & 1 for byte in vector.raw[:pages]), pages


def resident_share(files: list[pathlib.Path]) -> float:
    counts = [_resident_pages(path) for path in files]
    return sum(count for count, _ in counts) / max(1, sum(pages for _, pages in counts))


def evict(files: list[pathlib.Path]) -> float:
    """Out of the page cache; raises if the kernel keeps them."""
    share = 1.0
    for _ in range(ATTEMPTS):
        for path in files:
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)
        share = resident_share(files)
        if share < COLD:
            return share
    raise RuntimeError(f"{share:.1%} of {files[0].parent} stays in the page cache")


def warm(files: list[pathlib.Path]) -> float:
    """Into the page cache; raises if they do not stay there."""
    block = bytearray(BLOCK_BYTES)
    share = 0.0
    for _ in range(ATTEMPTS):
        for path in files:
            with open(path, "rb", buffering=0) as file:
                while file.readinto(block):
                    pass
        share = resident_share(files)
        if share > WARM:
            return share
    raise RuntimeError(f"only {share:.1%} of {files[0].parent} fits into the page cache")
