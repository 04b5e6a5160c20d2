"""``python -m surefoot``: the same as the command ``surefoot``, whatever PATH says."""

import sys

from surefoot.cli import main

sys.exit(main())
