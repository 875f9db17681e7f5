"""Configurations of quantised checkpoints."""

from keyload.manifest.errors import ManifestError


def quantizer_of(config):
    """The quantiser that makes the modules of a pre-quantised checkpoint; None for a plain one. ManifestError."""
    found = getattr(config, "quantization_config", None)
    if found is None:
        return None
    from transformers.quantizers.auto import AutoHfQuantizer, AutoQuantizationConfig

    try:
        found = AutoQuantizationConfig.from_dict(found) if isinstance(found, dict) else found
        if hasattr(found, "dequantize"):
            found.dequantize = False
        quantizer = AutoHfQuantizer.from_config(found, pre_quantized=True)
    except ImportError as error:
        raise ManifestError(f"quantization_config needs a package that is not installed ({error}); keyload's own "
                            "templates (--expected config) need none") from error
    except Exception as error:  # whatever is in the configuration
        raise ManifestError(f"quantization_config: {type(error).__name__}: {error}") from error
    return quantizer
