"""The model's keys as checkpoints store them: what `save_pretrained` writes, without a weight."""

from transformers.core_model_loading import PrefixChange, dot_natural_key, rename_source_key, revert_weight_conversion

from keyload.manifest.errors import ManifestError


def stored_tensors(model, transforms):
    """[(stored name, meta tensor, the model's names that it becomes a part of)], in the model's order.

    ManifestError where a conversion has no way back, or the way back and forth leads elsewhere.
    """
    own = model.state_dict()
    # A prefix that loading would remove may or may not be stored; the server's rule for prefixes finds either.
    model._weight_conversions = [transform for transform in [*transforms.own_renamings, *transforms.converters]
                                 if not isinstance(transform, PrefixChange)]
    try:
        reverted = revert_weight_conversion(model, own)
    except Exception as error:  # operations without a reverse raise what they like
        raise ManifestError(f"{type(model).__name__}: no stored names: {type(error).__name__}: {error}") from error
    position = {name: i for i, name in enumerate(own)}
    source_targets = {source: t.target_patterns for t in transforms.converters for source in t.source_patterns}
    placed = []
    for name, tensor in reverted.items():
        key, pattern = rename_source_key(name, transforms.renamings, transforms.converters)
        keys = [key]
        if pattern is not None:
            first, *others = source_targets[pattern]
            keys += [key.replace(first, other) for other in others]
        unknown = [key for key in keys if key not in position]
        if unknown:
            raise ManifestError(f"{type(model).__name__}: stored as {name}, which would be read as {unknown[0]}")
        placed.append((position[key], dot_natural_key(name), name, tensor, keys))
    reached = {key for *_, keys in placed for key in keys}
    if len(reached) != len(own):
        absent = next(key for key in own if key not in reached)
        raise ManifestError(f"{type(model).__name__}: no stored name for {absent}")
    placed.sort(key=lambda entry: entry[:2])
    return [(name, tensor, keys) for *_, name, tensor, keys in placed]
