"""What a model has: modules, tensors, tied groups, rules. All in registration order."""

import re

import torch

from keyload.manifest.dtypes import safetensors_name
from keyload.manifest.errors import ManifestError

_PARAMETER, _BUFFER, _NON_PERSISTENT = "KIND_PARAMETER", "KIND_BUFFER", "KIND_NON_PERSISTENT_BUFFER"


def modules_of(model):
    return [{"name": name, "className": type(module).__name__}
            for name, module in model.named_modules(remove_duplicate=False) if name]


def _own_tensors(module):
    for name, tensor in module._parameters.items():
        yield name, tensor, _PARAMETER
    for name, tensor in module._buffers.items():
        yield name, tensor, _NON_PERSISTENT if name in module._non_persistent_buffers_set else _BUFFER


def named_tensors(model):
    """(name, tensor, kind) of every parameter and buffer; a tensor that has several names comes with each."""
    for prefix, module in model.named_modules(remove_duplicate=False):
        if type(module).get_extra_state is not torch.nn.Module.get_extra_state:
            raise ManifestError(f"{prefix or 'the model'} ({type(module).__name__}) has extra state, no tensor")
        for name, tensor, kind in _own_tensors(module):
            if tensor is not None:
                yield f"{prefix}.{name}" if prefix else name, tensor, kind


def _glob_search(patterns):
    """A test of names, with the patterns as transformers takes those of its dtype plans."""
    alternatives = [pattern.replace("*", ".*") for pattern in patterns]
    return re.compile("|".join(f"(?:{pattern})" for pattern in alternatives)).search if alternatives else lambda _: None


def tensors_of(model, dtype):
    """The tensors as the manifest has them. What transformers keeps in F32 at this dtype is F32."""
    kept = _glob_search([pattern for pattern, kept in model._get_dtype_plan(dtype).items() if kept == torch.float32])
    tensors = []
    for name, tensor, kind in named_tensors(model):
        stays = tensor.dtype == dtype and kind != _NON_PERSISTENT and kept(name)
        tensors.append({"name": name, "kind": kind, "dtype": "F32" if stays else safetensors_name(tensor, name),
                        "shape": list(tensor.shape)})
    return tensors


def kept_in_fp32(model):
    """{name: whether transformers keeps it in F32} of the model's floating tensors, at F16 and at BF16 together."""
    kept = _glob_search(sorted({*(model._keep_in_fp32_modules or ()), *(model._keep_in_fp32_modules_strict or ())}))
    return {name: kept(name) is not None for name, tensor, _ in named_tensors(model) if tensor.dtype.is_floating_point}


def components_that_pick(kept):
    """The dotted components whose names are those that are `kept`: transformers has patterns for that, a manifest
    components. One is taken if all that it picks is meant."""
    left = {name for name, meant in kept.items() if meant}
    picked_by = {}
    for name in kept if left else ():
        for component in set(name.split(".")):
            picked_by.setdefault(component, set()).add(name)
    components = []
    # The widest first, by name where two are as wide, so that the list is short and always the same.
    for component, picked in sorted(picked_by.items(), key=lambda item: (-len(item[1]), item[0])):
        if picked & left and not component.isdigit() and all(kept[name] for name in picked):
            components.append(component)
            left -= picked
    if left:
        raise ManifestError(f"what transformers keeps in F32 cannot be said by components of names: {min(left)} shares "
                            "all of its with others")
    return sorted(components)


def tied_groups_of(model):
    """Groups of the model's declaration, and of tensors that are one object. The declared source comes first."""
    order, by_identity, source_of = {}, {}, {}
    for name, tensor, _ in named_tensors(model):
        order[name] = len(order)
        first = by_identity.setdefault(id(tensor), name)
        if first != name:
            source_of[name] = first
    for target, source in getattr(model, "all_tied_weights_keys", {}).items():
        for name in (target, source):
            if name not in order:
                raise ManifestError(f"{type(model).__name__} ties {target} to {source}, and has no {name}")
        # Declared beats found: what was one object with the target follows the declaration through it.
        if source_of.get(source) == target:
            del source_of[source]
        if target != source:
            source_of[target] = source
    groups = {}
    for name in order:
        root, seen = name, {name}
        while root in source_of:
            root = source_of[root]
            if root in seen:
                raise ManifestError(f"{type(model).__name__} ties {name} in a circle")
            seen.add(root)
        if root != name:
            groups.setdefault(root, []).append(name)
    return [{"source": source, "targets": groups[source]} for source in sorted(groups, key=order.get)]


def initializer_range(config):
    text = config.get_text_config()
    value = getattr(text, "initializer_range", None)
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else 0.0
