"""The Python side of keyload. `keyload.manifest` makes manifests of transformers models."""
