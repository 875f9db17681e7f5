"""Maps files and hashes every byte of them, as a process that uses mapped weights would: prints the seconds."""

import mmap
import sys
import time

import xxhash

begin = time.perf_counter()
for path in sys.argv[1:]:
    with open(path, "rb") as file:
        data = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        xxhash.xxh3_64_intdigest(memoryview(data))
print(time.perf_counter() - begin)
