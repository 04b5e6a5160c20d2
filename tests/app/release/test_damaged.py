"""Damaged manifests and golden files: refused with an error of ours, whatever the damage."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from surefoot.errors import UntrustedRelease
from surefoot.release import golden, manifest
from tests.app.release.publishing import Publisher

CASES = golden.encode([golden.Case(id="one", label=0, image=b"x", expected={"logits": [0.5, 0.5]})] * 2)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return Publisher(tmp_path_factory.mktemp("publisher")).build().manifest_bytes


@pytest.mark.attack
def test_every_flipped_bit_of_a_golden_file_is_read_or_refused():
    for bit in range(len(CASES) * 8):
        changed = bytearray(CASES)
        changed[bit // 8] ^= 1 << bit % 8
        try:
            golden.decode(bytes(changed))
        except UntrustedRelease:
            continue


@pytest.mark.attack
def test_every_flipped_bit_of_a_manifest_is_read_or_refused(whole):
    refused = 0
    for bit in range(len(whole) * 8):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        try:
            manifest.decode(bytes(changed))
        except UntrustedRelease:
            refused += 1
    assert refused > len(whole)


@pytest.mark.attack
@given(st.binary(max_size=200))
@example(b"[" * 100_000)
@example(b'{"format":1,"x":' + b"[" * 100_000)
@example(b'{"format": 1e999}')
@example(b"\xef\xbb\xbf{}")
def test_any_bytes_are_refused_as_a_manifest(data):
    with pytest.raises(UntrustedRelease):
        manifest.decode(data)


@pytest.mark.attack
@given(st.binary(max_size=200))
@example(b"\x91" * 100_000)
@example(b"\xdd\xff\xff\xff\xff")
@example(b"\x90")
def test_any_bytes_are_refused_as_golden_cases(data):
    with pytest.raises(UntrustedRelease):
        golden.decode(data)


@pytest.mark.attack
def test_too_long_files_are_refused(whole):
    with pytest.raises(UntrustedRelease, match="too long"):
        manifest.decode(whole + b" " * manifest.MOST_MANIFEST_BYTES)


@pytest.mark.attack
def test_a_release_without_golden_cases_is_refused(whole):
    with pytest.raises(UntrustedRelease, match="no golden cases"):
        golden.decode(golden.encode([]))
    plain = msgspec.json.decode(whole)
    plain["golden"]["cases"] = 0
    with pytest.raises(UntrustedRelease, match="cases"):
        manifest.decode(msgspec.json.encode(plain))


@pytest.mark.attack
def test_a_release_for_another_device_class_is_refused(whole):
    read = manifest.decode(whole)
    assert manifest.select_variant(read, "generic-amd64", ("tflite", "onnxruntime")).id == "onnx"
    with pytest.raises(UntrustedRelease, match="no variant for this device") as caught:
        manifest.select_variant(read, "jetson-orin", ("onnxruntime",))
    assert caught.value.found == "generic-amd64/onnxruntime, generic-arm64/onnxruntime"
    with pytest.raises(UntrustedRelease, match="no variant for this device"):
        manifest.select_variant(read, "generic-amd64", ("tflite",))
