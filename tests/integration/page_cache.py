"""What the kernel has of a file in its page cache, asked from outside the daemon."""

import ctypes
import mmap
import os

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_LIBC.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
_LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]

PAGE = mmap.PAGESIZE


def resident_pages(path):
    """One byte per page of the file: 1 if it is in the page cache."""
    size = os.path.getsize(path)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        address = _LIBC.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
        if address == ctypes.c_void_p(-1).value:
            raise OSError(ctypes.get_errno(), f"mmap {path}")
        pages = (ctypes.c_ubyte * ((size + PAGE - 1) // PAGE))()
        status = _LIBC.mincore(address, size, pages)
        _LIBC.munmap(address, size)
        if status != 0:
            raise OSError(ctypes.get_errno(), f"mincore {path}")
    finally:
        os.close(descriptor)
    return bytes(page & 1 for page in pages)


def resident_bytes(paths):
    return sum(sum(resident_pages(path)) * PAGE for path in paths)


def drop(paths):
    """Writes the files back and asks the kernel to forget their pages. Locked and mapped pages stay."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
