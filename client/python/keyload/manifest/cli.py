"""The command: 0 and a manifest, or 2 and one line that says why not."""

import argparse
import gc
import json
import os
import pathlib
import sys
import time

from keyload.manifest.errors import ManifestError

USAGE_CODE = 2


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(USAGE_CODE, f"{self.prog}: {message}; --help shows the options\n")


def _parser():
    parser = _Parser(prog="keyload-manifest", description="Writes the manifest of a transformers model. No weights "
                     "are read, none are allocated, and no code of the model's directory is run.")
    parser.add_argument("source", help="a config.json, a directory that has one, or the name of a model class")
    parser.add_argument("--config", type=pathlib.Path, metavar="FILE",
                        help="config.json for a class name; without it the class's default configuration")
    parser.add_argument("--architecture", metavar="CLASS",
                        help="model class instead of the one that the configuration names")
    parser.add_argument("--dtype", metavar="T", help="safetensors dtype (BF16, F16, F32) of the model, instead of the "
                        "configuration's")
    parser.add_argument("--as-stored", action="store_true", help="name the keys as checkpoints store them, without "
                        "conversions: experts one by one")
    parser.add_argument("--binary", action="store_true", help="write the binary message instead of JSON")
    parser.add_argument("--out", type=pathlib.Path, metavar="FILE", help="instead of standard output")
    return parser


def _quiet():
    # Nothing may be fetched, and nothing but the manifest or one line of error be printed.
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "critical")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    import warnings

    warnings.simplefilter("ignore")


def _make(options):
    try:
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        raise ManifestError(f"torch and transformers 5 are needed: {error}") from error
    from keyload.manifest.export import make_manifest

    return make_manifest(options.source, config=options.config, architecture=options.architecture, dtype=options.dtype,
                         as_stored=options.as_stored)


def _write(manifest, options):
    from keyload.manifest.binary import encode

    data = encode(manifest) if options.binary else (json.dumps(manifest, indent=1) + "\n").encode()
    try:
        if options.out is None:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        else:
            options.out.write_bytes(data)
    except OSError as error:
        raise ManifestError(f"cannot write {options.out or 'standard output'}: {error.strerror}") from error


def main(arguments=None):
    options = _parser().parse_args(arguments)
    start = time.monotonic()
    collecting = gc.isenabled()
    gc.disable()  # a large model is many objects, and none of them goes before the end
    _quiet()
    try:
        manifest = _make(options)
        _write(manifest, options)
    except ManifestError as error:
        print(f"keyload-manifest: {' '.join(str(error).split())}", file=sys.stderr)
        return USAGE_CODE
    finally:
        if collecting:
            gc.enable()
    if options.out is not None:
        print(f"{options.out}: {manifest['architecture']}, {len(manifest['tensors'])} tensors, "
              f"{time.monotonic() - start:.1f} s", file=sys.stderr)
    return 0
