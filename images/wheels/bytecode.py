"""Compiles a tree of Python for the interpreter that runs this, which is of the target's minor version.

usage: bytecode.py FROM INTO VERSION       VERSION: the minor version of the target's Python

Only the bytecode is written, under the paths that the tree will have in the image. It is never checked against its
source: an image does not change, and the check would cost a stat for each import.
"""

from __future__ import annotations

import importlib.util
import os
import py_compile
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path


def compile_one(source: Path, target: Path, shown: str) -> str:
    """Compile one module. Returns what is wrong with it, or nothing."""
    target.parent.mkdir(parents=True, exist_ok=True)
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    try:
        py_compile.compile(str(source), str(target), dfile=shown, doraise=True, invalidation_mode=mode)
    except py_compile.PyCompileError as error:
        return f"{shown}: {error.exc_type_name}"
    os.utime(target, (0, 0))
    return ""


def main(tree: Path, into: Path) -> int:
    """Compile all of it; a module that this Python cannot read (a template, a test of bad syntax) is only named."""
    root = Path("/") / into.relative_to("/out")
    jobs = []
    with ProcessPoolExecutor() as pool:
        for source in sorted(tree.rglob("*.py")):
            place = source.relative_to(tree)
            cached = Path(importlib.util.cache_from_source(str(into / place)))
            jobs.append(pool.submit(compile_one, source, cached, str(root / place)))
    problems = [job.result() for job in jobs if job.result()]
    for folder, _, _ in os.walk("/out", topdown=False):
        os.utime(folder, (0, 0))
    print(f"{len(jobs) - len(problems)} modules compiled for Python {sys.version.split()[0]}", *problems, sep="\n  ")
    return 0


if __name__ == "__main__":
    if sys.argv[3] != (this := f"{sys.version_info[0]}.{sys.version_info[1]}"):
        sys.exit(
            f"surefoot: the target's Python is {sys.argv[3]}, and the compiler's {this}: name another COMPILER_IMAGE"
        )
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
