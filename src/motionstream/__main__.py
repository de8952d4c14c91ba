"""``python -m motionstream``: the command line, for those who start it by torchrun."""

from __future__ import annotations

import sys

from motionstream.cli import main

if __name__ == "__main__":
    sys.exit(main())
