"""A client that speaks as much HTTP/2 as it takes to begin calls, and takes nothing of the answers."""

import socket
import struct

SETTINGS, HEADERS, DATA = 4, 1, 0
END_STREAM, END_HEADERS = 1, 4
SERVICE = "/keyload.v1.ModelLoaderService/"


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def header(name, value):
    """A literal without indexing and without Huffman coding."""
    return bytes([0, len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


class UnreadClient:
    """A connection to `address` ("unix:PATH" or "HOST:PORT"). Whatever comes back is left where it is."""

    PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0)

    def __init__(self, address):
        if address.startswith("unix:"):
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.connect(address.removeprefix("unix:"))
        else:
            host, port = address.rsplit(":", 1)
            self.socket = socket.create_connection((host, int(port)))
        self.next_stream = 1
        self.socket.sendall(self.PREFACE)

    def close(self):
        self.socket.close()

    def call(self, method, request):
        """Begins a call of the contract with one message, of which nothing more follows."""
        stream, self.next_stream = self.next_stream, self.next_stream + 2
        fields = {":method": "POST", ":scheme": "http", ":path": SERVICE + method, ":authority": "localhost",
                  "content-type": "application/grpc", "te": "trailers"}
        block = b"".join(header(name, value) for name, value in fields.items())
        message = b"\0" + struct.pack(">I", len(request)) + request
        self.socket.sendall(frame(HEADERS, END_HEADERS, stream, block) + frame(DATA, END_STREAM, stream, message))
