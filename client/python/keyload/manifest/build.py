"""A model on the meta device, as `from_pretrained` has it before it reads a weight."""

from contextlib import ExitStack

from keyload.manifest import quantised
from keyload.manifest.errors import ManifestError

_MAX_HELD_BYTES = 64 << 20  # some models make a few small parameters from values, which have memory all the same


def _own_implementations(config):
    # A name of a kernel repository in the configuration would be fetched and run.
    for part in [config, *(getattr(config, name, None) for name in config.sub_configs)]:
        if part is not None:
            part._attn_implementation = "eager"
            part._experts_implementation = "eager"


def build(config, model_class, dtype, quantizer=None):
    """The model, with meta tensors of `dtype`; with `quantizer` its modules are those of the quantised model."""
    _own_implementations(config)
    try:
        with ExitStack() as contexts:
            for context in model_class.get_init_context(dtype, quantizer is not None, False, False):
                contexts.enter_context(context)
            model = model_class(config)
            if quantizer is not None:
                quantised.replace_modules(model, quantizer, dtype)
    except ManifestError:
        raise
    except Exception as error:  # a configuration may be wrong in any way
        raise ManifestError(f"{model_class.__name__} cannot be built: {type(error).__name__}: {error}") from error
    held = sum(tensor.nbytes for tensor in model.parameters() if tensor.device.type != "meta")
    if held > _MAX_HELD_BYTES:
        raise ManifestError(f"{model_class.__name__} makes {held} bytes of weights: not a model for the meta device")
    return model
