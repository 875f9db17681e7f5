"""A client of the attach socket, written from docs/attach.md alone with what Python brings along: an independent witness that
the page says everything, and that the server does what it says. It checks all that the page has a reader check.

    python3 attach_witness.py SOCKET (--token HEX | --model NAME) [--batch N]

Prints one line for each key: its name, dtype, shape and the SHA-256 of its bytes.
"""

import argparse
import array
import fcntl
import hashlib
import mmap
import os
import socket
import stat
import struct
import sys

PACKET_BYTES = 4096
MOST_BATCH = 253
HELLO, GRANT, NEXT, FDS, NOTE, RELEASE, ERROR, REQUEST = 1, 2, 3, 4, 5, 6, 8, 9
NO_SEGMENT = 0xFFFFFFFF
RESIDENT = 1
FILE, MEMFD = 1, 2
# Python 3.11 knows the numbers of the seals, but for FUTURE_WRITE on some systems.
SEAL_SHRINK, SEAL_WRITE, SEAL_FUTURE_WRITE = fcntl.F_SEAL_SHRINK, fcntl.F_SEAL_WRITE, 0x10


class Refused(Exception):
    """The server's ERROR."""

    def __init__(self, code, reason, text):
        super().__init__(f"{reason}: {text}")
        self.code, self.reason, self.text = code, reason, text


class Broken(Exception):
    """What came is not what docs/attach.md says."""


def require(holds, why):
    if not holds:
        raise Broken(why)


def text16(text):
    data = text.encode()
    return struct.pack("<H", len(data)) + data


class Connection:
    """The messages."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        self.socket.connect(path)
        self.truncated = False

    def send(self, kind, fields=b""):
        try:
            self.socket.send(b"KLA1" + struct.pack("<HH", kind, 1) + fields)
        except (BrokenPipeError, ConnectionResetError):
            pass  # receiving says why

    def receive(self, most=MOST_BATCH):
        """Type, fields and descriptors of the next message; None at the end. ERROR raises Refused."""
        space = socket.CMSG_SPACE(most * 4)
        try:
            packet, control, flags, _ = self.socket.recvmsg(PACKET_BYTES, space, socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:  # the last message comes after it
            packet, control, flags, _ = self.socket.recvmsg(PACKET_BYTES, space, socket.MSG_CMSG_CLOEXEC)
        descriptors = array.array("i")
        for level, kind, data in control:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                descriptors.frombytes(data[:len(data) // 4 * 4])
        self.truncated = bool(flags & socket.MSG_CTRUNC)
        if not packet:
            return None
        require(not flags & socket.MSG_TRUNC and packet[:4] == b"KLA1" and len(packet) >= 8, "no message")
        kind, version = struct.unpack_from("<HH", packet, 4)
        require(version == 1, "another version")
        fields = packet[8:]
        if kind == ERROR:
            code, n = struct.unpack_from("<IH", fields)
            (m,) = struct.unpack_from("<H", fields, 6 + n)
            require(len(fields) == 8 + n + m, "ERROR has another length")
            raise Refused(code, fields[6:6 + n].decode(), fields[8 + n:].decode())
        return kind, fields, list(descriptors)


def sealed_size(descriptor, kind, one_of):
    status = os.fstat(descriptor)
    require(stat.S_ISREG(status.st_mode), "a descriptor is no file")
    if kind == MEMFD:
        seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
        require(seals & SEAL_SHRINK and seals & one_of, "memory is not sealed")
    return status.st_size


class Table:
    """The columns, checked."""

    def __init__(self, data):
        self.data = memoryview(data)
        require(len(data) >= 64 and bytes(data[:8]) == b"KLTABLE1", "no table")
        version, header, total, self.generation, self.rows, self.segments, count = struct.unpack_from("<IIQQIII", data, 8)
        require(version == 1 and header == 64 and total <= len(data) and count <= 256, "header")
        entries_end = 64 + 24 * count
        require(entries_end <= total, "entries")
        self.columns = {}
        for i in range(count):
            name, element, offset, elements = struct.unpack_from("<IIQQ", data, 64 + 24 * i)
            require(element > 0 and offset % 64 == 0 and entries_end <= offset and offset + element * elements <= total, "column")
            require(name not in self.columns, "a column twice")
            self.columns[name] = (element, offset, elements)
        rows = self.rows
        self.name_end = self.column(1, "I", rows)
        self.names = bytes(self.column(2, "B"))
        self.dtype = self.column(3, "H", rows)
        self.dtype_names = self.strings(4)
        self.dtype_bits = self.column(14, "H", len(self.dtype_names))
        self.dtype_alignment = self.column(15, "H", len(self.dtype_names))
        self.dims_end = self.column(5, "I", rows)
        self.dims = self.column(6, "Q")
        self.segment = self.column(7, "I", rows)
        self.offset = self.column(8, "Q", rows)
        self.bytes = self.column(9, "Q", rows)
        self.state = self.column(10, "B", rows)
        self.order = self.column(11, "I", rows)
        self.strides = self.column(12, "q", len(self.dims)) if 12 in self.columns else None
        self.kind = self.column(32, "B", self.segments)
        self.segment_bytes = self.column(33, "Q", self.segments)
        self.page = self.column(34, "Q", self.segments)
        self.column(35, "I", self.segments)
        self.device = self.column(36, "H", self.segments)
        self.device_names = self.strings(37)
        self.check()

    def column(self, name, code, count=None):
        require(name in self.columns, f"column {name} is absent")
        element, offset, elements = self.columns[name]
        require(element == struct.calcsize("<" + code) and count in (None, elements), f"column {name} has another size")
        return self.data[offset:offset + element * elements].cast(code)

    def strings(self, name):
        text = bytes(self.column(name, "B"))
        require(not text or text.endswith(b"\0"), f"column {name} does not end with a NUL")
        return [one.decode() for one in text.split(b"\0")[:-1]]

    def check(self):
        def power_of_two(value):
            return value > 0 and value & (value - 1) == 0

        for s in range(self.segments):
            require(self.kind[s] in (1, 2, 3) and self.segment_bytes[s] <= 1 << 60, "segment")
            require(power_of_two(self.page[s]) and self.page[s] <= 1 << 30, "page")
            require(self.device[s] < len(self.device_names), "device")
        for bits, alignment in zip(self.dtype_bits, self.dtype_alignment):
            require(bits <= 1024 and power_of_two(alignment), "dtype")
        name_end = dims_end = 0
        before, taken = b"", bytearray(self.rows)
        for i in range(self.rows):
            require(name_end < self.name_end[i] <= min(len(self.names), name_end + 4096), f"row {i}: name")
            require(dims_end <= self.dims_end[i] <= min(len(self.dims), dims_end + 64), f"row {i}: dims")
            name = self.names[name_end:self.name_end[i]]
            shape = self.dims[dims_end:self.dims_end[i]]
            require(i == 0 or before < name, f"row {i}: order of names")
            require(self.dtype[i] < len(self.dtype_names), f"row {i}: dtype")
            require(self.order[i] < self.rows and not taken[self.order[i]], f"row {i}: order")
            taken[self.order[i]] = 1
            elements = 1
            for dim in shape:
                elements *= dim
            require(elements * self.dtype_bits[self.dtype[i]] == 8 * self.bytes[i], f"row {i}: size")
            if self.strides is not None and elements:
                strides = self.strides[dims_end:self.dims_end[i]]
                require(all(stride >= 0 for stride in strides), f"row {i}: strides")
                require(1 + sum((dim - 1) * stride for dim, stride in zip(shape, strides)) <= elements, f"row {i}: strides")
            if self.segment[i] == NO_SEGMENT:
                require(self.offset[i] == 0 and (self.state[i] != RESIDENT or self.bytes[i] == 0), f"row {i}: no segment")
            else:
                require(self.state[i] == RESIDENT and self.segment[i] < self.segments, f"row {i}: segment")
                require(self.offset[i] + self.bytes[i] <= self.segment_bytes[self.segment[i]], f"row {i}: place")
                require(self.offset[i] % self.dtype_alignment[self.dtype[i]] == 0, f"row {i}: alignment")
            before, name_end, dims_end = name, self.name_end[i], self.dims_end[i]
        require(name_end == len(self.names) and dims_end == len(self.dims), "names or dims of no row")

    def name(self, i):
        return self.names[self.name_end[i - 1] if i else 0:self.name_end[i]]

    def shape(self, i):
        return list(self.dims[self.dims_end[i - 1] if i else 0:self.dims_end[i]])

    def find(self, name):
        """The row of a key, by bisection; None if it has none."""
        name, low, high = name.encode(), 0, self.rows
        while low < high:
            middle = (low + high) // 2
            if self.name(middle) < name:
                low = middle + 1
            else:
                high = middle
        return low if low < self.rows and self.name(low) == name else None


class Lease:
    """A model that is attached, as long as this object's connection is open."""

    def __init__(self, path, token=None, model=None, batch=MOST_BATCH, label="witness", materialize=False, include=(), exclude=(), keys=()):
        self.connection = Connection(path)
        try:
            self._attach(token, model, batch, label, materialize, (include, exclude, keys))
        except BaseException:
            self.close()
            raise

    def _attach(self, token, model, batch, label, materialize, selection):
        if token is not None:
            self.connection.send(HELLO, token + struct.pack("<H", batch) + text16(label))
        else:
            lists = b"".join(struct.pack("<H", len(names)) + b"".join(map(text16, names)) for names in selection)
            self.connection.send(REQUEST, struct.pack("<HH", batch, materialize) + text16(label) + text16(model) + lists)
        kind, fields, descriptors = self._receive()
        require(kind == GRANT and len(descriptors) == 1, "no GRANT")
        generation, self.descriptors, n = struct.unpack_from("<QIH", fields)
        require(len(fields) == 14 + n, "GRANT has another length")
        self.name = fields[14:].decode()
        size = sealed_size(descriptors[0], MEMFD, SEAL_WRITE)
        require(64 <= size <= 1 << 30, "table size")
        self.table = Table(mmap.mmap(descriptors[0], size, mmap.MAP_SHARED, mmap.PROT_READ))
        os.close(descriptors[0])
        require(self.table.generation == generation and self.table.segments == self.descriptors - 1, "another table")
        self.generation = generation
        self.maps = []
        self.messages = 0
        while len(self.maps) + 1 < self.descriptors:
            self._take_batch(batch)
        self.connection.send(NEXT, struct.pack("<I", self.descriptors))

    def _receive(self):
        message = self.connection.receive()
        require(message is not None, "the connection ended")
        return message

    def _take_batch(self, batch):
        following = len(self.maps) + 1
        self.connection.send(NEXT, struct.pack("<I", following))
        kind, fields, descriptors = self._receive()
        require(kind == FDS and len(fields) == 8, "no FDS")
        first, count = struct.unpack("<II", fields)
        require(first == following and 1 <= count <= batch and first + count <= self.descriptors, "other descriptors")
        require(len(descriptors) == count or (self.connection.truncated and 0 < len(descriptors) < count), "lost descriptors")
        self.messages += 1
        for descriptor in descriptors:
            self._map(len(self.maps), descriptor)

    def _map(self, s, descriptor):
        table = self.table
        size = sealed_size(descriptor, table.kind[s], SEAL_WRITE | SEAL_FUTURE_WRITE)
        require(table.kind[s] in (FILE, MEMFD), "memory of a GPU")
        require(size >= table.segment_bytes[s], "a segment is smaller than the table says")
        length = -(-table.segment_bytes[s] // table.page[s]) * table.page[s]
        self.maps.append(mmap.mmap(descriptor, min(length, size), mmap.MAP_SHARED, mmap.PROT_READ) if length else b"")
        os.close(descriptor)

    def tensor(self, i):
        """The bytes of row i, where they are."""
        table = self.table
        if table.segment[i] == NO_SEGMENT:
            return memoryview(b"")
        return memoryview(self.maps[table.segment[i]])[table.offset[i]:table.offset[i] + table.bytes[i]]

    def note(self):
        """The next note's kind and generation, waited for; None at the end of the lease."""
        message = self.connection.receive()
        if message is None:
            return None
        kind, fields, _ = message
        require(kind == NOTE and len(fields) == 12, "no NOTE")
        return struct.unpack("<IQ", fields)

    def release(self):
        self.connection.send(RELEASE)

    def close(self):
        self.connection.socket.close()


def main():
    parser = argparse.ArgumentParser(description="Attaches and prints what it got.")
    parser.add_argument("socket")
    parser.add_argument("--token")
    parser.add_argument("--model", default="model")
    parser.add_argument("--batch", type=int, default=MOST_BATCH)
    options = parser.parse_args()
    try:
        lease = Lease(options.socket, bytes.fromhex(options.token) if options.token else None, options.model, options.batch)
    except Refused as refused:
        print(f"refused: {refused}", file=sys.stderr)
        return 1
    table = lease.table
    for i in range(table.rows):
        digest = hashlib.sha256(lease.tensor(i)).hexdigest()
        print(table.name(i).decode(), table.dtype_names[table.dtype[i]], table.shape(i), digest)
    return 0


if __name__ == "__main__":
    sys.exit(main())
