"""Write one copy of a model's state as a later version of the app would, with a right checksum. Keeps what was."""

import hashlib
import json
import shutil
from pathlib import Path

folder = Path("/data/surefoot/models/fashion-mnist")
shutil.copy2(folder / "state.0", folder / "kept.0")
body = json.loads((folder / "state.0").read_bytes())["body"]
body["format"] += 1
raw = json.dumps(body).encode()
sealed = b'{"format":1,"sha256":"%s","body":%s}' % (hashlib.sha256(b"1\n" + raw).hexdigest().encode(), raw)
(folder / "state.0").write_bytes(sealed)
