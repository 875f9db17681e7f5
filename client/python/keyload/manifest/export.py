"""From a model to its manifest."""

from keyload.manifest import build, contents, conversions, dtypes, model_class, quantised, stored

_INV_FREQ, _POSITION_IDS = r"rotary_emb\.inv_freq", r"(^|\.)position_ids$"


def _ignore_unexpected(model):
    """The class's patterns, and the two that transformers adds to a model with such buffers."""
    found = set(model._keys_to_ignore_on_load_unexpected or ())
    buffers = [name for name, _ in model.named_buffers()]
    if any(name.endswith("rotary_emb.inv_freq") for name in buffers):
        found.add(_INV_FREQ)
    if any(name.endswith("position_ids") for name in buffers):
        found.add(_POSITION_IDS)
    return found


def _as_stored(model, transforms, manifest):
    """`manifest` with the names, dtypes and shapes of checkpoints in place of the model's."""
    own = {tensor["name"]: tensor for tensor in manifest["tensors"]}
    kept, stored_kept, names, tensors = contents.kept_in_fp32(model), {}, {}, []
    for name, tensor, keys in stored.stored_tensors(model, transforms):
        tensors.append({**own[keys[0]], "name": name, "shape": list(tensor.shape)})
        if keys[0] in kept:
            stored_kept[name] = kept[keys[0]]
        for key in keys:
            names.setdefault(key, []).append(name)
    tensors += [tensor for tensor in manifest["tensors"] if tensor["kind"] == "KIND_NON_PERSISTENT_BUFFER"]
    groups = []
    for group in manifest["tiedGroups"]:
        members = [names[member] for member in (group["source"], *group["targets"])]
        groups += [{"source": source, "targets": list(targets)} for source, *targets in zip(*members)]
    changed = any(name not in own for stored_names in names.values() for name in stored_names)
    return {**manifest, "tensors": tensors, "tiedGroups": groups,
            "keepInFp32": contents.components_that_pick(stored_kept),
            # A module that checkpoints name otherwise would stand there without a tensor.
            "modules": _modules_with_tensors(manifest["modules"], tensors) if changed else manifest["modules"]}


def _modules_with_tensors(modules, tensors):
    held = {tensor["name"][:end] for tensor in tensors
            for end, character in enumerate(tensor["name"]) if character == "."}
    return [module for module in modules if module["name"] in held]


def describe(model, dtype, as_stored=False, quantizer=None):
    """The manifest of a transformers model on any device, built at `dtype`. ManifestError."""
    transforms = conversions.Transforms(model, quantizer)
    renamings = transforms.foreign_renamings() if as_stored else transforms.renamings
    prefix = model.base_model_prefix
    manifest = {
        "architecture": type(model).__name__,
        "baseModelPrefix": prefix,
        "modules": contents.modules_of(model),
        "tensors": contents.tensors_of(model, dtype),
        "tiedGroups": contents.tied_groups_of(model),
        "noSplitModules": sorted(model._no_split_modules or ()),
        "keepInFp32": [],
        "ignoreMissing": [],
        "ignoreUnexpected": [],
        "renames": [],
        "conversions": [],
        "initializerRange": contents.initializer_range(model.config),
    }
    if as_stored:
        manifest = _as_stored(model, transforms, manifest)
    else:
        manifest["keepInFp32"] = contents.components_that_pick(contents.kept_in_fp32(model))
        manifest["conversions"] = conversions.conversions_of(transforms.converters, model)
    samples = conversions.samples_of([tensor["name"] for tensor in manifest["tensors"]], prefix)
    manifest["renames"] = conversions.renames_of(renamings, samples)
    manifest["ignoreMissing"] = conversions.ignore_patterns_of(model._keys_to_ignore_on_load_missing, samples)
    manifest["ignoreUnexpected"] = conversions.ignore_patterns_of(_ignore_unexpected(model), samples)
    return manifest


def make_manifest(source, config=None, architecture=None, dtype=None, as_stored=False):
    """The manifest of what `source` names: a config.json, a directory that has one, or a class of transformers.

    `dtype` is a safetensors name, `config` the file of a class's configuration. Reads no weights, allocates none, runs
    no code of the directory. ManifestError.
    """
    configuration, chosen = model_class.resolve(source, config, architecture)
    quantizer = quantised.quantizer_of(configuration)
    torch_dtype = dtypes.model_dtype(dtype, configuration)
    model = build.build(configuration, chosen, torch_dtype, quantizer)
    return describe(model, torch_dtype, as_stored, quantizer)
