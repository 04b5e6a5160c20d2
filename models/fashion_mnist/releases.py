"""Write `release-v1.toml` and `release-v2.toml`, the recipes of `surefoot release build`, from `recipe.json`.

python -m fashion_mnist.releases
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
VERSIONS = {"v1": "1.0.0", "v2": "2.0.0"}
RUNTIMES = {"onnx": "onnxruntime", "tflite": "tflite"}
DATATYPES = {"float32": "FP32"}
# Each of them runs both formats on its CPU; boards with an accelerator get variants of their own.
DEVICE_CLASSES = ("generic-amd64", "generic-arm64", "macos-arm64")
CARD = {
    "data": "Fashion-MNIST: 60,000 training and 10,000 test images of 28 x 28 grey pixels, ten kinds of clothing",
    "limits": "one centred item, light on a dark ground, as in the data; there is no class for anything else",
    "fails_where": "shirts are taken for T-shirts, coats and pullovers; "
    "photographs and inverted grounds are not clothing to it",
}


def value(thing: object) -> str:
    """TOML of a string, number, or list or table of those."""
    if isinstance(thing, dict):
        return "{ " + ", ".join(f"{key} = {value(each)}" for key, each in thing.items()) + " }"
    if isinstance(thing, list | tuple):
        return "[" + ", ".join(map(value, thing)) + "]"
    return json.dumps(thing)


def section(title: str, content: dict[str, Any]) -> str:
    """A section of the file."""
    return "\n".join([title, *(f"{key} = {value(each)}" for key, each in content.items())]) + "\n"


def tensor(facts: dict[str, Any]) -> dict[str, Any]:
    """A tensor as the manifest declares it: a symbolic size is -1."""
    shape = [size if isinstance(size, int) else -1 for size in facts["shape"]]
    return {"name": facts["name"], "datatype": DATATYPES[facts["dtype"]], "shape": shape}


def preprocessing(recipe: dict[str, Any], layout: str) -> dict[str, Any]:
    """What a device does to a picture before this variant sees it."""
    facts = recipe["preprocessing"]
    return {
        "width": facts["width_px"],
        "height": facts["height_px"],
        "color": "gray",
        "layout": layout,
        "resize": facts["resample"],
        "scale": 1 / facts["divide_by"],
        "mean": facts["mean"],
        "std": facts["std"],
    }


def release(recipe: dict[str, Any], version: str) -> str:
    """The recipe of one version."""
    reference = next(entry for entry in recipe["variants"] if entry["name"] == recipe["reference"])
    parts = [
        f"# Written by `python -m fashion_mnist.releases` from recipe.json.\n"
        f"name = {value(recipe['name'])}\nversion = {value(VERSIONS[version])}\nlabels = {value(recipe['labels'])}\n"
        f"stateless = {value(recipe['stateless'])}\n",
        section("[card]", {"file": recipe["card"], **CARD}),
        section("[golden]", {"folder": "golden"}),
        section(
            "[reference]",
            {
                "artifact": reference["artifact"],
                "runtime": RUNTIMES[reference["runtime"]],
                "preprocessing": preprocessing(recipe, reference["input"]["layout"]),
                "output_kind": "logits",
            },
        ),
    ]
    for entry in recipe["variants"]:
        if entry["version"] != version:
            continue
        layout = entry["input"]["layout"]
        parts.append(
            section(
                "[[variants]]",
                {
                    "id": f"{entry['runtime']}-{entry['precision']}",
                    "artifact": entry["artifact"],
                    "device_classes": DEVICE_CLASSES,
                    "runtime": RUNTIMES[entry["runtime"]],
                    "inputs": [tensor(entry["input"])],
                    "outputs": [tensor(entry["output"])],
                    "output_kind": "logits",
                    "preprocessing": preprocessing(recipe, layout),
                    "tolerance": {"probability": entry["probability_tolerance"]},
                    "calibration": {"temperature": entry["temperature"], "energy_threshold": entry["energy_threshold"]},
                    "budget": {"latency_p99_ms": 250.0, "memory_bytes": 256 * 1024 * 1024, "load_s": 30.0},
                },
            )
        )
    return "\n".join(parts)


def main() -> None:
    """Write both files."""
    recipe = json.loads((FOLDER / "recipe.json").read_text("utf-8"))
    for version in VERSIONS:
        (FOLDER / f"release-{version}.toml").write_text(release(recipe, version), "utf-8")


if __name__ == "__main__":
    main()
