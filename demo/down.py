"""``make demo-down``: stop the demo's server and remove what the demo made."""

from __future__ import annotations

import shutil
import sys

from demo.place import DEMO, DEVICE, CommandError, surefoot


def main() -> int:
    """Stop and remove; a second time there is nothing to do."""
    config = DEVICE / "surefoot.toml"
    if config.exists():
        try:
            surefoot("--config", str(config), "stop")
        except CommandError as error:
            print(error, file=sys.stderr)
            return 1
    if DEMO.exists():
        shutil.rmtree(DEMO)
        print("demo stopped and removed")
    else:
        print("no demo here")
    return 0


if __name__ == "__main__":
    sys.exit(main())
