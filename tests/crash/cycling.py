"""A process that takes a device through update after update until it is killed. Says on stdout what is acknowledged.

Run: ``python -m tests.crash.cycling FOLDER SEED``.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

from surefoot.errors import SurefootError
from tests.app.slots import kit


def main(folder: Path, seed: int) -> None:
    chance = random.Random(seed)
    store = kit.open_store(folder)
    store.recover()
    number = max((int(ref.version.split(".")[0]) for ref in store.read().known), default=0)
    while True:
        what = chance.choice(["install", "activate", "confirm", "confirm", "rollback", "reject", "revert"])
        try:
            if what == "install":
                number += 1
                kit.install(store, kit.make_release(folder / "inbox", f"{number}.0.0"))
            elif what == "activate":
                store.activate(store.read().inactive)
            elif what == "confirm":
                store.record_try()
                store.confirm("enough")
            elif what == "rollback":
                store.rollback(chance.choice([1, 1, 2]))
            elif what == "reject":
                store.reject("bad")
            else:
                store.revert("later")
        except SurefootError:
            pass
        print(store.read().generation, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
