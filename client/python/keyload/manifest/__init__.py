"""Manifests of transformers models: `keyload-manifest`, `python -m keyload.manifest`, or `make_manifest`.

A manifest is a dict with the fields of keyload.v1.ModelManifest in proto3 JSON form.
"""

from keyload.manifest.errors import ManifestError
from keyload.manifest.export import describe, make_manifest

__all__ = ["ManifestError", "describe", "make_manifest"]
