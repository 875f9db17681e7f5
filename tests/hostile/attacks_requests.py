"""Requests that ask for too much: patterns, lists, maps, manifests and numbers."""

import checkpoints
import wire
from attack import attack

INT64_MIN = -2**63


def wide(node):
    """A checkpoint of 91,991 keys in sparse files."""
    return node.fixture("wide", lambda path: checkpoints.write_sharded(
        path, checkpoints.large_model(), 8, checkpoints.write_sparse_file))


def small(node):
    return node.fixture("small", lambda path: checkpoints.write_sharded(path, checkpoints.small_model(), 2))


def slow_globs():
    return ["".join("*" + c + "?" for c in f"{i:02d}xyxyxyxyxyxyxyxyxyxyxy" * 12)[:1000] for i in range(60)]


def selections(node, name, **fields):
    """Four calls NAME with sixty slow globs over 91,991 keys and a deadline of 3 s."""
    node.lazily(wide(node), "wide")
    request = wire.message(name + "Request", model="wide", select={"include": slow_globs()}, **fields)
    return lambda: node.each(4, lambda client, _: client.call(name, request, 3))


@attack("OK", "PATTERN_INVALID")
def sixty_globs_in_list_keys(node):
    """ListKeys with sixty globs of 1,000 bytes such as *x?*y?* over 91,991 keys; four calls with a deadline of 3 s"""
    return selections(node, "ListKeys")


@attack("OK", "PATTERN_INVALID")
def sixty_globs_in_evict(node):
    """Evict with the same globs"""
    return selections(node, "Evict")


@attack("OK", "PATTERN_INVALID", "COMPLETE", "INCOMPLETE")
def sixty_globs_in_materialize(node):
    """Materialize with the same globs"""
    return selections(node, "Materialize")


@attack("OK", "PATTERN_INVALID", "KEY_NOT_FOUND")
def sixty_globs_in_read_tensors(node):
    """ReadTensors with the same globs"""
    return selections(node, "ReadTensors")


@attack("PLANNED", "PATTERN_INVALID", "REJECTED")
def sixty_globs_in_plans(node):
    """PlanLoad with the same globs; four plans with a deadline of 3 s"""
    return node.plan_each(4, wide(node), select={"include": slow_globs()})


@attack("OK", "PATTERN_INVALID")
def braces_of_10_000_alternatives(node):
    """ListKeys with sixty globs of ten thousand alternatives in all; four calls with a deadline of 3 s"""
    node.lazily(wide(node), "wide")
    globs = [f"*{{0..165}}*?*{i}?*x?*y" for i in range(60)]
    request = wire.message("ListKeysRequest", model="wide", select={"include": globs})
    return lambda: node.each(4, lambda client, _: client.call("ListKeys", request, 3))


def patterns(node, field, one, count=9000):
    return node.plan_each(4, wide(node), rules={field: [one % i for i in range(count)]})


@attack("PLANNED", "PATTERN_INVALID", memory=True)
def nine_thousand_patterns(node):
    """9,000 ignore_unexpected such as (?i)[\\pL\\pN]{60}x1; four plans with a deadline of 3 s"""
    return patterns(node, "ignore_unexpected", "(?i)[\\pL\\pN]{60}x%d")


@attack("PLANNED", "PATTERN_INVALID", memory=True)
def nine_thousand_patterns_of_repetitions(node):
    """9,000 ignore_missing such as ((a?){30}){30}b1; four plans with a deadline of 3 s"""
    return patterns(node, "ignore_missing", "((a?){30}){30}b%d")


@attack("PLANNED", "PATTERN_INVALID", "KEY_CONFLICT", memory=True)
def renames_with_slow_patterns(node):
    """5,000 renames such as (.*)(.*)(.*)(.*)x1 over 91,991 keys; four plans with a deadline of 3 s"""
    renames = [{"pattern": f"(.*)(.*)(.*)(.*)x{i}", "replacement": "\\1"} for i in range(5000)]
    return node.plan_each(4, wide(node), rules={"renames": renames})


@attack("PLANNED", "PATTERN_INVALID", "KEY_CONFLICT", memory=True)
def renames_that_expand_names(node):
    """Six renames that double 91,991 names, up to 4,000 bytes each; four plans"""
    renames = [{"pattern": "^(.*)$", "replacement": "\\1\\1"}] * 6
    return node.plan_each(4, wide(node), timeout=10, rules={"renames": renames})


@attack("OK", "DOCUMENT_TOO_LARGE", "BAD_REQUEST", memory=True, keeps_mib=512)
def key_lists_of_19_megabytes(node):
    """Eight uploads of different key lists of 19 MiB with nine million keys each"""
    lists = [b"".join([b"%d\n" % i] + [b"a\n"] * 9_900_000) for i in range(8)]
    return lambda: node.each(8, lambda client, i: client.upload("KEY_LIST", lists[i], 20)[0])


@attack("BAD_REQUEST", "DOCUMENT_TOO_LARGE", "PATTERN_INVALID")
def key_lists_that_are_not_text(node):
    """Uploads of key lists that are not UTF-8, have NUL, or one line of 100 MB"""
    lists = [b"\xff\xfe\n", b"model.\xc3\x28\n", b"a\0b\n", b"\xed\xa0\x80\n", b"k" * 100_000_000]
    return lambda: node.each(len(lists), lambda client, i: client.upload("KEY_LIST", lists[i], 20)[0])


def manifest_of(**fields):
    return wire.message("ModelManifest", **fields).SerializeToString()


def plans_with_manifest(node, document, count=4, timeout=10, path=None, **fields):
    def act():
        outcome, digest = node.client().upload("MANIFEST", document)
        if outcome != "OK":
            return [outcome]
        load_spec = wire.spec(path or small(node), expected={"manifest_digest": digest}, **fields)
        return node.each(count, lambda client, _: client.plan(load_spec, timeout))

    return act


@attack("PLANNED", "MANIFEST_INVALID", "DOCUMENT_TOO_LARGE", "DEVICE_MAP_INVALID", memory=True, keeps_mib=512)
def manifest_of_1_000_000_modules(node):
    """A manifest of one million modules without tensors, and four plans with `auto` that name it"""
    tensor = {"name": "m0.w", "kind": "KIND_PARAMETER", "dtype": "F32", "shape": [1]}
    modules = [{"name": f"m{i % 100}.m{i}", "class_name": f"C{i % 10}"} for i in range(1_000_000)]
    document = manifest_of(modules=modules, tensors=[tensor])
    return plans_with_manifest(node, document, device_map={"policy": "auto"})


@attack("PLANNED", "MANIFEST_INVALID", "DOCUMENT_TOO_LARGE", memory=True, keeps_mib=512)
def manifest_of_2_000_000_tensors(node):
    """A manifest of two million tensors, each missing, and four plans with `auto` that name it"""
    one = {"kind": "KIND_PARAMETER", "dtype": "F32", "shape": [1]}
    document = b"".join(manifest_of(tensors=[{"name": f"m{i % 100}.w{i}", **one}]) for i in range(2_000_000))
    return plans_with_manifest(node, document, device_map={"policy": "auto"})


@attack("PLANNED", "MANIFEST_INVALID", memory=True)
def tied_groups_in_circles(node):
    """50,000 tied groups that form one circle, a chain, and a star of 50,000; four plans each"""
    names = [f"t{i}" for i in range(50_000)]
    tensors = [{"name": name, "kind": "KIND_PARAMETER", "dtype": "F32", "shape": [1]} for name in names]
    circle = [{"source": names[i - 1], "targets": [name]} for i, name in enumerate(names)]
    acts = [plans_with_manifest(node, manifest_of(tensors=tensors, tied_groups=groups), timeout=5)
            for groups in (circle, circle[1:], [{"source": "t0", "targets": names}])]
    return lambda: [outcome for act in acts for outcome in act()]


@attack("PLANNED", "MANIFEST_INVALID", "FIELD_NOT_SUPPORTED", "PATTERN_INVALID", "KEY_CONFLICT", memory=True)
def conversions_with_wild_dimensions(node):
    """Conversions with dimensions of -2^63 and 2^63, 1,024 operations, and 1,000 of them over 91,991 keys"""
    one = [{"sources": [".*"], "targets": ["x", "y"], "operations": [{"kind": kind, "dims": [dim]}]}
           for kind in ("KIND_STACK", "KIND_CONCATENATE", "KIND_CHUNK", "KIND_PERMUTE")
           for dim in (INT64_MIN, 2**63 - 1, -1, 64)]
    many = [{"sources": [f"(.*)(.*)layers.*.mlp.experts.*{i}"], "targets": [f"a{i}.*"], "operations": [
        {"kind": "KIND_STACK", "dims": [0]}] * 3} for i in range(1000)]
    long = [{"sources": [f"s{i}.*" for i in range(1024)], "targets": [f"t{i}" for i in range(1024)],
             "operations": [{"kind": "KIND_CHUNK", "dims": [0]}] * 1024}]
    tensors = [{"name": "w", "kind": "KIND_PARAMETER", "dtype": "F32", "shape": [1]}]
    specs = [wire.spec(wide(node), expected={"manifest": {"tensors": tensors, "conversions": conversions}})
             for conversions in [[c] for c in one] + [many, many, long, long]]
    return lambda: node.each(len(specs), lambda client, i: client.plan(specs[i], 5))


@attack("PLANNED", "DEVICE_MAP_INVALID", "DEVICE_MAP_INCOMPLETE", "DEVICE_UNKNOWN", "RESOURCE_EXHAUSTED", "BAD_REQUEST",
        memory=True)
def device_maps_as_large_as_a_message(node):
    """Device maps with 250,000 entries, 100,000 limits, 200,000 virtual devices or 400,000 classes, a message each"""
    maps = [{"entries": {**{f"m{i}": "cpu" for i in range(250_000)}, "": "cpu"}},
            {"policy": "auto", "max_memory": {f"cuda:{i}": 2**63 for i in range(100_000)}},
            {"policy": "auto", "plan_for": [{"device": f"cuda:{i}", "bytes": 2**63} for i in range(200_000)]},
            {"policy": "auto", "no_split_classes": [f"c{i}" for i in range(400_000)]}]
    specs = [wire.spec(wide(node), device_map=device_map) for device_map in maps * 2]
    return lambda: node.each(len(specs), lambda client, i: client.plan(specs[i], 10))


@attack("OK")
def maps_of_15_000_modules_in_list_models(node):
    """Eight models with a device of its own for each of 15,000 experts; twenty ListModels by default clients"""
    entries = {f"model.layers.{layer}.mlp.experts.{expert}": f"cuda:{(layer + expert) % 2}"
               for layer in range(3, 61) for expert in range(256)}
    for i in range(8):
        node.lazily(wide(node), f"mapped-{i}", device_map={"entries": {**entries, "": "cpu"}})
    request = wire.message("ListModelsRequest")
    return lambda: node.each(20, lambda client, _: client.call("ListModels", request))


@attack("PLANNED", "COMPLETE", "INCOMPLETE", "BAD_REQUEST", memory=True)
def reports_with_10_000_names_of_4_000_bytes(node):
    """A name_limit of 10,000 where 20,000 names of 4,000 bytes are unexpected: 80 plans by default clients, 40 loads"""

    def build(path):
        names = [f"{i:05d}" + "n" * 3990 for i in range(20_000)]
        checkpoints.write_file(path, dict.fromkeys(names, ("F32", [0])))

    path = node.fixture("large-report.safetensors", build)
    fields = {"name_limit": 10_000, "expected": {"manifest": {"tensors": [
        {"name": "w", "kind": "KIND_PARAMETER", "dtype": "F32", "shape": [1]}]}}}
    plan = wire.spec(path, **fields)

    def act(client, i):
        outcomes = [client.plan(plan) for _ in range(10)]
        for j in range(5):
            outcomes.append(client.load(wire.spec(path, model=f"attack-{i}-{j}", **fields)))
            client.unload(f"attack-{i}-{j}")
        return outcomes

    return lambda: sum(node.each(8, act), [])


@attack("PLANNED", "KEY_NOT_FOUND", "BAD_REQUEST", "PATTERN_INVALID", memory=True)
def a_million_selected_keys(node):
    """PlanLoad, ListKeys and ReadTensors with as many exact keys as fit into a message; six calls of each"""
    node.lazily(wide(node), "wide")
    select = {"keys": ["k%x" % i for i in range(480_000)]}
    specs = wire.message("PlanLoadRequest", spec=wire.spec(wide(node), select=select))
    calls = [("PlanLoad", specs)] + [(name, wire.message(name + "Request", model="wide", select=select))
                                     for name in ("ListKeys", "ReadTensors", "Evict", "Materialize")]
    return lambda: [o if o not in ("OK", "COMPLETE", "REJECTED") else "PLANNED" for o in node.each(
        30, lambda client, i: client.call(*calls[i % 5], 5))]


@attack("FIELD_NOT_SUPPORTED")
def fields_that_the_server_does_not_know(node):
    """LoadSpec with field 99, and with unknown fields inside its messages"""
    unknown = b"\x98\x06\x01"  # field 99, varint 1
    inner = wire.spec(small(node)).SerializeToString()
    nested = inner + b"\x22" + bytes([len(unknown)]) + unknown  # KeySelection

    def request(text):
        size = len(text)
        assert size < 2**14
        return b"\x0a" + bytes([size & 127 | 128, size >> 7]) + text

    bodies = [request(inner + unknown), request(nested), request(inner) + unknown]
    return lambda: node.each(6, lambda client, i: client.call(("PlanLoad", "LoadModel")[i % 2], bodies[i // 2]))


@attack("INVALID_ARGUMENT", "BAD_REQUEST")
def messages_that_do_not_parse(node):
    """Requests that are no protobuf: cut, of wrong types, with lengths of 2^31 and strings that are not UTF-8"""
    bodies = [b"\x0a\xff\xff\xff\xff\x07", b"\x0a\x80", b"\xff" * 100, b"\x0a\x03\x0a\x01\xff", b"\x0b" * 2_000_000]
    return lambda: node.each(len(bodies), lambda client, i: client.call("PlanLoad", bodies[i]))


@attack("OK", "BAD_REQUEST", "LOAD_NOT_FOUND", "MODEL_NOT_FOUND", "METHOD_NOT_SUPPORTED", "INVALID_ARGUMENT",
        "FIELD_NOT_SUPPORTED")
def numbers_and_tokens_out_of_range(node):
    """Page sizes of -2^31 and 2^31-1, page tokens of 3 MB, names of 3 MB, enums that do not exist"""
    calls = [(name, fields) for name in ("ListModels", "ListLoads") for fields in (
        {"page_size": -2**31}, {"page_size": 2**31 - 1}, {"page_token": "t" * 3_000_000}, {"page_token": "\0"})]
    calls += [("GetModel", {"model": "m" * 3_000_000}), ("GetLoad", {"load": "l" * 3_000_000}),
              ("ListKeys", {"model": "big", "states": [77] * 1_000_000}), ("WatchLoad", {"load": "l" * 3_000_000}),
              ("UnloadModel", {"model": "../" * 1_000_000, "leased": 99}),
              ("PlanLoad", {"spec": {"source": {"path": "/"}, "name_limit": 2**32 - 1}})]
    return lambda: node.each(len(calls), lambda client, i: client.call(
        calls[i][0], wire.message(calls[i][0] + "Request", **calls[i][1])))


@attack("COMPLETE", "INCOMPLETE", memory=True, keeps_mib=64)
def lazy_loads_of_91_991_keys(node):
    """Twelve lazy loads of 91,991 keys at a time, each with keys of its own report, unloaded at the end"""
    path = wide(node)

    def act(client, i):
        outcome = client.load(wire.spec(path, model=f"attack-{i}", residency="RESIDENCY_LAZY"), 30)
        return outcome

    def run():
        outcomes = node.each(12, act)
        node.each(12, lambda client, i: client.unload(f"attack-{i}"))
        return outcomes

    return run


@attack("COMPLETE", "BAD_REQUEST", "CHECKPOINT_NOT_FOUND", memory=True, keeps_mib=64)
def request_ids_by_the_thousand(node):
    """2,000 refused loads with request ids, each with a path of 30,000 bytes, which the history would keep"""

    def act(client, i):
        return [client.load(wire.spec(f"{node.models}/" + "p/" * 15_000 + f"{i}-{j}", model=f"a-{i}-{j}",
                                      request_id=f"{i}-{j}"))
                for j in range(250)]

    return lambda: sum(node.each(8, act), [])
