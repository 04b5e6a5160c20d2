"""Removes from installed wheels what a device never reads, and gives every file the same time.

usage: prune.py OUT TREE      OUT: what a layer is made of; TREE: the wheels in it
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

# pattern: why it may go. Licences and metadata stay.
NEVER_READ = {
    "**/tests": "tests of the packages",
    "**/test_data": "data of such tests",
    "**/*.pyi": "types, for checkers",
    "**/*.pyx": "sources of extension modules",
    "**/*.pxd": "the same",
    "**/*.h": "headers",
    "**/*.a": "static libraries",
    "bin": "commands of the packages",
    "numpy/f2py": "a Fortran compiler's front",
    "onnxruntime/capi/libonnxruntime.so.*": "the C library; Python's own module holds all of it again",
    "onnxruntime/transformers": "tools that change models",
    "onnxruntime/quantization": "the same",
    "onnxruntime/tools": "the same",
    "onnxruntime/datasets": "example models",
    "sympy*": "symbolic mathematics, for the same tools of onnxruntime 1.23",
    "mpmath*": "sympy's",
    "ai_edge_litert/libLiteRtWebGpuAccelerator.so": "a GPU through a browser's interface",
    "ai_edge_litert/libLiteRt.so": "compiles for such accelerators; the interpreter does not load it",
    "ai_edge_litert/tools": "tools that change models",
    "ai_edge_litert/vendors": "accelerators of phones",
    "PIL/_avif*.so": "only PNG and JPEG are read",
    "PIL/AvifImagePlugin.py": "the same",
    "PIL/_imagingft*.so": "drawing of text",
    "pillow.libs/libavif-*": "of those two",
    "pillow.libs/libharfbuzz-*": "of those two",
    "pillow.libs/libfreetype-*": "of those two",
}


def prune(out: Path, tree: Path) -> int:
    """Remove, and set times. Returns how many bytes went."""
    before = size(tree)
    for pattern in NEVER_READ:
        for found in sorted(tree.glob(pattern)):
            if found.is_dir():
                shutil.rmtree(found)
            elif found.exists():
                found.unlink()
    for folder, _, files in os.walk(out, topdown=False):
        for name in files:
            os.utime(Path(folder) / name, (0, 0), follow_symlinks=False)
        os.utime(folder, (0, 0))
    return before - size(tree)


def size(tree: Path) -> int:
    """Bytes of all files."""
    return sum(path.lstat().st_size for path in tree.rglob("*") if path.is_file())


if __name__ == "__main__":
    print(f"{prune(Path(sys.argv[1]), Path(sys.argv[2]))} bytes removed that a device never reads")
