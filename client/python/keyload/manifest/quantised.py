"""Configurations of quantised checkpoints: the quantiser of transformers makes the modules, so the keys are its."""

from transformers.quantizers.auto import AutoHfQuantizer, AutoQuantizationConfig

from keyload.manifest.errors import ManifestError


def _failed(method, error):
    # A package that is not there shows as an ImportError, or as a name that nobody defined.
    if isinstance(error, (ImportError, NameError)):
        return ManifestError(f"quantization_config: {method} needs a package that is not installed: {error}; "
                             "the server's own templates (--expected config) need none")
    return ManifestError(f"quantization_config: {method}: {type(error).__name__}: {error}")


def quantizer_of(config):
    """The quantiser of a pre-quantised checkpoint; None for a plain configuration. ManifestError."""
    found = getattr(config, "quantization_config", None)
    if found is None:
        return None
    method = found.get("quant_method") if isinstance(found, dict) else found.quant_method
    try:
        found = AutoQuantizationConfig.from_dict(dict(found)) if isinstance(found, dict) else found
        if hasattr(found, "dequantize"):
            found.dequantize = False  # it is the stored keys that count, whatever this machine can compute with
        return AutoHfQuantizer.from_config(found, pre_quantized=True)
    except Exception as error:  # whatever stands in the configuration
        raise _failed(method, error) from error


def replace_modules(model, quantizer, dtype):
    """Gives `model`, on the meta device, the modules that `quantizer` loads into. ManifestError."""
    try:
        quantizer.preprocess_model(model=model, dtype=dtype, device_map={"": "cpu"}, checkpoint_files=None)
    except Exception as error:  # it imports its packages here at the latest
        raise _failed(quantizer.quantization_config.quant_method.value, error) from error
