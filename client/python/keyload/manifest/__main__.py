import sys

from keyload.manifest.cli import main

sys.exit(main())
