"""What the inference_app preflight asks a device: one JSON object on stdout. Writes nothing.

Runs by whatever interpreter inference_app_python names, an old one too, so that its answer can say so.
"""

import json
import os
import platform
import sys
from pathlib import Path


def look_at(path):
    """Whether a directory could be made or written there, and the bytes free on its file system."""
    nearest = path
    while not os.path.lexists(str(nearest)) and nearest != nearest.parent:
        nearest = nearest.parent
    problem = ""
    if not nearest.is_dir():
        problem = f"{nearest} is not a directory"
    elif not os.access(str(nearest), os.W_OK | os.X_OK):
        problem = f"{nearest} does not take files of this user"
    free = os.statvfs(str(nearest))
    return {
        "path": str(path),
        "writable": not problem,
        "problem": problem,
        "free_bytes": free.f_bavail * free.f_frsize,
    }


def first_line(path):
    """The first line of a small file, or nothing."""
    try:
        with path.open() as stream:
            return stream.read(1024).strip().partition("\n")[0]
    except (OSError, UnicodeDecodeError):
        return ""


app, problem = None, ""
try:
    import surefoot

    app = surefoot.__version__
except Exception as error:  # an app that cannot be imported is an answer, whatever it raises
    problem = f"not importable: {error!r}"
print(
    json.dumps(
        {
            "python": platform.python_version(),
            "app": app,
            "problem": problem,
            "started_with": first_line(Path(sys.argv[1])),
            "directories": [look_at(Path(path)) for path in sys.argv[2:]],
        }
    )
)
