"""The protocol's codec alone: no server, no socket."""

from __future__ import annotations

import contextlib
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot.errors import BadRequest
from surefoot.release.manifest import Tensor
from surefoot.runtimes.protocol import DTYPES
from surefoot.serving import oip
from surefoot.serving.messages import TensorHead

X = Tensor(name="x", datatype="FP32", shape=(-1, 2, 3))
Y = Tensor(name="y", datatype="FP32", shape=(-1, 4))
Z = Tensor(name="z", datatype="INT64", shape=(-1,))
VALUES = [float(value) for value in range(6)]


def request(**changes: object) -> dict[str, object]:
    tensor = {"name": "x", "shape": [1, 2, 3], "datatype": "FP32", "data": VALUES, **changes}
    return {"inputs": [{key: value for key, value in tensor.items() if value is not None}]}


def parse(value: object, binary: bytes = b"", header_length: str | None = None, inputs=(X,), outputs=(Y, Z)):
    head = json.dumps(value).encode() if not isinstance(value, bytes) else value
    if binary and header_length is None:
        header_length = str(len(head))
    return oip.parse(head + binary, header_length, inputs, outputs)


def test_flat_and_nested_data_are_the_same_tensor():
    flat, nested = parse(request()), parse(request(data=[[[0, 1, 2], [3, 4, 5]]]))
    assert bytes(flat.payload[0]) == bytes(nested.payload[0]) == np.arange(6, dtype="<f4").tobytes()
    assert flat.inputs[0] == TensorHead("x", "FP32", (1, 2, 3), 24)


def test_the_id_is_kept_and_absent_where_there_was_none():
    assert parse({**request(), "id": "a-1"}).id == "a-1"
    assert parse({**request(), "id": ""}).id == ""
    assert parse(request()).id is None


def test_unknown_members_and_parameters_are_let_be():
    assert parse({**request(), "parameters": {"sequence_id": 3, "priority": 1}, "more": [1]}).timeout_s is None


def test_binary_tensors_lie_behind_the_json_in_order():
    two = (X, Tensor(name="i", datatype="INT16", shape=(2,)))
    binary = np.arange(6, dtype="<f4").tobytes() + np.array([7, -7], "<i2").tobytes()
    value = {
        "inputs": [
            {"name": "x", "shape": [1, 2, 3], "datatype": "FP32", "parameters": {"binary_data_size": 24}},
            {"name": "i", "shape": [2], "datatype": "INT16", "parameters": {"binary_data_size": 4}},
        ]
    }
    parsed = parse(value, binary, inputs=two)
    assert [bytes(part) for part in parsed.payload] == [binary[:24], binary[24:]]


@pytest.mark.parametrize("datatype", sorted(DTYPES))
def test_each_datatype_comes_through_both_encodings(datatype):
    values = [True, False, True] if datatype == "BOOL" else [0, 1, 2]
    array = np.array(values, DTYPES[datatype])
    tensor = Tensor(name="x", datatype=datatype, shape=(3,))
    shown = {"name": "x", "shape": [3], "datatype": datatype}
    by_json = parse({"inputs": [{**shown, "data": values}]}, inputs=(tensor,))
    sized = {**shown, "parameters": {"binary_data_size": array.nbytes}}
    by_bytes = parse({"inputs": [sized]}, array.tobytes(), inputs=(tensor,))
    assert bytes(by_json.payload[0]) == bytes(by_bytes.payload[0]) == array.tobytes()
    asked = parse({"inputs": [{**shown, "data": values}]}, inputs=(tensor,), outputs=(tensor,))
    head = TensorHead("x", datatype, (3,), array.nbytes)
    (answer,), length = oip.respond("m", "1", asked, [head], memoryview(array.tobytes()))
    assert length is None and json.loads(answer)["outputs"][0]["data"] == values


def test_outputs_are_chosen_ordered_and_encoded_as_asked():
    asked = {**request(), "outputs": [{"name": "z", "parameters": {"binary_data": True}}, {"name": "y"}]}
    assert [(wanted.name, wanted.binary) for wanted in parse(asked).outputs] == [("z", True), ("y", False)]
    every = parse({**request(), "parameters": {"binary_data_output": True}})
    assert [(wanted.name, wanted.binary) for wanted in every.outputs] == [("y", True), ("z", True)]
    but = {**request(), "parameters": {"binary_data_output": True}}
    but["outputs"] = [{"name": "y", "parameters": {"binary_data": False}}]
    assert [wanted.binary for wanted in parse(but).outputs] == [False]


def test_an_answer_with_bytes_says_how_long_its_json_is():
    asked = {**request(), "id": "7", "outputs": [{"name": "z", "parameters": {"binary_data": True}}, {"name": "y"}]}
    z, y = np.array([5, 6], "<i8").tobytes(), np.array([1, 2, 3, 4], "<f4").tobytes()
    heads = [TensorHead("z", "INT64", (2,), 16), TensorHead("y", "FP32", (1, 4), 16)]
    parts, length = oip.respond("m", "1.0.0", parse(asked), heads, memoryview(z + y))
    body = b"".join(bytes(part) for part in parts)
    said = json.loads(body[:length])
    assert body[length:] == z
    assert said == {
        "model_name": "m",
        "model_version": "1.0.0",
        "id": "7",
        "outputs": [
            {"name": "z", "datatype": "INT64", "shape": [2], "parameters": {"binary_data_size": 16}},
            {"name": "y", "datatype": "FP32", "shape": [1, 4], "data": [1.0, 2.0, 3.0, 4.0]},
        ],
    }


REFUSED = {
    "empty body": (b"", "empty"),
    "not JSON": (b"{", "JSON object"),
    "not UTF-8": (b'{"inputs": [{"name": "\xff"}]}', "JSON object"),
    "a list": (b"[]", "JSON object"),
    "no inputs": ({}, "inputs"),
    "inputs not a list": ({"inputs": {}}, "inputs"),
    "no input": ({"inputs": []}, "expected: x"),
    "another name": (request(name="q"), "expected: x"),
    "the same input twice": ({"inputs": request()["inputs"] * 2}, "expected: x"),
    "very many inputs": ({"inputs": request()["inputs"] * 100}, "at most"),
    "another datatype": (request(datatype="FP64"), "expected: FP32"),
    "BYTES": (request(datatype="BYTES", data=["a"]), "not taken"),
    "a datatype that is none": (request(datatype="FP99"), "expected: FP32"),
    "fewer dimensions": (request(shape=[6]), "[-1, 2, 3]"),
    "another size": (request(shape=[1, 3, 2]), "[-1, 2, 3]"),
    "a batch of none": (request(shape=[0, 2, 3], data=[]), "[-1, 2, 3]"),
    "a negative size": (request(shape=[-1, 2, 3]), "[-1, 2, 3]"),
    "a giant size": (request(shape=[2**40, 2, 3]), "too large"),
    "a size that is no number": (request(shape=["1", 2, 3]), "inputs"),
    "no shape": (request(shape=None), "shape"),
    "no data": (request(data=None), "neither"),
    "too few values": (request(data=VALUES[:-1]), "expected: 6"),
    "too many values": (request(data=[*VALUES, 1.0]), "expected: 6"),
    "text": (request(data=["a"] * 6), "FP32"),
    "null": (request(data=[None] * 6), "FP32"),
    "truth values for numbers": (request(data=[True] * 6), "FP32"),
    "a value too large": (request(data=[1e300] * 6), "cannot hold"),
    "nested in another shape": (request(data=[[[0, 1], [2, 3], [4, 5]]]), "nested"),
    "ragged": (request(data=[[[0, 1, 2], [3, 4]]]), "nested"),
    "data not a list": (request(data={"a": 1}), "FP32"),
    "very deep": (request(data=json.loads("[" * 500 + "]" * 500)), "FP32"),
    "shared memory": (request(data=None, parameters={"shared_memory_region": "r"}), "shared memory"),
    "an unknown output": ({**request(), "outputs": [{"name": "q"}]}, "y, z"),
    "the same output twice": ({**request(), "outputs": [{"name": "y"}, {"name": "y"}]}, "y, z"),
    "classification": (
        {**request(), "outputs": [{"name": "y", "parameters": {"classification": 2}}]},
        "classification",
    ),
    "id not text": ({**request(), "id": 5}, "id"),
    "timeout not a number": ({**request(), "parameters": {"timeout": "soon"}}, "timeout"),
    "timeout of nothing": ({**request(), "parameters": {"timeout": 0}}, "timeout"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_request_that_does_not_fit_is_refused_with_what_was_expected(name):
    value, says = REFUSED[name]
    with pytest.raises(BadRequest) as refusal:
        parse(value)
    assert says in str(refusal.value)


@pytest.mark.parametrize(
    ("size", "binary", "header", "says"),
    [
        (20, bytes(24), None, "24 bytes"),
        (24, bytes(20), None, "cut short"),
        (24, bytes(25), None, "left over"),
        (True, bytes(24), None, "24 bytes"),
        ("24", bytes(24), None, "24 bytes"),
        (-1, bytes(24), None, "24 bytes"),
        (2**70, bytes(24), None, "24 bytes"),
        (24, bytes(24), "9999", "longer than the body"),
        (24, bytes(24), "-1", "not a number"),
        (24, bytes(24), "1e3", "not a number"),
        (24, bytes(24), "9" * 5000, "not a number"),
        (24, bytes(24), "²", "not a number"),
        (24, bytes(24), "3", "JSON object"),
    ],
)
def test_binary_sizes_that_do_not_fit_are_refused(size, binary, header, says):
    with pytest.raises(BadRequest, match=says.replace("(", r"\(")):
        parse(request(data=None, parameters={"binary_data_size": size}), binary, header)


def test_both_data_and_bytes_for_one_input_are_refused():
    with pytest.raises(BadRequest, match="both"):
        parse(request(parameters={"binary_data_size": 24}), bytes(24))


def test_a_binary_truth_value_must_be_0_or_1():
    tensor = Tensor(name="x", datatype="BOOL", shape=(3,))
    value = {"inputs": [{"name": "x", "shape": [3], "datatype": "BOOL", "parameters": {"binary_data_size": 3}}]}
    assert parse(value, b"\0\1\1", inputs=(tensor,)).inputs
    with pytest.raises(BadRequest, match="neither 0 nor 1"):
        parse(value, b"\0\2\1", inputs=(tensor,))


@pytest.mark.parametrize(
    ("datatype", "value"),
    [
        ("UINT8", 256),
        ("UINT8", -1),
        ("INT8", 128),
        ("INT64", 2**63),
        ("UINT64", -1),
        ("UINT64", 2**64),
        ("INT32", 1.5),
        ("FP16", 70000),
    ],
)
def test_a_number_that_a_datatype_cannot_hold_is_refused_not_wrapped(datatype, value):
    tensor = Tensor(name="x", datatype=datatype, shape=(1,))
    with pytest.raises(BadRequest):
        parse({"inputs": [{"name": "x", "shape": [1], "datatype": datatype, "data": [value]}]}, inputs=(tensor,))


def test_the_timeout_parameter_is_in_microseconds():
    assert parse({**request(), "parameters": {"timeout": 250_000}}).timeout_s == 0.25


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.none() | st.text(max_size=6) | st.integers(0, 200).map(str))
def test_any_bytes_are_parsed_or_refused(body, header):
    with contextlib.suppress(BadRequest):
        oip.parse(body, header, (X,), (Y,))


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_any_change_to_a_request_is_parsed_or_refused(data):
    value = {**request(), "id": "1", "parameters": {}, "outputs": [{"name": "y", "parameters": {}}]}
    tensor = value["inputs"][0]
    target = data.draw(st.sampled_from([value, tensor, tensor.setdefault("parameters", {}), value["outputs"][0]]))
    keys = ["inputs", "id", "parameters", "outputs", "name", "shape", "datatype", "data", "binary_data_size", "timeout"]
    target[data.draw(st.sampled_from(keys))] = data.draw(json_values)
    try:
        parsed = parse(value, data.draw(st.binary(max_size=30)))
    except BadRequest:
        return
    for head, part in zip(parsed.inputs, parsed.payload, strict=True):
        assert len(part) == head.size_bytes == int(np.prod(head.shape)) * DTYPES[head.datatype].itemsize
