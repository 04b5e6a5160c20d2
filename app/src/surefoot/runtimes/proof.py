"""``python -m surefoot.runtimes.proof``: is one runtime usable here? Answered by loading and running a tiny model.

A program of its own, because a vendor's library may abort, hang, or be killed for an instruction that the processor
lacks; ``surefoot doctor`` starts it and outlives it. The answer goes to a descriptor, since libraries write to
standard output as they like.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

import msgspec
import numpy as np

from surefoot.errors import DeviceUnable, SurefootError
from surefoot.runtimes.protocol import Options, load_runtime

_GIVEN = (0.0, 1.0, -2.0, 3.5)  # y = 2 x + 1 is exact in any float
_MOST_REASON = 500


def prove(name: str, provider: str) -> dict[str, object]:
    """Load the runtime's own tiny model, run it once, compare.

    Args:
        name: the runtime.
        provider: an accelerator that must be used; empty: whatever the runtime takes by itself.

    Returns:
        ``outcome``: ``works``, ``missing`` (the library is not installed) or ``refused``; ``reason``; and as far as
        it came ``version``, ``provider`` and ``offered``.
    """
    told: dict[str, object] = {"outcome": "refused", "reason": ""}
    try:
        runtime = load_runtime(name)
        told["offered"] = runtime.providers()
        (given,) = runtime.load(runtime.proof, Options(provider=provider)).inputs
        facts = runtime.facts()
        told |= {"version": facts.version, "provider": facts.provider}
        (answer,) = runtime.infer({given.name: np.array([_GIVEN], np.float32)}).values()
        expected = [2 * value + 1 for value in _GIVEN]
        if not np.allclose(answer, [expected], rtol=1e-2):  # half precision is a working accelerator
            told["reason"] = f"answered {answer.tolist()}, expected {[expected]}"
        else:
            told["outcome"] = "works"
        runtime.close()
    except DeviceUnable as error:
        absent = isinstance(error.__cause__, ModuleNotFoundError)
        told |= {"outcome": "missing" if absent else "refused", "reason": f"{error.what}: {error.found}"}
    except SurefootError as error:
        told["reason"] = str(error)
    except Exception as error:  # another vendor's package may raise what it likes
        told["reason"] = f"{type(error).__name__}: {error}"
    told["reason"] = str(told["reason"])[:_MOST_REASON]
    return told


def main(arguments: Sequence[str] | None = None) -> None:
    """Prove one runtime and write one JSON object to ``--report``."""
    parser = argparse.ArgumentParser(prog="surefoot.runtimes.proof")
    parser.add_argument("name")
    parser.add_argument("--provider", default="")
    parser.add_argument("--report", type=int, required=True, help="an open descriptor")
    asked = parser.parse_args(arguments)
    os.write(asked.report, msgspec.json.encode(prove(asked.name, asked.provider)))


if __name__ == "__main__":
    main()
