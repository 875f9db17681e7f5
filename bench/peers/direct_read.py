"""What the disk gives: plain O_DIRECT reads of whole files into reused, aligned memory by some threads."""

import mmap
import os
import pathlib
import sys
import threading
import time

BLOCK_BYTES = 16 * 1024 * 1024


def read_all(paths: list[str], threads: int) -> tuple[float, int]:
    """Seconds and bytes."""
    work = [(number, offset) for number, path in enumerate(paths)
            for offset in range(0, os.stat(path).st_size, BLOCK_BYTES)]
    descriptors = [os.open(path, os.O_RDONLY | os.O_DIRECT) for path in paths]
    turn = iter(work)
    lock, counts = threading.Lock(), [0] * threads

    def read(thread: int) -> None:
        buffer = mmap.mmap(-1, BLOCK_BYTES)  # page-aligned
        buffer.write(b"\0" * BLOCK_BYTES)
        while True:
            with lock:
                block = next(turn, None)
            if block is None:
                return
            counts[thread] += os.preadv(descriptors[block[0]], [buffer], block[1])

    readers = [threading.Thread(target=read, args=(thread,)) for thread in range(threads)]
    start = time.perf_counter()
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    return time.perf_counter() - start, sum(counts)


if __name__ == "__main__":
    files = sorted(map(str, pathlib.Path(sys.argv[1]).glob("*.safetensors")))
    seconds, total = read_all(files, int(sys.argv[2]))
    print(f'{{"seconds": {seconds}, "rchar": {total}}}')
