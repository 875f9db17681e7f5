"""From what the user names to a configuration and a model class of transformers, without running anybody's code."""

import json
import pathlib

import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from keyload.manifest.errors import ManifestError

MAX_CONFIG_BYTES = 16 << 20


def _read(path):
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ManifestError(f"{path}: more than {MAX_CONFIG_BYTES} bytes: not a config.json")
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ManifestError(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{path}: not JSON: {error}") from error
    if not isinstance(document, dict):
        raise ManifestError(f"{path}: not a JSON object")
    return document


def _needs_code(document, what):
    where = "the auto_map of the configuration names code for it" if document.get("auto_map") else "it is no part of it"
    return ManifestError(f"{what} is not in transformers {transformers.__version__}; {where}, and keyload-manifest "
                         "never runs code of a model's directory")


def _config_of(document, path):
    model_type = document.get("model_type")
    if not isinstance(model_type, str) or not model_type:
        raise ManifestError(f"{path}: no model_type")
    if model_type not in CONFIG_MAPPING:
        raise _needs_code(document, f"{path}: model_type \"{model_type}\"")
    fields = {name: value for name, value in document.items() if name != "auto_map"}
    return _made(path, lambda: CONFIG_MAPPING[model_type].from_dict(fields))


def _made(what, make):
    try:
        return make()
    except Exception as error:  # whatever a configuration class thinks of the values
        raise ManifestError(f"{what}: {type(error).__name__}: {error}") from error


def _class_named(name, document):
    found = getattr(transformers, name, None) if name.isidentifier() else None
    if not (isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)):
        raise _needs_code(document, f"model class {name}")
    return found


def _architecture_of(document, path):
    architectures = document.get("architectures")
    if not (isinstance(architectures, list) and architectures and isinstance(architectures[0], str)):
        raise ManifestError(f"{path}: no architectures: name the class with --architecture")
    return architectures[0]


def resolve(source, config=None, architecture=None):
    """The configuration and the class that `source` (config.json, directory or class name) means."""
    path = pathlib.Path(source)
    if path.is_dir():
        path = path / "config.json"
    named = path.suffix != ".json" and not path.is_file()
    if named:
        if str(source).isidentifier():
            architecture = architecture or str(source)
            path = config
        else:
            raise ManifestError(f"{source}: neither a file, nor a directory, nor the name of a class")
    elif config is not None:
        raise ManifestError("--config goes with a class name; the source is a configuration already")
    document = _read(pathlib.Path(path)) if path is not None else {}
    model_class = _class_named(architecture or _architecture_of(document, path), document)
    if model_class.config_class is None:
        raise ManifestError(f"{model_class.__name__} is no model by itself: name one with a head, or the base model")
    if path is None:
        return _made(f"the default configuration of {model_class.__name__}", model_class.config_class), model_class
    configuration = _config_of(document, path)
    if not isinstance(configuration, model_class.config_class):
        raise ManifestError(f"{path}: model_type \"{configuration.model_type}\" is not one of {model_class.__name__}")
    return configuration, model_class
