"""Streams that are opened and not read, not ended, ended at once, or fed drop by drop."""

import gzip
import itertools
import threading
import time

import attacks_requests
import checkpoints
import grpc
import http2
import wire
from attack import HOLD_SECONDS, attack, hold, run_threads

STREAMS = 900  # of one connection; the daemon allows 1,024


def unread(node, method, request, connections, first=1):
    """Opens STREAMS streams on each connection with a window of nothing, and holds them."""
    body = http2.grpc_message(request.SerializeToString())

    def act():
        opened = [http2.Connection(node, initial_window_size=0) for _ in range(connections)]
        for connection in opened:
            connection.send(b"".join(http2.call(2 * i + 1, method, body) for i in range(STREAMS)))
        hold()
        for connection in opened:
            connection.socket.close()
        return []

    return act


@attack(memory=True)
def unread_list_keys_streams(node):
    """3,600 ListKeys streams over 91,991 keys on four connections, none of which is read"""
    node.lazily(attacks_requests.wide(node), "wide")
    return unread(node, "ListKeys", wire.message("ListKeysRequest", model="wide"), 4)


@attack(memory=True)
def unread_read_tensors_streams(node):
    """3,600 ReadTensors streams of a tensor of 64 MiB on four connections, none of which is read"""
    return unread(node, "ReadTensors", wire.message("ReadTensorsRequest", model="big"), 4)


@attack(memory=True)
def unread_unary_answers(node):
    """7,200 GetModel on eight connections, whose answers of several megabytes are not read"""
    entries = {f"model.layers.{layer}.mlp.experts.{expert}": f"cuda:{(layer + expert) % 2}"
               for layer in range(3, 61) for expert in range(256)}
    node.lazily(attacks_requests.wide(node), "mapped", device_map={"entries": {**entries, "": "cpu"}})
    return unread(node, "GetModel", wire.message("GetModelRequest", model="mapped"), 8)


@attack(memory=True)
def readers_of_one_byte_at_a_time(node):
    """1,800 ReadTensors streams on two connections whose windows grow by one byte at a time"""
    body = http2.grpc_message(wire.message("ReadTensorsRequest", model="big").SerializeToString())

    def act():
        opened = [http2.Connection(node, initial_window_size=0) for _ in range(2)]
        for connection in opened:
            connection.send(b"".join(http2.call(2 * i + 1, "ReadTensors", body) for i in range(STREAMS)))
        one = b"".join(http2.frame(http2.WINDOW_UPDATE, 0, 2 * i + 1, b"\0\0\0\1") for i in range(STREAMS))
        for _ in range(20):
            for connection in opened:
                connection.send(one)
            hold(0.2)
        return []

    return act


@attack("COMPLETE", "MODEL_BUSY")
def watch_models_by_the_thousand(node):
    """3,600 WatchModels streams on four connections that are not read, while models come and go"""
    body = http2.grpc_message(b"")
    good = attacks_requests.small(node)

    def act():
        opened = [http2.Connection(node, initial_window_size=0) for _ in range(4)]
        for connection in opened:
            connection.send(b"".join(http2.call(2 * i + 1, "WatchModels", body) for i in range(STREAMS)))
        client, outcomes = node.client(), []
        end = time.monotonic() + HOLD_SECONDS
        while time.monotonic() < end:
            outcomes.append(client.load(wire.spec(good, residency="RESIDENCY_LAZY")))
            client.unload("attack")
        return outcomes

    return act


@attack()
def half_open_calls(node):
    """5,400 calls on six connections of which only the headers come, LoadModel, Load, UploadDocument and PlanLoad"""

    def act():
        opened = [http2.Connection(node) for i in range(6)]
        for connection in opened:
            methods = ("LoadModel", "Load", "UploadDocument", "PlanLoad")
            connection.send(b"".join(http2.call(2 * i + 1, methods[i % 4]) for i in range(STREAMS)))
        hold()
        return []

    return act


def send_plans(connection, message, seconds_to_write, end=True, **headers):
    """PlanLoad with `message` on one stream after the other, until the daemon takes no more or the time is over."""
    over, stream = time.monotonic() + HOLD_SECONDS, 1
    connection.socket.settimeout(seconds_to_write)
    while time.monotonic() < over:
        connection.send(http2.call(stream, "PlanLoad", **headers))
        if not connection.send_message(stream, message, end=end):
            return
        stream += 2


@attack(memory=True)
def messages_that_never_end(node):
    """Calls that announce a message of 4 MiB and send all of it but the last byte, on eight connections"""
    body = http2.grpc_message(bytes(4 * 2**20 - 1000))[:-1]

    def send(connection):
        send_plans(connection, body, seconds_to_write=1, end=False)

    def act():
        run_threads([threading.Thread(target=send, args=(http2.Connection(node),)) for _ in range(8)])
        hold(1)
        return []

    return act


@attack("CANCELLED", "OK", memory=True)
def uploads_that_are_held(node):
    """Eight uploads of 200 MiB each that do not end"""
    chunk = bytes(1 << 20)
    stop = threading.Event()

    def chunks():
        for i in range(200):
            yield wire.message("UploadDocumentRequest", kind="KIND_KEY_LIST" if i == 0 else 0, data=chunk)
        stop.wait(HOLD_SECONDS + 3)

    def act(client, _):
        call = client.stub("UploadDocument").future(chunks(), timeout=20)
        try:
            call.result(HOLD_SECONDS + 4)
            return "OK"
        except grpc.FutureTimeoutError:
            call.cancel()
            return "CANCELLED"
        except grpc.RpcError as error:
            return wire.outcome_of(error)

    return lambda: node.each(8, act)


@attack("CANCELLED", "OK", "BAD_REQUEST")
def uploads_of_one_byte_at_a_time(node):
    """64 uploads that send one byte at a time"""

    def chunks():
        end = time.monotonic() + HOLD_SECONDS
        yield wire.message("UploadDocumentRequest", kind="KIND_KEY_LIST", data=b"k")
        while time.monotonic() < end:
            time.sleep(0.1)
            yield wire.message("UploadDocumentRequest", data=b"k")

    return lambda: node.each(64, lambda client, _: client.call("UploadDocument", chunks(), 20))


@attack(memory=True)
def compressed_messages_that_unfold(node):
    """Calls whose 600 KB of gzip unfold to 600 MB each, on eight connections at a time"""
    message = http2.grpc_message(gzip.compress(bytes(600 << 20), 9), compressed=True)

    def send(connection):
        send_plans(connection, message, seconds_to_write=5, **{"grpc-encoding": "gzip"})

    def act():
        run_threads([threading.Thread(target=send, args=(http2.Connection(node),)) for _ in range(8)])
        return []

    return act


def load_requests(path, count, cancel):
    for i in range(count):
        yield wire.message("LoadRequest", load_id=f"{i}", start=wire.spec(path, model=f"attack-{i % 50}"))
        if cancel:
            yield wire.message("LoadRequest", load_id=f"{i}", cancel={})


@attack("BAD_REQUEST", "OK", "RESOURCE_EXHAUSTED", "INVALID_ARGUMENT", "FAILED_PRECONDITION")
def many_loads_on_one_stream(node):
    """Load streams that start 20,000 loads of a small checkpoint each, as fast as they can; eight streams"""
    good = attacks_requests.small(node)
    return lambda: node.each(8, lambda client, _: client.call("Load", load_requests(good, 20_000, False), 4))


@attack("BAD_REQUEST", "OK", "RESOURCE_EXHAUSTED", "INVALID_ARGUMENT", "FAILED_PRECONDITION")
def loads_cancelled_at_once(node):
    """Load streams that start and cancel 5,000 loads each; eight streams"""
    good = attacks_requests.small(node)
    return lambda: node.each(8, lambda client, _: client.call("Load", load_requests(good, 5_000, True), 4))


def gpu_checkpoint(node):
    """64 MiB: eight seconds of copying to a simulated GPU."""
    return node.fixture("gpu", lambda path: checkpoints.write_sharded(
        path, {f"w.{i}": ("F32", [1024, 1024]) for i in range(16)}, 2, checkpoints.write_sparse_file))


LOADS = ("OK", "DEVICE_OUT_OF_MEMORY", "MODEL_BUSY", "RESOURCE_EXHAUSTED")


@attack(*LOADS)
def loads_that_wait_for_memory_for_ever(node):
    """900 loads that wait an hour for the memory of a simulated GPU which a model fills"""
    path = node.fixture("gpu-full", lambda p: checkpoints.write_sharded(
        p, {f"w.{i}": ("F32", [1024, 1024]) for i in range(56)}, 2, checkpoints.write_sparse_file))
    node.lazily(path, "filler", reserve="RESERVE_NOW", device_map={"policy": "cuda:0"})
    requests = [wire.message("LoadModelRequest", spec=wire.spec(
        path, model=f"attack-{i}", device_map={"policy": "cuda:0"}, wait_memory={"seconds": 3600}, priority=2**31 - 1))
        for i in range(900)]
    return lambda: node.client().call_all("LoadModel", requests, 4)


@attack(*LOADS)
def calls_that_join_one_load(node):
    """3,600 requests of one load that takes seconds, each with an id of its own, on four connections"""
    path = gpu_checkpoint(node)

    def act(client, i):
        requests = [wire.message("LoadModelRequest", spec=wire.spec(path, device_map={"policy": "cuda:0"},
                                                                    request_id=f"{i}-{j}")) for j in range(STREAMS)]
        return client.call_all("LoadModel", requests, 4)

    def run():
        outcomes = sum(node.each(4, act), [])
        node.client().unload("attack")
        return outcomes

    return run


@attack(*LOADS)
def slow_loads_of_one_client(node):
    """Sixty loads to a slow device by one client; other clients' loads do not wait for them"""
    path = gpu_checkpoint(node)
    specs = [wire.spec(path, model=f"attack-{i}", device_map={"policy": f"cuda:{i % 2}"}) for i in range(60)]
    requests = [wire.message("LoadModelRequest", spec=load_spec) for load_spec in specs]

    def run():
        client = node.client()
        outcomes = client.call_all("LoadModel", requests, 4)
        for i in range(60):
            client.unload(f"attack-{i}")
        return outcomes

    return run


@attack("COMPLETE", "CHECKPOINT_CHANGED", "CHECKPOINT_NOT_FOUND", "MODEL_BUSY")
def directory_exchanged_while_it_is_loaded(node):
    """A directory of thirty shards is exchanged for another version in a loop, while it is loaded with copies; no load
    may have tensors of both versions"""
    names = [f"w.{i}" for i in range(30)]

    def version(number):
        def write(path, tensors):
            head, size = checkpoints.header(tensors)
            path.write_bytes(head + bytes([number]) * size)

        return lambda path: checkpoints.write_sharded(path, {name: ("U8", [64]) for name in names}, 30, write)

    live, other = node.scratch / "live", node.scratch / "other"
    version(1)(live)
    version(2)(other)
    stop = threading.Event()

    def exchange():
        spare = node.scratch / "spare"
        for _ in itertools.count():
            if stop.is_set():
                return
            live.rename(spare)
            other.rename(live)
            spare.rename(other)
            stop.wait(0.001)

    def run():
        thread = threading.Thread(target=exchange)
        thread.start()
        try:
            return load_in_loop(node.client(), live, HOLD_SECONDS)
        finally:
            stop.set()
            thread.join()

    return run


def load_in_loop(client, path, seconds):
    outcomes, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        outcome = client.load(wire.spec(path, host_storage="HOST_STORAGE_COPIED"))
        if outcome == "COMPLETE":
            stream = client.stub("ReadTensors")(wire.message("ReadTensorsRequest", model="attack"), timeout=20)
            seen = {bytes(chunk.data)[:1] for chunk in stream if chunk.data}
            if len(seen) != 1:
                outcome = "TENSORS_OF_TWO_VERSIONS"
        outcomes.append(outcome)
        client.unload("attack")
    return outcomes
