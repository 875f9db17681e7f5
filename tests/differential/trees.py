"""Random module trees, and what accelerate says of them."""

import contextlib
import dataclasses
import itertools
import random
import signal
import warnings

import torch
from accelerate.utils import modeling
from keyload.manifest import contents, dtypes

CLASSES = [type(f"Kind{i}", (torch.nn.Module,), {}) for i in range(5)]
_DTYPES = ((torch.float32, 4), (torch.float16, 2), (torch.bfloat16, 2))


class Hang(Exception):
    """accelerate did not end."""


@dataclasses.dataclass
class Case:
    model: torch.nn.Module
    policy: str  # sequential | balanced | balanced_low_0
    limits: dict  # GPU number or "cpu" -> bytes
    no_split: list
    offload_buffers: bool
    fallback: bool


class _Tree:
    """Grows one tree. Names are of one length and none comes twice: accelerate takes one name for part of another."""

    def __init__(self, rng):
        self.rng = rng
        self.count = 0
        self.owners = []  # (module, name) of every parameter

    def name(self):
        self.count += 1
        return f"{self.rng.choice('abcxyz')}{self.count:03d}"

    def parameter(self):
        dtype, _ = self.rng.choice(_DTYPES)
        shape = [self.rng.randint(1, 6) for _ in range(self.rng.randint(0, 2))]
        return torch.nn.Parameter(torch.empty(shape, dtype=dtype, device="meta"))

    def buffer(self):
        dtype = self.rng.choice((torch.float32, torch.float16, torch.int64))
        return torch.empty([self.rng.randint(1, 9)], dtype=dtype, device="meta")

    def grow(self, depth, buffers):
        rng = self.rng
        module = rng.choice(CLASSES)()
        leaf = depth == 0 or rng.random() < 0.25
        parts = [self.add_parameter] * rng.randint(0, 3 if leaf else 1)
        if buffers or leaf:
            parts += [self.add_buffer] * rng.choice((0, 0, 1, 2))
        if not leaf:
            parts += [lambda parent: parent.add_module(self.name(), self.grow(depth - 1, buffers))] * rng.randint(1, 4)
        rng.shuffle(parts)
        for add in parts:
            add(module)
        return module

    def add_parameter(self, module):
        name = self.name()
        module.register_parameter(name, self.parameter())
        self.owners.append((module, name))

    def add_buffer(self, module):
        module.register_buffer(self.name(), self.buffer(), persistent=self.rng.random() < 0.6)

    def tie(self, groups):
        """Makes parameters one object, wherever they are."""
        for _ in range(groups):
            members = self.rng.sample(self.owners, min(len(self.owners), self.rng.choice((2, 2, 3))))
            first, name = members[0]
            for module, other in members[1:]:
                module._parameters[other] = first._parameters[name]


def _limit(rng, sizes, total):
    """Bytes for a device: none, some, or just what some modules take, or one byte less or more."""
    kind = rng.random()
    if kind < 0.05:
        return 0
    if kind < 0.4:
        return rng.randint(0, total)
    exact = sum(rng.sample(sizes, rng.randint(1, min(4, len(sizes)))))
    return max(0, exact + rng.choice((-1, 0, 0, 1)))


def random_case(seed):
    rng = random.Random(seed)
    tree = _Tree(rng)
    model = tree.grow(rng.randint(1, 4), buffers=rng.random() < 0.4)
    while not list(model.parameters()):
        model = tree.grow(rng.randint(1, 4), buffers=False)
    held = {id(module) for module in model.modules()}
    tree.owners = [(module, name) for module, name in tree.owners if id(module) in held]
    tree.tie(rng.choice((0, 0, 0, 1, 1, 2, 3)))
    sizes = modeling.compute_module_sizes(model)
    listed = sorted(size for name, size in sizes.items() if size > 0)
    policy = rng.choice(("sequential", "balanced", "balanced_low_0"))
    limits = {gpu: _limit(rng, listed, sizes[""]) for gpu in range(rng.randint(1, 8))}
    if policy == "balanced_low_0":  # GPUs without memory are a case by itself
        limits = {gpu: max(1, limit) for gpu, limit in limits.items()}
    if rng.random() < 0.5:
        limits["cpu"] = _limit(rng, listed, sizes[""])
    no_split = [kind.__name__ for kind in rng.sample(CLASSES, rng.choice((0, 0, 1, 2)))]
    return Case(model, policy, limits, no_split, rng.random() < 0.3, rng.random() < 0.2)


def manifest(model):
    """The ModelManifest of a module tree."""
    tensors = [{"name": name, "kind": kind, "dtype": dtypes.safetensors_name(tensor, name),
                "shape": list(tensor.shape)} for name, tensor, kind in contents.named_tensors(model)]
    return {"tensors": tensors, "modules": contents.modules_of(model), "tiedGroups": contents.tied_groups_of(model)}


def biggest_no_split(case):
    """The module that decides keyload's allowance of `balanced`, or None where accelerate's is the same: that looks at
    the first module of each class."""
    modules = dict(case.model.named_modules())
    first, biggest = {}, None
    for name, size in modeling.compute_module_sizes(case.model).items():
        kind = type(modules.get(name)).__name__
        if name and kind in case.no_split:
            first.setdefault(kind, size)
            if biggest is None or size > biggest[0]:
                biggest = (size, modules[name])
    return biggest[1] if biggest and max(first.values()) < biggest[0] else None


@contextlib.contextmanager
def _ends_within(seconds):
    def stop(*_):
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def tied_orders(model):
    """The tied groups in the order of registration, then in every other one: accelerate walks over a set, so the answer
    for any of them is its answer. A group's members are in the order of registration."""
    order = {name: i for i, (name, _) in enumerate(model.named_parameters(remove_duplicate=False))}
    groups = [sorted(group, key=order.get) for group in modeling.find_tied_parameters(model)]
    yield from itertools.permutations(sorted(groups, key=lambda group: order[group[-1]]))


@contextlib.contextmanager
def _tied(groups):
    found = modeling.find_tied_parameters
    modeling.find_tied_parameters = lambda *_: [list(group) for group in groups]
    try:
        yield
    finally:
        modeling.find_tied_parameters = found


@dataclasses.dataclass
class Answer:
    device_map: dict
    warns: bool  # of the buffers of offloaded modules
    uncovered: list  # tensors that the map has no device for, before it is cleaned: cleaning hides some
    warnings: list


def _balanced(case, allowance_of):
    low_zero = case.policy == "balanced_low_0"
    if allowance_of is None:
        return modeling.get_balanced_memory(case.model, dict(case.limits), case.no_split, low_zero=low_zero)
    kind = type(allowance_of)
    allowance_of.__class__ = type("Biggest", (kind,), {})  # so that accelerate looks at this one
    try:
        return modeling.get_balanced_memory(case.model, dict(case.limits), ["Biggest"], low_zero=low_zero)
    finally:
        allowance_of.__class__ = kind


def accelerate_answer(case, allowance_of=None, tied=None):
    """accelerate's answer; `balanced` with the allowance for one module and ties in an order, if these are given.
    Raises what accelerate does; Hang."""
    limits = dict(case.limits)
    tied = next(tied_orders(case.model)) if tied is None else tied
    with _ends_within(5), _tied(tied), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        if case.policy != "sequential":
            limits = _balanced(case, allowance_of)
        found = modeling.infer_auto_device_map(case.model, limits, case.no_split, offload_buffers=case.offload_buffers,
                                               fallback_allocation=case.fallback, clean_result=False)
    uncovered = [name for name, _, _ in contents.named_tensors(case.model) if device_of(found, name) is None]
    texts = [str(warning.message) for warning in warned]
    return Answer(dict(modeling.clean_device_map(found)), any("bytes of buffer" in text for text in texts), uncovered,
                  texts)


def device_of(device_map, name):
    """By the longest dotted prefix; None where there is none."""
    while name not in device_map:
        if not name:
            return None
        name = name.rpartition(".")[0]
    return device_map[name]
