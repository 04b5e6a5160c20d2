"""The manifest: what round-trips, what is refused, and that the schema says the same as the types."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from surefoot.errors import UntrustedRelease
from surefoot.release import golden, manifest


def plain(**changes: Any) -> dict[str, Any]:
    file = {"name": "model.onnx", "sha256": "0" * 64, "length_bytes": 1}
    whole: dict[str, Any] = {
        "format": 1,
        "name": "some-model",
        "version": "1.2.3",
        "created": "2026-01-02T03:04:05Z",
        "variants": [
            {
                "id": "onnx",
                "device_classes": ["generic-amd64"],
                "runtime": "onnxruntime",
                "artifact": file,
                "inputs": [{"name": "image", "datatype": "FP32", "shape": [-1, 1, 56, 56]}],
                "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, 10]}],
                "output_kind": "logits",
                "tolerance": {"probability": 0.1},
            }
        ],
        "golden": {"file": {**file, "name": "golden.msgpack"}, "cases": 1},
        "card": {"file": {**file, "name": "card.md"}, "data": "d", "limits": "l", "fails_where": "f"},
    }
    whole.update(changes)
    return whole


def decoded(**changes: Any) -> manifest.Manifest:
    return manifest.decode(json.dumps(plain(**changes)).encode())


def variant(**changes: Any) -> list[dict[str, Any]]:
    return [{**plain()["variants"][0], **changes}]


def test_a_manifest_survives_being_written_and_read():
    first = decoded()
    assert manifest.decode(manifest.encode(first)) == first
    assert manifest.encode(manifest.decode(manifest.encode(first))) == manifest.encode(first)


def test_what_is_written_fits_the_schema():
    jsonschema.validate(json.loads(manifest.encode(decoded())), manifest.schema())


@pytest.mark.attack
@pytest.mark.parametrize(
    "changes",
    [
        {"format": 2},
        {"name": "../up"},
        {"name": "Upper"},
        {"name": "good\n"},
        {"version": "1.2"},
        {"version": "01.2.3"},
        {"version": "1.2.3\n"},
        {"created": "yesterday"},
        {"variants": []},
        {"unknown": 1},
        {"variants": variant() * 2},
        {"variants": variant(device_classes=[])},
        {"variants": variant(artifact={"name": "../x", "sha256": "0" * 64, "length_bytes": 1})},
        {"variants": variant(artifact={"name": "manifest.json", "sha256": "0" * 64, "length_bytes": 1})},
        {"variants": variant(artifact={"name": "m", "sha256": "0" * 63, "length_bytes": 1})},
        {"variants": variant(artifact={"name": "m", "sha256": "0" * 64, "length_bytes": 0})},
        {"variants": variant(artifact={"name": "card.md", "sha256": "1" * 64, "length_bytes": 1})},
        {"variants": variant(tolerance={})},
        {"variants": variant(tolerance={"probability": 1.5})},
        {"variants": variant(output_kind="other")},
        {"variants": variant(calibration={"temperature": 0})},
        {"variants": variant(inputs=[{"name": "x", "datatype": "BYTES", "shape": [1]}])},
        {
            "variants": variant(
                preprocessing={"width": 1, "height": 1, "color": "gray", "layout": "NCHW", "mean": [0, 0]}
            )
        },
        {"golden": {"file": plain()["golden"]["file"], "cases": 0}},
    ],
)
def test_a_manifest_that_is_not_right_is_refused(changes):
    with pytest.raises(UntrustedRelease):
        decoded(**changes)


@pytest.mark.attack
@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b"\xff", b"{" * 100_000, b" " * (manifest.MOST_MANIFEST_BYTES + 1)]
)
def test_bytes_that_are_no_manifest_are_refused(data):
    with pytest.raises(UntrustedRelease):
        manifest.decode(data)


def test_another_format_says_to_update_the_app_first():
    with pytest.raises(UntrustedRelease, match="update the app"):
        decoded(format=7, something_new=True)


def test_the_variant_is_the_first_runtime_of_the_device_that_has_one():
    both = decoded(variants=variant() + variant(id="tflite", runtime="tflite"))
    assert manifest.select_variant(both, "generic-amd64", ("tflite", "onnxruntime")).id == "tflite"
    assert manifest.select_variant(both, "generic-amd64", ("tensorrt", "onnxruntime")).id == "onnx"


@pytest.mark.attack
def test_a_release_for_another_device_class_is_refused_with_what_it_is_for():
    with pytest.raises(UntrustedRelease, match="generic-amd64/onnxruntime"):
        manifest.select_variant(decoded(), "jetson-jp6", ("onnxruntime",))


def test_versions_sort_by_number():
    assert manifest.version_key("1.10.0") > manifest.version_key("1.9.9")


@pytest.mark.attack
@pytest.mark.parametrize("data", [b"", b"\x90", b"\x91\x80", golden.encode([golden.Case(id="x", expected={})])])
def test_golden_files_without_a_usable_case_are_refused(data):
    with pytest.raises(UntrustedRelease):
        golden.decode(data)
