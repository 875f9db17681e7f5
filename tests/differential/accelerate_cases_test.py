"""accelerate's own cases of infer_auto_device_map, get_balanced_memory and friends, through the command and beside it.

A case is a model, limits, options, the map, and what is warned of. The numbers are those of tests/unit/placement.
"""

import collections
import json
import logging
import unittest

import placement_test
import peers
import trees
from accelerate.utils import modeling
from torch import float16, nn, zeros

Map = collections.namedtuple("Map", "number model limits expected no_split offload_buffers fallback warns needs theirs")


def case(number, model, limits, expected, no_split=(), offload_buffers=False, fallback=False, warns=False, needs=None,
         theirs=None):
    """`expected`: "module:device ..." with "/" for the whole model. `theirs`: accelerate's map where it is another."""
    return Map(number, model, limits, expected, no_split, offload_buffers, fallback, warns, needs, theirs)


def add(model, **parts):
    for name, part in parts.items():
        if isinstance(part, int):
            model.register_buffer(name, zeros(part))
        else:
            setattr(model, name, part)
    return model


class ModelForTest(nn.Module):
    def __init__(self):
        super().__init__()
        add(self, linear1=nn.Linear(3, 4), batchnorm=nn.BatchNorm1d(4), linear2=nn.Linear(4, 5))


def m(*tied):
    return tie(ModelForTest(), *tied)


def three_m():
    return nn.Sequential(ModelForTest(), ModelForTest(), ModelForTest())


def tie(model, *groups):
    for source, *targets in groups:
        for target in targets:
            parent, _, name = target.rpartition(".")
            model.get_submodule(parent)._parameters[name] = model.get_parameter(source)
    return model


def s3(*groups):
    return tie(add(nn.Module(), layer1=m(), layer2=m(), layer3=m()), *groups)


def mb():
    model = m()
    for name, size in (("linear1", 20), ("batchnorm", 30), ("linear2", 30)):
        add(model.get_submodule(name), buffer=size)
    return model


def mb3():
    return add(mb(), linear3=add(nn.Linear(4, 5), buffer=20))


def f():
    return add(nn.Module(), module=add(nn.Module(), linear1=nn.Linear(10, 4), linear2=nn.Linear(4, 4),
                                       linear3=nn.Linear(4, 8)))


def linears(*sizes):
    return add(nn.Module(), **{f"linear{i + 1}": nn.Linear(size, size) for i, size in enumerate(sizes)})


def buffered():
    return add(nn.Module(), linear1=add(nn.Linear(10, 10), buffer=5), batchnorm=add(nn.BatchNorm1d(10), buffer=5),
               linear2=add(nn.Linear(10, 10), buffer=5))


def lm(*groups):
    model = add(nn.Module(), embed=nn.Embedding(10, 4), layers=nn.ModuleList(nn.Linear(4, 4) for _ in range(12)))
    return tie(add(model, lm_head=nn.Linear(4, 10, bias=False)), *groups)


def half(keep=None):
    model = m().to(float16)
    if keep:
        model.get_parameter(keep).data = model.get_parameter(keep).data.float()
    return model


def block():
    inner = add(nn.Module(), w=nn.Parameter(zeros(10)), lin=nn.Linear(4, 4), buf=6)
    return add(nn.Module(), block=inner, out=nn.Linear(4, 4))


LINEAR1, LINEAR2 = "linear1.weight", "linear2.weight"
SECOND = [f"layer{i}.linear2.weight" for i in (1, 2, 3)]
FIRST = [f"layer{i}.linear1.weight" for i in (1, 2)]
HEAD = ("embed.weight", "lm_head.weight")
GIGA = 10 ** 9
SPLIT_M = "linear1:0 batchnorm:1 linear2:1"
SEVENTH = ("layer1:0 layer2.linear1:{} layer2.batchnorm:1 layer2.linear2:0 layer3.linear1:1 layer3.batchnorm:1 "
           "layer3.linear2:0")


def layers(first, device_of_rest):
    return " ".join(f"layers.{i}:{0 if i < first else device_of_rest}" for i in range(12))


CASES = (
    case("1", m(), {0: 200, 1: 200}, SPLIT_M),
    case("2", m(), {0: 200, 1: 172, 2: 200}, SPLIT_M),
    case("3", m((LINEAR1, LINEAR2)), {0: 200, 1: 200}, "/:0"),
    case("4", three_m(), {0: 500, 1: 500}, "0:0 1.linear1:0 1.batchnorm:0 1.linear2:1 2:1"),
    case("5", three_m(), {0: 500, 1: 500}, "0:0 1:1 2:1", no_split=["ModelForTest"]),
    case("6", s3(SECOND[::2]), {0: 400, 1: 500},
         "layer1:0 layer2:1 layer3.linear1:1 layer3.batchnorm:1 layer3.linear2:0"),
    case("7", s3(SECOND), {0: 400, 1: 500}, SEVENTH.format(1)),
    case("8", s3(SECOND, FIRST), {0: 400, 1: 500}, SEVENTH.format(0)),
    case("9", tie(linears(4, 6, 4, 6), (LINEAR1, "linear3.weight"), ("linear1.bias", "linear3.bias")), {0: 250, 1: 400},
         "linear1:0 linear2:1 linear3:0 linear4:1"),
    case("10", mb(), {0: 400, "cpu": GIGA}, "linear1:0 batchnorm:cpu linear2:cpu", warns=True),
    case("11", mb(), {0: 400, "cpu": GIGA}, "linear1:0 batchnorm:cpu linear2:cpu", offload_buffers=True),
    case("12", mb3(), {0: 400, 1: 400, "cpu": GIGA}, "linear1:0 batchnorm:1 linear2:cpu linear3:cpu"),
    case("13", mb3(), {0: 400, 1: 200, "cpu": GIGA}, "linear1:0 batchnorm:1 linear2:cpu linear3:cpu", warns=True),
    case("13 offloading buffers", mb3(), {0: 400, 1: 200, "cpu": GIGA}, "linear1:0 batchnorm:1 linear2:cpu linear3:cpu",
         offload_buffers=True),
    case("14", f(), {0: 256}, "/:disk", needs="cuda:0 336"),
    case("15", f(), {0: 256}, "module.linear1:disk module.linear2:0 module.linear3:disk", fallback=True),
    case("16", add(nn.Module(), module=linears(10, 10, 10)), {0: 30}, "/:disk", fallback=True),
    case("17", tie(linears(10, 10), (LINEAR1, LINEAR2)), {0: 600}, "/:0", fallback=True),
    case("18", buffered(), {0: 678}, "linear1:disk batchnorm:0 linear2:disk", fallback=True, warns=True),
    case("19", m(), {0: 236}, "/:0"),
    case("19 one byte less", m(), {0: 235}, "linear1:0 batchnorm:disk linear2:disk"),
    case("20", m(), {0: 164, 1: 1000}, SPLIT_M),
    case("20 one byte less", m(), {0: 163, 1: 1000}, "/:1"),
    case("21", m(), {0: 200}, "linear1:0 batchnorm:disk linear2:disk", warns=True),
    case("21 with cpu", m(), {0: 200, "cpu": 1000}, "linear1:0 batchnorm:cpu linear2:cpu", warns=True),
    case("22", m(), {"cpu": 1000, 0: 200}, "linear1:0 batchnorm:cpu linear2:cpu", warns=True),
    case("22 two GPUs", m(), {1: 200, 0: 200}, SPLIT_M),
    case("23", m(), {"cpu": 150, "disk": 10}, "/:disk", needs="cpu 164"),
    case("24", three_m(), {0: 336, 1: 236, 2: 236}, "0:0 1:1 2:2"),
    case("24 one byte less", three_m(), {0: 336, 1: 235, 2: 500}, "0:0 1.linear1:1 1.batchnorm:1 1.linear2:2 2:2"),
    case("25", three_m(), {0: 336, "cpu": 336}, "0:0 1:cpu 2:disk", warns=True),
    case("26 tied", lm(HEAD), {0: 500, 1: 1000}, f"embed:0 {layers(3, 1)} lm_head:0"),
    case("26", lm(), {0: 500, 1: 1000}, f"embed:0 {layers(2, 1)} lm_head:1"),
    case("27", lm(HEAD), {0: 300, 1: 2000}, "embed:0 layers:1 lm_head:0"),
    case("28", half(), {0: 100, 1: 200}, SPLIT_M),
    case("28 one in F32", half(LINEAR1), {0: 100, 1: 200}, "/:1", needs="cuda:0 106"),
    # docs/semantics.md: direct buffers of a split module are mapped.
    case("29", block(), {0: 160, "cpu": 1000}, "block.w:0 block.buf:0 block.lin:cpu out:cpu",
         theirs="block.w:0 block.lin:cpu out:cpu"),
)
BALANCED = (
    ("M", m(), (), {0: 200, 1: 200}, {0: 200, 1: 200}), ("M", m(), (), {0: 200, 2: 200}, {0: 200, 2: 200}),
    ("M", m(), (), {0: 300, 1: 300}, {0: 215, 1: 300}), ("M", m(), (), {0: 300, 1: 500}, {0: 215, 1: 500}),
    ("M", m(), (), {0: 300, "cpu": 1000}, {0: 300, "cpu": 1000}),
    ("M", m(), (), {0: 0, 1: 300, 2: 300}, {0: 0, 1: 215, 2: 300}),
    ("M", m(), (), {0: 0, "cpu": 100}, {0: 0, "cpu": 100}),
    ("M", m(), (), {0: 300, 1: 300, 2: 300}, {0: 175, 1: 175, 2: 300}),
    ("3M", three_m(), (), {0: 1000, 1: 1000}, {0: 451, 1: 1000}),
    ("3M whole", three_m(), ["ModelForTest"], {0: 1000, 1: 1000}, {0: 649, 1: 1000}),
    ("M low_0", m(), (), {0: 200, 1: 200}, {0: 36, 1: 200}), ("M low_0", m(), (), {0: 300, 1: 300}, {0: 0, 1: 300}),
    ("M low_0", m(), (), {0: 300, 1: 300, 2: 300}, {0: 0, 1: 215, 2: 300}),
)


def parse(text):
    """ "a:0 b:cpu" as a map. """
    entries = (entry.split(":") for entry in text.split())
    return {"" if module == "/" else module: int(name) if name.isdigit() else name for module, name in entries}


def setUpModule():
    logging.disable(logging.CRITICAL)  # accelerate says of every limit that there is no such GPU


def tearDownModule():
    logging.disable(logging.NOTSET)


class CasesTest(unittest.TestCase):
    maxDiff = 4000

    def answers(self, given, policy="sequential"):
        asked = trees.Case(given.model, policy, given.limits, list(given.no_split), given.offload_buffers,
                           given.fallback)
        return placement_test.keyload_answer(asked), trees.accelerate_answer(asked)

    def test_maps(self):
        for given in CASES:
            with self.subTest(case=given.number):
                ours, theirs = self.answers(given)
                self.assertEqual((ours.device_map, ours.warns), (parse(given.expected), given.warns))
                self.assertEqual((theirs.device_map, theirs.warns),
                                 (parse(given.theirs or given.expected), given.warns))
                if given.needs:
                    name, needed = given.needs.split()
                    self.assertTrue(any(f"nothing was placed on {name}" in text and f"needs {needed} bytes" in text
                                        for text in ours.warnings), ours.warnings)

    def test_maps_of_auto(self):
        """The same models and limits with the policy that balances first."""
        for given in CASES:
            if given.theirs is not None or "disk" in given.limits:  # accelerate takes "disk" for a torch device here
                continue
            with self.subTest(case=given.number):
                ours, theirs = self.answers(given, "balanced")
                self.assertEqual((ours.device_map, ours.warns), (theirs.device_map, theirs.warns))

    def test_the_command_as_it_is_written(self):
        manifest = peers.write_manifest(trees.manifest(m()))
        report = peers.plan(peers.new_directory(), manifest, "--allow-no-weights", "--device-map", "auto",
                            "--max-memory", "0=200,1=200").json
        self.assertEqual(report["deviceMap"], {"linear1": "cuda:0", "batchnorm": "cuda:1", "linear2": "cuda:1"})

    def test_balanced_memory(self):
        """What balancing makes of the limits: accelerate's, and the map is the one of those limits."""
        for name, model, no_split, limits, balanced in BALANCED:
            with self.subTest(name, limits=limits):
                low_zero = name.endswith("low_0")
                self.assertEqual(modeling.get_balanced_memory(model, dict(limits), list(no_split), low_zero=low_zero),
                                 balanced)
                given = case(name, model, limits, "", no_split=no_split)
                ours, _ = self.answers(given, "balanced_low_0" if low_zero else "balanced")
                plain, _ = self.answers(given._replace(limits=balanced))
                self.assertEqual(ours.device_map, plain.device_map)

    def test_sizes(self):
        for model, options, sizes in ((m(), {}, {"linear1": 64, "batchnorm": 72, "linear2": 100}),
                                      (half(), {}, {"linear1": 32, "batchnorm": 40, "linear2": 50})):
            entries = peers.new_directory() / "map.json"
            entries.write_text(json.dumps({name: number for number, name in enumerate(sizes)}))
            report = peers.plan(peers.new_directory(), trees.manifest(model), "--allow-no-weights", "--device-map",
                                entries).json
            self.assertEqual([entry["missingBytes"] for entry in report["devices"]], list(sizes.values()))
            computed = modeling.compute_module_sizes(model)
            self.assertEqual({name: computed[name] for name in sizes}, sizes)


class CheckDeviceMapTest(unittest.TestCase):
    def plan(self, entries):
        path = peers.new_directory() / "map.json"
        path.write_text(json.dumps(entries))
        return peers.plan(peers.new_directory(), trees.manifest(m()), "--allow-no-weights", "--device-map", path)

    def test_a_map_that_covers_everything(self):
        for entries in ({"": 0}, {"linear1": 0, "batchnorm": 1, "linear2": "cpu"}):
            modeling.check_device_map(m(), entries)
            result = self.plan(entries)
            self.assertEqual((result.code, result.json["warnings"]), (0, []), result)

    def test_a_map_that_does_not(self):
        with self.assertRaisesRegex(ValueError, "batchnorm"):
            modeling.check_device_map(m(), {"linear1": 0, "linear2": 1})
        error = self.plan({"linear1": 0, "linear2": 1}).error
        self.assertEqual(error["reason"], "DEVICE_MAP_INCOMPLETE")
        self.assertIn("batchnorm", error["message"])

    def test_a_name_that_is_no_module(self):
        warning, = self.plan({"": 0, "linear9": 1}).json["warnings"]
        self.assertIn("linear9", warning)


class DifferencesTest(unittest.TestCase):
    """Where keyload differs from accelerate, as docs/semantics.md says: its answer, and accelerate's is another."""

    def map(self, model, policy, limits, fallback=False):
        asked = trees.Case(model, policy, limits, [], False, fallback)
        return asked, placement_test.keyload_answer(asked).device_map

    def test_a_name_within_another_is_no_tie(self):
        model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(12)))
        model[11].weight = model[10].weight
        asked, found = self.map(model, "sequential", {0: 72, 1: 1000})
        self.assertEqual(found, {f"{i}": 0 if i < 2 else 1 for i in range(12)})
        self.assertEqual(trees.accelerate_answer(asked).device_map,
                         {f"{i}": 0 if i in (0, 11) else 1 for i in range(12)})

    def test_a_partner_that_is_a_direct_tensor(self):
        inner = add(nn.Module(), w=nn.Parameter(zeros(4, 4)), lin=nn.Linear(20, 20))
        model = add(nn.Module(), first=nn.Linear(4, 4, bias=False), block=inner)
        model.first.weight = inner.w
        asked, found = self.map(model, "sequential", {0: 1800, 1: 5000})
        self.assertEqual(found, {"": 0})
        with self.assertRaises(IndexError):
            trees.accelerate_answer(asked)

    def test_low_0_with_gaps_in_the_numbers(self):
        asked, found = self.map(m(), "balanced_low_0", {1: 300, 3: 300})
        self.assertEqual(found, {"": 3})
        with self.assertRaises(KeyError):
            trees.accelerate_answer(asked)

    def test_low_0_keeps_the_first_gpu_with_memory_empty(self):
        asked, found = self.map(m(), "balanced_low_0", {0: 0, 1: 300, 2: 300})
        self.assertEqual(found, {"": 2})
        self.assertEqual(trees.accelerate_answer(asked).device_map, {"": 1})

    def test_the_allowance_is_of_the_biggest_module(self):
        kind = type("Layer", (nn.Module,), {})
        model = add(nn.Module(), **{f"layer{i}": add(kind(), a=nn.Linear(8 if i else 1, 8)) for i in range(5)})
        asked = trees.Case(model, "balanced", {0: 1000, 1: 1000}, ["Layer"], False, False)
        self.assertEqual(placement_test.keyload_answer(asked).device_map, self.layers(3))
        self.assertEqual(trees.accelerate_answer(asked, trees.biggest_no_split(asked)).device_map, self.layers(3))
        self.assertEqual(trees.accelerate_answer(asked).device_map, self.layers(2))

    def layers(self, first):
        return {f"layer{i}": 0 if i < first else 1 for i in range(5)}


if __name__ == "__main__":
    unittest.main()
