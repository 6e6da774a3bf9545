"""``python -m reft_lib``."""

import sys

from reft_lib.cli import main

if __name__ == "__main__":
    sys.exit(main())
