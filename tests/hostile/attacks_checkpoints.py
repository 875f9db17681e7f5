"""Checkpoint directories that an attacker wrote: the daemon is only asked to plan them, which reads no tensor."""

import json
import os
import socket
import struct

import checkpoints
import wire
from attack import attack

HEADER_BYTES = 100_000_000  # the most that the format allows
LINKS = 12


def shard(parts, data=b""):
    """Bytes of a shard file from the pieces of its header."""
    size = sum(map(len, parts))
    return b"".join([struct.pack("<Q", size), *parts, data])


def linked(parts, links=LINKS):
    """Builds a sharded checkpoint of one file and links to it, so that little on disk is much to read."""

    def build(path):
        path.mkdir()
        names = [f"model-{i + 1:05d}-of-{links:05d}.safetensors" for i in range(links)]
        (path / names[0]).write_bytes(shard(parts()))
        for name in names[1:]:
            (path / name).symlink_to(names[0])
        checkpoints.write_index(path, {f"t{i}": name for i, name in enumerate(names)})

    return build


def single(parts):
    def build(path):
        path.mkdir()
        (path / "model.safetensors").write_bytes(shard(parts()))

    return build


def entry(name, shape="[0]", start=0, end=0):
    return f'"{name}":{{"dtype":"F32","shape":{shape},"data_offsets":[{start},{end}]}}'.encode()


def repeated(piece, most=HEADER_BYTES):
    """`piece`, a comma, and so on, up to `most` bytes."""
    count = most // (len(piece) + 1)
    return (piece + b",") * (count - 1) + piece


@attack("CHECKPOINT_CORRUPT", memory=True)
def header_of_49_million_dimensions(node):
    """One tensor with a shape of 49 million ones, in a header of 98 MB with eleven links to it; one plan"""
    path = node.fixture("dimensions", linked(lambda: [
        b'{"t0":{"dtype":"F32","shape":[', repeated(b"1", 98_000_000), b'],"data_offsets":[0,4]}}']))
    return node.plan_each(1, path, timeout=20)


@attack("CHECKPOINT_CORRUPT", memory=True)
def headers_of_1_600_000_tensors(node):
    """Headers of 100 MB with 1.6 million empty tensors, in twelve links to one file; two plans"""
    path = node.fixture("tensors", linked(lambda: [
        b"{", b",".join(entry("%07d" % i) for i in range(1_600_000)), b"}"]))
    return node.plan_each(2, path, timeout=20)


@attack("CHECKPOINT_CORRUPT", memory=True)
def header_of_one_name_repeated(node):
    """A header of 100 MB that says one name two million times, in twelve links to one file; two plans"""
    path = node.fixture("repeated-name", linked(lambda: [b"{", repeated(entry("t0"), 99_000_000), b"}"]))
    return node.plan_each(2, path, timeout=20)


@attack("CHECKPOINT_CORRUPT", "PLANNED", memory=True)
def header_of_blanks(node):
    """Headers of 100 MB of blanks around one pair of braces, in 100 links to one file; two plans"""
    path = node.fixture("blanks", linked(lambda: [b"{", b" " * 99_999_000, b"}"], links=100))
    return node.plan_each(2, path, timeout=5)


@attack("CHECKPOINT_CORRUPT", "PLANNED", memory=True)
def header_of_huge_metadata(node):
    """Headers with 5 million entries of __metadata__, in twelve links to one file; two plans"""
    path = node.fixture("metadata", linked(lambda: [
        b'{"__metadata__":{', b",".join(b'"%08d":"x"' % i for i in range(5_000_000)), b"}}"]))
    return node.plan_each(2, path, timeout=20)


@attack("CHECKPOINT_CORRUPT", memory=True)
def header_nested_50_million_deep(node):
    """A header of 50 million opening brackets, and one inside a tensor's entry; four plans"""
    path = node.fixture("deep", single(lambda: [b'{"a":', b"[" * 49_000_000, b"]" * 49_000_000, b"}"]))
    return node.plan_each(4, path, timeout=20)


@attack("CHECKPOINT_CORRUPT", memory=True)
def index_of_400_megabytes(node):
    """An index file of 400 MB that maps one name again and again; two plans"""

    def build(path):
        path.mkdir()
        (path / "model.safetensors.index.json").write_bytes(
            b'{"weight_map":{' + repeated(b'"k":"a.safetensors"', 400_000_000) + b"}}")

    return node.plan_each(2, node.fixture("large-index", build), timeout=20)


@attack("CHECKPOINT_CORRUPT", "CHECKPOINT_NOT_FOUND", memory=True)
def index_of_1_000_000_shards(node):
    """An index file of one million names, each in a shard of its own that is not there; four plans"""

    def build(path):
        path.mkdir()
        names = b",".join(b'"k%d":"s%d.safetensors"' % (i, i) for i in range(1_000_000))
        (path / "model.safetensors.index.json").write_bytes(b'{"weight_map":{' + names + b"}}")

    return node.plan_each(4, node.fixture("many-shards", build), timeout=20)


@attack("CHECKPOINT_CORRUPT")
def index_nested_50_million_deep(node):
    """An index file of 50 million opening brackets; four plans"""

    def build(path):
        path.mkdir()
        (path / "model.safetensors.index.json").write_bytes(b'{"weight_map":' + b"[" * 50_000_000)

    return node.plan_each(4, node.fixture("deep-index", build), timeout=20)


@attack("CHECKPOINT_AMBIGUOUS", "CHECKPOINT_CORRUPT", "CHECKPOINT_NOT_FOUND")
def directory_of_120_000_weight_files(node):
    """A directory of 120,000 empty *.safetensors, four plans with a deadline of 3 s"""

    def build(path):
        path.mkdir()
        for i in range(120_000):
            os.close(os.open(path / f"m.{i}.safetensors", os.O_CREAT | os.O_WRONLY, 0o644))

    return node.plan_each(4, node.fixture("many-files", build))


@attack("PLANNED", "CHECKPOINT_CORRUPT")
def shapes_of_zero_bytes(node):
    """Shapes of 2^63 by 0 by 2^63, which take no bytes"""
    path = node.fixture("zero-bytes", single(lambda: [
        b"{", b",".join(entry(f"t{i}", f"[{2**63},0,{2**63}]") for i in range(1000)), b"}"]))
    return node.plan_each(4, path, device_map={"policy": "auto"})


@attack("CHECKPOINT_CORRUPT", "CHECKPOINT_TRUNCATED")
def offsets_near_2_to_the_64(node):
    """Offsets, shapes and header lengths around 2^63 and 2^64"""
    cases = [[b"{", entry("t", shape, start, end), b"}"] for shape, start, end in (
        ("[4]", 2**64 - 16, 2**64), ("[4]", 2**64 - 17, 2**64 - 1), ("[4611686018427387904]", 0, 2**64 - 1),
        ("[4611686018427387905]", 0, 4), ("[4294967296,4294967296]", 0, 0), ("[4]", 2**63, 2**63 + 16),
        ("[4]", 16, 0), ("[1e308]", 0, 4), ("[-1]", 0, 4))]
    paths = [node.fixture(f"offsets-{i}", single(lambda parts=parts: parts)) for i, parts in enumerate(cases)]
    return lambda: node.each(len(paths), lambda client, i: client.plan(wire.spec(paths[i])))


@attack("CHECKPOINT_CORRUPT", memory=True)
def names_of_one_megabyte(node):
    """Ninety names of one megabyte each in a header; four plans"""
    path = node.fixture("long-names", single(lambda: [
        b"{", b",".join(entry(f"{i:03d}" + "n" * 1_000_000) for i in range(90)), b"}"]))
    return node.plan_each(4, path, timeout=20)


@attack("CHECKPOINT_CORRUPT", "DEVICE_MAP_INVALID", "PLANNED", memory=True, keeps_mib=256)
def names_of_2_000_components(node):
    """20,000 names of 2,000 components each, so that a module tree would have 40 million modules; two plans"""
    path = node.fixture("components", single(lambda: [
        b"{", b",".join(entry(f"{i:05d}." + "a." * 1990 + "w") for i in range(20_000)), b"}"]))
    return node.plan_each(2, path, timeout=10, device_map={"policy": "auto"})


@attack("CHECKPOINT_CORRUPT", "DEVICE_MAP_INVALID", "PLANNED", memory=True, keeps_mib=256)
def names_of_60_modules_of_their_own(node):
    """500,000 names of 60 components below a first one of their own, 30 million modules; four plans with `auto`"""
    path = node.fixture("modules", single(lambda: [
        b"{", b",".join(entry(f"{i:06d}." + "a." * 58 + "w") for i in range(500_000)), b"}"]))
    return node.plan_each(4, path, timeout=10, device_map={"policy": "auto"})


@attack("CHECKPOINT_CORRUPT", "COMPLETE")
def names_of_control_characters(node):
    """Names with NUL, line ends, escape sequences and text that runs from right to left, loaded and listed"""
    names = ["\\u0000", "a\\u0000b", "a\\nb", "\\u001b[2J", "\\u202eabc", "\\ud800",
             "\\r\\n{\\\"event\\\":\\\"stop\\\"}"]
    paths = [node.fixture(f"control-{i}", single(lambda name=name: [b"{", entry(name), b"}"]))
             for i, name in enumerate(names)]

    def act(client, i):
        outcome = client.load(wire.spec(paths[i], model=f"attack-{i}"))
        client.call("ListKeys", wire.message("ListKeysRequest", model=f"attack-{i}"))
        client.unload(f"attack-{i}")
        return outcome

    return lambda: node.each(len(paths), act)


@attack("CHECKPOINT_NOT_FOUND", "CHECKPOINT_CORRUPT", "FORMAT_NOT_SUPPORTED", "PATH_NOT_ALLOWED", "BAD_REQUEST",
        "PATH_NOT_READABLE", "IO_ERROR")
def fifos_sockets_and_devices(node):
    """A FIFO, a socket, /dev/zero and a directory in the places of weights, index, config.json and manifest"""

    def build(path):
        path.mkdir()
        for place in ("model.safetensors", "model.safetensors.index.json"):
            os.makedirs(path / f"fifo-{place}")
            os.mkfifo(path / f"fifo-{place}" / place)
            os.makedirs(path / f"directory-{place}" / place)
            (path / f"socket-{place}").mkdir()
            directory = os.open(path / f"socket-{place}", os.O_RDONLY)  # the path of a socket must be short
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(f"/proc/self/fd/{directory}/{place}")
            os.close(directory)
            if os.geteuid() == 0:
                (path / f"zero-{place}").mkdir()
                os.mknod(path / f"zero-{place}" / place, 0o20644, os.makedev(1, 5))

    path = node.fixture("special-files", build)
    good = node.fixture("small", lambda p: checkpoints.write_sharded(p, checkpoints.small_model(), 2))
    specs = [wire.spec(p) for p in path.iterdir()]
    specs += [wire.spec(p / "model.safetensors") for p in path.glob("*-model.safetensors")]
    specs += [wire.spec(good, expected={"manifest_path": str(p / "model.safetensors")})
              for p in path.glob("*-model.safetensors")]
    return lambda: node.each(len(specs), lambda client, i: client.plan(specs[i], 5))


@attack("CHECKPOINT_NOT_FOUND", "PATH_NOT_ALLOWED", "BAD_REQUEST", "IO_ERROR", "CHECKPOINT_CORRUPT")
def links_in_circles(node):
    """Symbolic links that lead to themselves, a chain of 100 links, and a path of one megabyte"""

    def build(path):
        path.mkdir()
        (path / "self").symlink_to("self")
        (path / "model.safetensors").symlink_to("model.safetensors")
        (path / "chain-0").symlink_to("self")
        for i in range(1, 100):
            (path / f"chain-{i}").symlink_to(f"chain-{i - 1}")

    path = node.fixture("circles", build)
    paths = [path, path / "self", path / "chain-99", f"{path}/{'d/' * 500_000}", f"{path}/{'n' * 5000}",
             f"{path}/\0", f"{path}/{'../' * 100_000}etc"]
    return lambda: node.each(len(paths), lambda client, i: client.plan(wire.spec(paths[i])))


@attack("DEVICE_OUT_OF_MEMORY", "CHECKPOINT_CORRUPT")
def a_sparse_file_of_exabytes(node):
    """A sparse file as large as the file system allows, loaded with a copy"""

    def build(path):
        path.mkdir()
        for bits in (63, 53, 44, 43, 40):
            size = 2**bits - 4096
            data = size - 4096
            head = checkpoints.raw_header({"t": {"dtype": "U8", "shape": [data], "data_offsets": [0, data]}})
            try:
                with open(path / "model.safetensors", "wb") as file:
                    file.write(head)
                    file.truncate(len(head) + data)
                return
            except OSError:
                continue

    path = node.fixture("exabytes", build)
    return lambda: node.each(4, lambda client, i: client.load(
        wire.spec(path, model=f"attack-{i}", host_storage="HOST_STORAGE_COPIED")))


@attack("IO_ERROR", "CHECKPOINT_NOT_FOUND", "CHECKPOINT_CORRUPT", "COMPLETE")
def more_shards_than_descriptors(node):
    """4,000 shards for a process of 1,024 descriptors, loaded lazily by four clients"""

    def build(path):
        tensors = {f"t{i}": ("F32", [1]) for i in range(4000)}
        checkpoints.write_sharded(path, tensors, 4000)

    path = node.fixture("descriptors", build)

    def act(client, i):
        outcome = client.load(wire.spec(path, model=f"attack-{i}", residency="RESIDENCY_LAZY"))
        client.unload(f"attack-{i}")
        return outcome

    return lambda: node.each(4, act)


def config(node, name, text):
    def build(path):
        path.mkdir()
        (path / "config.json").write_bytes(text)

    return node.fixture(name, build)


def from_config(node, count, path, timeout=10):
    return node.plan_each(count, path, timeout=timeout, source={"allow_no_weights": True},
                          expected={"from": "FROM_CONFIG"}, device_map={"policy": "cpu"})


def llama(**fields):
    return json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 32,
                       "hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2,
                       "num_key_value_heads": 2, "head_dim": 16,
                       "num_hidden_layers": 2, "rms_norm_eps": 1e-6, "tie_word_embeddings": False, **fields}).encode()


@attack("CONFIG_INVALID")
def config_of_a_trillion_layers(node):
    """num_hidden_layers of 10^12 in config.json; six plans"""
    return from_config(node, 6, config(node, "trillion-layers", llama(num_hidden_layers=10**12)))


@attack("PLANNED", "CONFIG_INVALID", memory=True)
def config_of_as_many_keys_as_are_allowed(node):
    """A config.json of 60,000 layers, 540,003 keys; six plans"""
    return from_config(node, 6, config(node, "many-layers", llama(num_hidden_layers=60_000)), timeout=20)


@attack("CONFIG_INVALID")
def config_nested_2_million_deep(node):
    """config.json of two million opening brackets; six plans"""
    text = b'{"model_type":' + b"[" * 2_000_000 + b"]" * 2_000_000 + b"}"
    return from_config(node, 6, config(node, "deep-config", text))


@attack("CONFIG_INVALID", "DOCUMENT_TOO_LARGE", "PLANNED", "CONFIG_NOT_SUPPORTED", memory=True)
def config_of_lists_and_names(node):
    """config.json of 4 MiB: lists of a million numbers, one name 100,000 times, numbers of a million digits"""
    texts = [llama(layer_types=[0] * 1_000_000), b"{" + repeated(b'"model_type":"llama"', 4_000_000) + b"}",
             b'{"model_type":"llama","num_hidden_layers":' + b"9" * 4_000_000 + b"}",
             b'{"model_type":"' + b"l" * 4_000_000 + b'"}']
    plans = [from_config(node, 2, config(node, f"lists-{i}", text)) for i, text in enumerate(texts)]
    return lambda: [outcome for plan in plans for outcome in plan()]


@attack("MANIFEST_INVALID", "DOCUMENT_TOO_LARGE", "PLANNED", memory=True)
def manifest_file_of_two_gigabytes(node):
    """manifest_path names a sparse file of 2 GiB, and one of 20 MB of brackets; two plans each"""

    def build(path):
        path.mkdir()
        with open(path / "sparse.json", "wb") as file:
            file.write(b"{")
            file.truncate(2 << 30)
        (path / "deep.json").write_bytes(b'{"tensors":' + b"[" * 20_000_000)

    path = node.fixture("large-manifest", build)
    good = node.fixture("small", lambda p: checkpoints.write_sharded(p, checkpoints.small_model(), 2))
    plans = [node.plan_each(2, good, timeout=10, expected={"manifest_path": str(path / f"{name}.json")})
             for name in ("sparse", "deep")]
    return lambda: [outcome for plan in plans for outcome in plan()]
