"""A directory shown through a FUSE mount of this process, whose opens or reads can be made to hang: a network file system
whose server is gone, for tests. Speaks the protocol of /dev/fuse itself (linux/fuse.h), read-only."""

import ctypes
import errno
import os
import stat
import struct
import threading

LOOKUP, FORGET, GETATTR, READLINK, OPEN, READ, STATFS, RELEASE = 1, 2, 3, 5, 14, 15, 17, 18
INIT, OPENDIR, READDIR, RELEASEDIR, INTERRUPT, DESTROY, BATCH_FORGET = 26, 27, 28, 29, 36, 38, 42
NO_ANSWER = (FORGET, BATCH_FORGET, INTERRUPT, DESTROY)
IN_HEADER = struct.Struct("<IIQQIIII")  # length, opcode, unique, node, uid, gid, pid, padding
ROOT = 1
MS_NOSUID, MS_NODEV, MNT_DETACH = 2, 4, 2

libc = ctypes.CDLL(None, use_errno=True)


def why_not():
    """Why there can be no such mount here; empty: there can."""
    if os.geteuid() != 0:
        return "no FUSE mount: only root may mount"
    if not os.path.exists("/dev/fuse"):
        return "no FUSE mount: there is no /dev/fuse"
    return ""


def check(result):
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


class FuseMount:
    """Shows `source` at `target` until close(). Nobody in this process may touch `target` while it hangs."""

    def __init__(self, source, target):
        self.target = str(target)
        self.nodes = {ROOT: str(source)}
        self.numbers = {str(source): ROOT}
        self.hanging = set()  # opcodes that get no answer
        self.hanging_beyond = 0
        self.held = []  # requests that wait for one
        self.lock = threading.Condition()
        self.device = os.open("/dev/fuse", os.O_RDWR)
        options = f"fd={self.device},rootmode=40000,user_id=0,group_id=0,allow_other"
        check(libc.mount(b"keyload-test", self.target.encode(), b"fuse", MS_NOSUID | MS_NODEV, options.encode()))
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def hang(self, *opcodes, beyond=0):
        """From now on requests of these kinds wait; reads only if they go beyond so many bytes of their file."""
        with self.lock:
            self.hanging = set(opcodes)
            self.hanging_beyond = beyond

    def wait_for_held(self, count):
        """Until so many requests wait."""
        with self.lock:
            if not self.lock.wait_for(lambda: len(self.held) >= count, timeout=60):
                raise AssertionError(f"only {len(self.held)} requests wait")

    def release(self):
        """Answers what waits, and all that comes."""
        with self.lock:
            self.hanging = set()
            held, self.held = self.held, []
        for request in held:
            self._answer(*request)

    def close(self):
        """Unmounts. What waits still gets an error."""
        self.release()
        libc.umount2(self.target.encode(), MNT_DETACH)
        self.thread.join(timeout=10)

    def _serve(self):
        try:
            while True:
                message = os.read(self.device, 1 << 20)
                _, opcode, unique, node, *_ = IN_HEADER.unpack_from(message)
                request = (opcode, unique, node, message[IN_HEADER.size:])
                with self.lock:
                    if opcode in self.hanging and (opcode != READ or self._end_of_read(request[3]) > self.hanging_beyond):
                        self.held.append(request)
                        self.lock.notify_all()
                        continue
                self._answer(*request)
        except OSError:  # ENODEV: unmounted
            pass
        os.close(self.device)  # which ends the connection

    @staticmethod
    def _end_of_read(body):
        _, offset, size = struct.unpack_from("<QQI", body)
        return offset + size

    def _answer(self, opcode, unique, node, body):
        if opcode in NO_ANSWER:
            return
        try:
            error, answer = 0, self._reply(opcode, node, body)
        except OSError as failure:
            error, answer = -failure.errno, b""
        try:
            os.write(self.device, struct.pack("<IiQ", 16 + len(answer), error, unique) + answer)
        except OSError:  # ENOENT: the caller is gone
            pass

    def _reply(self, opcode, node, body):
        if opcode == INIT:
            major, minor, read_ahead, _ = struct.unpack_from("<IIII", body)
            return struct.pack("<IIIIHHIIHHI28x", 7, min(minor, 31), read_ahead, 0, 16, 12, 1 << 16, 1, 0, 0, 0)
        path = self.nodes[node]
        if opcode == LOOKUP:
            path = os.path.join(path, body[:-1].decode())
            attributes = self._attributes(path)
            return struct.pack("<QQQQII", self._number(path), 0, 0, 0, 0, 0) + attributes
        if opcode == GETATTR:
            return struct.pack("<QII", 0, 0, 0) + self._attributes(path)
        if opcode in (OPEN, OPENDIR):
            return struct.pack("<QII", 0, 0, 0)
        if opcode == READ:
            _, offset, size = struct.unpack_from("<QQI", body)
            with open(path, "rb") as file:
                file.seek(offset)
                return file.read(size)
        if opcode == READDIR:
            return self._entries(path, *struct.unpack_from("<QQI", body)[1:])
        if opcode == STATFS:
            return struct.pack("<QQQQQIIII24x", 1, 0, 0, 1, 0, 4096, 255, 4096, 0)
        if opcode in (RELEASE, RELEASEDIR):
            return b""
        raise OSError(errno.EINVAL if opcode == READLINK else errno.ENOSYS, "")

    def _number(self, path):
        number = self.numbers.setdefault(path, len(self.numbers) + ROOT)
        self.nodes[number] = path
        return number

    def _attributes(self, path):
        status = os.lstat(path)
        times = (status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns)
        return struct.pack("<QQQQQQIIIIIIIIII", self._number(path), status.st_size, status.st_blocks,
                           *(time // 10**9 for time in times), *(time % 10**9 for time in times), status.st_mode,
                           status.st_nlink, status.st_uid, status.st_gid, 0, 4096, 0)

    def _entries(self, path, offset, size):
        names = sorted(os.listdir(path))
        answer = b""
        for position, name in list(enumerate(names, 1))[offset:]:
            child = os.path.join(path, name)
            encoded = name.encode()
            entry = struct.pack("<QQII", self._number(child), position, len(encoded), stat.S_IFMT(os.lstat(child).st_mode) >> 12)
            entry += encoded + b"\0" * (-(len(entry) + len(encoded)) % 8)
            if len(answer) + len(entry) > size:
                break
            answer += entry
        return answer
