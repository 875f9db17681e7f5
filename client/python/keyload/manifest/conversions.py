"""The checkpoint conversions of transformers as data: renames in RE2, and operations of the contract."""

import re

from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (Chunk, Concatenate, MergeModulelist, Split, Transpose, WeightConverter,
                                             WeightRenaming, WeightTransform)

from keyload.manifest import patterns
from keyload.manifest.errors import ManifestError

_MAX_SAMPLES = 4000


def _name(transform):
    return f"{type(transform).__name__}({', '.join(transform.source_patterns)})"


def _branches(transform):
    """The alternatives of a transform's sources in the order in which they are tried."""
    for source in sorted(transform.source_patterns, key=lambda source: -len(source)):
        pattern = source.replace("*.", r".*\.")
        yield source, pattern + (r"(?!\w)" if re.search(r"[a-zA-Z0-9]$", pattern) else "")


def _scope(transform, pattern):
    """What the scope of a submodel takes before a match of `pattern`; None where it takes nothing."""
    if transform.scope_prefix is None:
        return None
    base = f"{re.escape(transform.base_model_prefix)}\\." if transform.base_model_prefix else ""
    scope = f"{re.escape(transform.scope_prefix)}\\." if transform.scope_prefix else ""
    # The base prefix is always taken if it is there, so a pattern that begins with it can only be the second time.
    optional = base and not (scope == "" and pattern.startswith(f"^{base}"))
    return (f"(?:{base})?" if optional else base) + scope


def _scoped(transform, pattern, replacement):
    scope = _scope(transform, pattern)
    if not scope:
        return pattern, replacement
    shifted = re.sub(r"\\(\d)", lambda match: f"\\{int(match.group(1)) + 1}", replacement)
    if pattern.startswith("^"):
        return f"^({scope}){pattern[1:]}", r"\1" + shifted
    return f"^({scope}.*?){pattern}", r"\1" + shifted


def _rename(transform, samples):
    """The rules of one renaming of transformers."""
    if type(transform).rename_source_key is not WeightTransform.rename_source_key:
        raise ManifestError(f"{_name(transform)} renames by more than a pattern, which a manifest cannot say")
    rules = []
    for _, source in _branches(transform):
        pattern, replacement = patterns.to_re2(source, transform.target_patterns[0])
        rules.append(_scoped(transform, pattern, replacement))
    if len(rules) > 1 and all(replacement == rules[0][1] and "(" not in pattern for pattern, replacement in rules):
        rules = [("|".join(f"(?:{pattern})" for pattern, _ in rules), rules[0][1])]
    for pattern, _ in rules:
        patterns.check(pattern, _name(transform))
    for sample in samples:
        wanted, _ = transform.rename_source_key(sample)
        made = sample
        for pattern, replacement in rules:
            made = patterns.substitute(pattern, replacement, made) or made
        if made != wanted:
            raise ManifestError(f"{_name(transform)} makes {wanted} of {sample}; in RE2 it would make {made}")
    return [{"pattern": pattern, "replacement": replacement} for pattern, replacement in rules]


def _operation(operation, transform, model):
    kind = type(operation)
    if kind is MergeModulelist:
        return {"kind": "KIND_STACK", "dims": [operation.dim]}
    if kind is Concatenate:
        return {"kind": "KIND_CONCATENATE", "dims": [operation.dim]}
    if kind is Chunk:
        return {"kind": "KIND_CHUNK", "dims": [operation.dim]}
    why = ""
    if kind is Split:
        if _equal_parts(operation, transform, model):
            return {"kind": "KIND_CHUNK", "dims": [operation.dim]}
        why = " into parts of several sizes"
    if kind is Transpose:
        if not operation.check_dims:
            return {"kind": "KIND_TRANSPOSE", "dims": [operation.dim0, operation.dim1]}
        why = " that depends on the stored shape"
    raise ManifestError(f"conversion to {', '.join(transform.target_patterns)}: {operation!r}{why} is no operation of "
                        "a manifest")


def _equal_parts(operation, transform, model):
    """Whether every tensor that `transform` splits has parts of one size."""
    sizes = {}
    for name, tensor in model.state_dict().items():
        for target in transform.target_patterns:
            if target in name:
                sizes.setdefault(name.replace(target, transform.target_patterns[0]), set()).add(
                    tensor.shape[operation.dim])
    return all(len(found) == 1 for found in sizes.values())


def _targets(transform, config):
    for operation in transform.operations:
        if isinstance(operation, Chunk) and operation.num_shards_attribute is not None:
            return operation.get_target_patterns(list(transform.target_patterns), config=config)
    return list(transform.target_patterns)


def _conversion(transform, model):
    sources = []
    for source, checked in _branches(transform):
        pattern, replacement = patterns.to_re2(checked)
        # The server makes the boundary at the end itself; what else was rewritten is what it must search.
        if replacement:
            raise ManifestError(f"conversion of {source!r} has a lookaround, which RE2 has not")
        patterns.check(pattern, source)
        sources.append(source)
    sources.sort(key=transform.source_patterns.index)
    targets = _targets(transform, model.config)
    if scope := _scope(transform, sources[0]):
        if any("(" in source for source in sources):
            raise ManifestError(f"conversion of {sources[0]!r} below {transform.scope_prefix} has a group of its own")
        sources = [f"^({scope}){source[1:]}" if source.startswith("^") else f"^({scope}.*?){source}"
                   for source in sources]
        targets = [r"\1" + target for target in targets]
    return {"sources": sources, "targets": targets,
            "operations": [_operation(operation, transform, model) for operation in transform.operations]}


def _makes_a_key(transform, names):
    targets = [re.escape(target).replace(r"\\1", ".*").replace(r"\*", r"\d+") for target in transform.target_patterns]
    return any(re.search("|".join(targets), name) for name in names)


def _signature(transform):
    return tuple(transform.source_patterns), tuple(transform.target_patterns), transform.scope_prefix


class Transforms:
    """What transformers applies to a checkpoint of `model`, in its order.

    `renamings` are all, `own_renamings` those that saving reverts: neither those for old checkpoints nor a quantiser's.
    `converters` leave out those that make no key of the model.
    """

    def __init__(self, model, quantizer=None):
        mapping = get_model_conversion_mapping(model, hf_quantizer=quantizer)
        names = list(model.state_dict())
        own = {_signature(transform) for transform in get_model_conversion_mapping(model, add_legacy=False)}
        self.renamings = [transform for transform in mapping if isinstance(transform, WeightRenaming)]
        self.own_renamings = [transform for transform in self.renamings if _signature(transform) in own]
        self.converters = [transform for transform in mapping
                           if isinstance(transform, WeightConverter) and _makes_a_key(transform, names)]

    def foreign_renamings(self):
        return [transform for transform in self.renamings if transform not in self.own_renamings]


def samples_of(names, prefix):
    """Names to try patterns on: these, or one of each form where there are many; with and without the base prefix."""
    forms = {}
    for name in names:
        forms.setdefault(re.sub(r"\d+", "0", name), name)
    chosen = list(names) if len(names) <= _MAX_SAMPLES else list(forms.values())
    if prefix:
        chosen += [f"{prefix}.{name}" for name in forms.values()]
        chosen += [name.removeprefix(f"{prefix}.") for name in forms.values()]
    return list(dict.fromkeys(chosen))


def renames_of(renamings, samples):
    """Rules for the manifest, each tried on `samples` and on what the rules before made of them."""
    rules = []
    for renaming in renamings:
        rules += _rename(renaming, samples)
        renamed = [renaming.rename_source_key(sample)[0] for sample in samples]
        samples = list(dict.fromkeys([*samples, *renamed]))
    return rules


def conversions_of(converters, model):
    return [_conversion(converter, model) for converter in converters]


def ignore_patterns_of(found, samples):
    """transformers' patterns for reports, which search and replace nothing, for RE2; each is tried on `samples`."""
    made = {}
    for pattern in found or ():
        made[pattern], _ = patterns.to_re2(pattern)
        search = re.compile(pattern).search
        for sample in samples if made[pattern] != pattern else ():
            if (search(sample) is None) != (patterns.substitute(made[pattern], "", sample) is None):
                raise ManifestError(f"pattern {pattern!r} finds {sample} otherwise in RE2, as {made[pattern]!r}")
    return sorted(made.values())
