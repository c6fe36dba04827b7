"""``python -m relaykit``."""

import sys

from relaykit.commands import main

if __name__ == "__main__":
    sys.exit(main())
