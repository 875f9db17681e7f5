"""What ctest tells the tests through the environment, and what to do for one that is started by hand."""

import os
import pathlib
import sys


def folder(name, what):
    """The folder that the environment variable `name` names; without it the program ends with 2 and says what it lacks."""
    if not os.environ.get(name):
        sys.exit(f"This test needs the environment variable {name}: {what}. Run it with ctest, which sets it.")
    return pathlib.Path(os.environ[name])
