"""``python -m images.macos.bundle``: the bundle for macOS, by the builder of all bundles."""

import sys

from images.bundle import main

if __name__ == "__main__":
    sys.exit(main(["macos-arm64", *sys.argv[1:]]))
