class ManifestError(Exception):
    """Why there is no manifest: one line that names the config field, class, pattern or operation."""
