"""Asks a device what a client would: by ``tritonclient``, from outside, through an SSH forward.

On the command line, for molecule: ``python -m tests.parts.asking HOST`` prints the version that answered, the runtime,
and how many of the sample pictures were named rightly, as JSON. HOST is how to log in, as JSON of ``Host``.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import numpy as np
import tritonclient.http as triton

from demo.place import MODEL, RECIPES, SAMPLES
from surefoot.release.manifest import ImagePreprocessing
from surefoot.runtimes.preprocessing import image_to_tensor
from tests.parts.hosts import Host

PORT = 8080
FORWARD_TIMEOUT_S = 30
ANSWER_TIMEOUT_S = 60  # an emulated processor takes its time
LABELS = json.loads((SAMPLES / "labels.json").read_text())


@contextmanager
def forwarded(host: Host, port: int = PORT) -> Iterator[str]:
    """``ssh -L`` while the block runs. Gives the address here that leads to a port of the device's loopback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    line = [
        "ssh", "-N", "-L", f"{address}:127.0.0.1:{port}", "-o", "ExitOnForwardFailure=yes", "-o", "BatchMode=yes",
        "-o", "IdentitiesOnly=yes", "-o", "StrictHostKeyChecking=yes", "-o", f"UserKnownHostsFile={host.known_hosts}",
        "-i", host.identity_file, "-p", str(host.port), f"{host.user}@{host.address}",
    ]  # fmt: skip
    ssh = subprocess.Popen(line, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + FORWARD_TIMEOUT_S
        while True:
            assert ssh.poll() is None, f"ssh ended: {ssh.stderr.read() if ssh.stderr else ''}"
            try:
                socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])), 1).close()
                break
            except OSError:
                assert time.monotonic() < deadline, f"no forward to {host.instance} in {FORWARD_TIMEOUT_S} s"
                time.sleep(0.1)
        yield address
    finally:
        ssh.kill()  # it has been seen to sit out a SIGTERM for five minutes after connections were refused
        ssh.wait()


def preprocessing(version: str, runtime: str) -> ImagePreprocessing:
    """What a variant of the reference model wants done to a picture."""
    recipe = msgspec.toml.decode((RECIPES / f"release-v{version[0]}.toml").read_text())
    variant = next(each for each in recipe["variants"] if each["runtime"] == runtime)
    return msgspec.convert(variant["preprocessing"], ImagePreprocessing)


def ask(host: Host) -> dict[str, Any]:
    """What the model of a device answers to the sample pictures."""
    with forwarded(host) as address:
        return ask_at(address)


def ask_at(address: str) -> dict[str, Any]:
    """The same, where the device is reached already."""
    with triton.InferenceServerClient(address, network_timeout=ANSWER_TIMEOUT_S) as client:
        about = client.get_model_metadata(MODEL)
        (given,), (answered,) = about["inputs"], about["outputs"]
        how = preprocessing(about["versions"][0], about["platform"])
        right = 0
        for sample in LABELS:
            picture = image_to_tensor((SAMPLES / sample["file"]).read_bytes(), how)
            tensor = triton.InferInput(given["name"], list(picture.shape), given["datatype"])
            tensor.set_data_from_numpy(picture)
            answer = client.infer(MODEL, [tensor]).as_numpy(answered["name"])
            right += int(np.argmax(answer)) == sample["label_index"]
        return {"version": about["versions"][0], "platform": about["platform"], "right": right, "of": len(LABELS)}


if __name__ == "__main__":
    print(json.dumps(ask(Host(**json.loads(sys.argv[1])))))
