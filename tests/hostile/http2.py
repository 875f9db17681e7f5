"""HTTP/2 frames by hand, for what no client library sends."""

import os
import selectors
import socket
import struct
import time

import wire

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS = 1, 1, 4
INITIAL_WINDOW_SIZE = 4
FRAME_BYTES = 16384  # the most that the daemon takes


def frame(kind, flags=0, stream=0, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def settings(**values):
    numbers = {"header_table_size": 1, "initial_window_size": INITIAL_WINDOW_SIZE, "max_frame_size": 5}
    return frame(SETTINGS, payload=b"".join(struct.pack(">HI", numbers[k], v) for k, v in values.items()))


def integer(value, bits, first=0):
    """An HPACK integer with a prefix of `bits` bits."""
    most = (1 << bits) - 1
    if value < most:
        return bytes([first | value])
    out, value = [first | most], value - most
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def literal(name, value, indexed=False):
    """A header field that is written out; `indexed`: and kept in the table."""
    name, value = (text.encode() if isinstance(text, str) else text for text in (name, value))
    return b"".join([b"\x40" if indexed else b"\x00", integer(len(name), 7), name, integer(len(value), 7), value])


def request_headers(method, **more):
    fields = {":method": "POST", ":scheme": "http", ":path": f"/{wire.SERVICE}/{method}", ":authority": "keyload",
              "content-type": "application/grpc", "te": "trailers", **more}
    return b"".join(literal(name, value) for name, value in fields.items())


def grpc_message(body, compressed=False):
    return struct.pack(">BI", compressed, len(body)) + body


def call(stream, method, body=None, end=True, **more):
    """The frames of a call; without a body the stream stays half open."""
    frames = [frame(HEADERS, END_HEADERS, stream, request_headers(method, **more))]
    if body is not None:
        pieces = [body[i:i + FRAME_BYTES] for i in range(0, len(body), FRAME_BYTES)] or [b""]
        frames += [frame(DATA, END_STREAM if end and piece is pieces[-1] else 0, stream, piece) for piece in pieces]
    return b"".join(frames)


class Connection:
    """A connection that has sent its preface. What the daemon sends is read only by `drain`."""

    def __init__(self, node, preface=True, **first_settings):
        self.socket = socket.create_connection(("127.0.0.1", node.daemon.tcp_port))
        node.exits.callback(self.socket.close)
        self.socket.settimeout(10)
        self.window = self.first_window = 65535  # of the connection, of a new stream: what the daemon takes
        self.windows, self.unparsed = {}, b""
        if preface:
            self.send(PREFACE + settings(**first_settings))

    def send(self, data):
        """True if all was sent; False if the daemon closed the connection or takes nothing for ten seconds."""
        try:
            self.socket.sendall(data)
            return True
        except OSError:
            return False

    def send_message(self, stream, body, end=True):
        """Sends `body` as the data of `stream` as fast as the daemon's windows allow. False if it does not go on."""
        sent = 0
        while sent < len(body):
            room = min(self.window, self.windows.setdefault(stream, self.first_window), FRAME_BYTES, len(body) - sent)
            if room <= 0:
                if not self._receive():
                    return False
                continue
            last = sent + room == len(body)
            if not self.send(frame(DATA, END_STREAM if last and end else 0, stream, body[sent:sent + room])):
                return False
            sent, self.window = sent + room, self.window - room
            self.windows[stream] -= room
        return True

    def _receive(self):
        """Takes what the daemon sent, and answers what has to be answered."""
        try:
            part = self.socket.recv(1 << 16)
        except OSError:
            return False
        self.unparsed += part
        while len(self.unparsed) >= 9:
            size = int.from_bytes(self.unparsed[:3], "big")
            kind, flags, stream = self.unparsed[3], self.unparsed[4], int.from_bytes(self.unparsed[5:9], "big")
            if len(self.unparsed) < 9 + size:
                break
            payload, self.unparsed = self.unparsed[9:9 + size], self.unparsed[9 + size:]
            self._take(kind, flags, stream, payload)
        return bool(part)

    def _take(self, kind, flags, stream, payload):
        if kind == WINDOW_UPDATE and stream == 0:
            self.window += int.from_bytes(payload, "big")
        elif kind == WINDOW_UPDATE:
            self.windows[stream] = self.windows.get(stream, self.first_window) + int.from_bytes(payload, "big")
        elif kind == PING and not flags & ACK:
            self.send(frame(PING, ACK, 0, payload))
        elif kind == SETTINGS and not flags & ACK:
            for number, value in struct.iter_unpack(">HI", payload):
                if number == INITIAL_WINDOW_SIZE:
                    self.windows = {s: w + value - self.first_window for s, w in self.windows.items()}
                    self.first_window = value
            self.send(frame(SETTINGS, ACK))

    def send_for(self, seconds, data, most=1 << 40):
        """Sends `data` again and again, and reads nothing. Returns how many bytes the daemon took."""
        deadline, sent = time.monotonic() + seconds, 0
        self.socket.setblocking(False)
        with selectors.DefaultSelector() as selector:
            selector.register(self.socket, selectors.EVENT_WRITE)
            while sent < most and time.monotonic() < deadline:
                if not selector.select(0.1):
                    continue
                try:
                    sent += self.socket.send(data[sent % len(data):])
                except BlockingIOError:
                    continue
                except OSError:
                    break
        return sent

    def drain(self, seconds):
        """Reads until the daemon has sent nothing for `seconds` or closes. Returns the bytes."""
        self.socket.setblocking(True)
        self.socket.settimeout(seconds)
        parts = []
        try:
            while part := self.socket.recv(1 << 20):
                parts.append(part)
        except OSError:
            pass
        return b"".join(parts)


def garbage(size):
    return os.urandom(size)
