from __future__ import annotations

import hashlib
import json
import re

import numpy as np
import pytest

from fashion_mnist.calibration import probabilities
from fashion_mnist.evaluation import answers
from fashion_mnist.pictures import GOLDEN, SAMPLES, labelled_tensors
from fashion_mnist.preprocessing import LABELS
from fashion_mnist.variants import FOLDER, REFERENCE, VARIANTS, Variant, session

RECIPE = json.loads((FOLDER / "recipe.json").read_text("utf-8"))
FACTS = {entry["name"]: entry for entry in RECIPE["variants"]}
SIZE_LIMIT_BYTES = 7_500_000
BINARY = {".onnx", ".tflite", ".png", ".jpg"}

every_variant = pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.name)


@every_variant
def test_the_recipe_describes_the_committed_file(variant: Variant) -> None:
    facts, loaded = FACTS[variant.name], session(variant)
    content = (FOLDER / facts["artifact"]).read_bytes()
    assert len(content) == facts["size_bytes"]
    assert hashlib.sha256(content).hexdigest() == facts["sha256"]
    for end, tensor in (("input", loaded.input()), ("output", loaded.output())):
        assert facts[end]["name"] == tensor.name == {"input": "image", "output": "logits"}[end]
        assert facts[end]["shape"] == list(tensor.shape)
        assert facts[end]["dtype"] == tensor.dtype == "float32"
        assert facts[end]["layout"] == tensor.layout


@every_variant
def test_golden_cases_agree_within_the_tolerance(variant: Variant) -> None:
    images, labels = labelled_tensors(GOLDEN)
    expected = probabilities(answers(session(REFERENCE), images).logits)
    found = probabilities(answers(session(variant), images).logits)
    assert (found.argmax(1) == labels).all()
    assert np.abs(found - expected).max() <= FACTS[variant.name]["probability_tolerance"]


@every_variant
def test_the_tolerance_notices_pictures_prepared_wrongly(variant: Variant) -> None:
    images, _ = labelled_tensors(GOLDEN)
    expected = probabilities(answers(session(REFERENCE), images).logits)
    found = probabilities(answers(session(variant), images.transpose(0, 1, 3, 2).copy()).logits)
    assert np.abs(found - expected).max() > FACTS[variant.name]["probability_tolerance"]


@every_variant
def test_samples_are_recognised(variant: Variant) -> None:
    images, labels = labelled_tensors(SAMPLES)
    assert (answers(session(variant), images).logits.argmax(1) == labels).all()


@pytest.mark.parametrize(("folder", "count"), [(GOLDEN, 30), (SAMPLES, 11)])
def test_every_picture_is_listed_and_every_class_is_there(folder: object, count: int) -> None:
    assert folder in (GOLDEN, SAMPLES)
    path = GOLDEN if folder == GOLDEN else SAMPLES
    entries = json.loads((path / "labels.json").read_text("utf-8"))
    assert {entry["file"] for entry in entries} | {"labels.json"} == {file.name for file in path.iterdir()}
    assert len(entries) == count
    assert {entry["label"] for entry in entries} == set(LABELS)


def test_golden_cases_and_samples_are_different_pictures() -> None:
    golden, samples = (
        {e["test_index"] for e in json.loads((folder / "labels.json").read_text("utf-8"))}
        for folder in (GOLDEN, SAMPLES)
    )
    assert not golden & samples


def test_no_artifact_tells_where_it_was_made() -> None:
    for variant in VARIANTS:
        assert not re.search(rb"/(home|root|work|tmp|usr)/", variant.path.read_bytes())


def test_binary_files_stay_small() -> None:
    files = [file for file in FOLDER.rglob("*") if file.suffix in BINARY]
    assert sum(file.stat().st_size for file in files) <= SIZE_LIMIT_BYTES
