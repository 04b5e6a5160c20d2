"""Recipes and what is built of them; every bad recipe is refused by name and leaves nothing behind."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path

import jsonschema
import msgspec
import pytest

from surefoot.durable import Disk
from surefoot.errors import BadRequest
from surefoot.release import build, golden, manifest, packed, recipe
from tests.app.release.publishing import LABELS, START, fake_reference, files_of, write_recipe


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_recipe(tmp_path / "source")


def built(file: Path, reference=fake_reference, out: str = "out") -> build.Built:
    return build.build(recipe.load(file), file.parent, file.parent.parent / out, reference, created=START, disk=Disk())


def refused(file: Path, match: str, reference=fake_reference) -> BadRequest:
    before = files_of(file.parent.parent)
    with pytest.raises(BadRequest, match=match) as caught:
        built(file, reference)
    assert files_of(file.parent.parent) == before
    return caught.value


def change(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def labels(file: Path, value: object) -> None:
    (file.parent / "golden" / "labels.json").write_text(json.dumps(value))


def test_a_release_holds_its_manifest_and_what_that_names(file):
    made = built(file)
    assert set(files_of(made.directory)) == {"manifest.json", "model.onnx", "golden.msgpack", "card.md"}
    data = (made.directory / "manifest.json").read_bytes()
    assert manifest.decode(data) == made.manifest
    assert manifest.digest(data) == made.digest
    jsonschema.validate(json.loads(data), manifest.schema())
    assert packed.read(made.directory).manifest == made.manifest
    assert made.manifest.created == "2026-06-01T00:00:00Z"


def test_golden_cases_are_the_images_with_label_and_expected_output(file):
    made = built(file)
    cases = golden.decode((made.directory / "golden.msgpack").read_bytes())
    assert [(case.id, case.label) for case in cases] == [("high.png", 2), ("low.png", 0), ("middle.png", 1)]
    for case in cases:
        assert case.image == (file.parent / "golden" / case.id).read_bytes()
        assert case.expected == fake_reference(case.image)


def test_built_twice_it_is_the_same(tmp_path, file):
    other = write_recipe(tmp_path / "elsewhere" / "source")
    assert built(file).digest == built(other).digest
    assert files_of(tmp_path / "out") == files_of(tmp_path / "elsewhere" / "out")


def test_a_recipe_may_be_json(tmp_path, file):
    plain = msgspec.toml.decode(file.read_bytes())
    other = file.with_name("recipe.json")
    other.write_text(json.dumps(plain))
    assert recipe.load(other) == recipe.load(file)


def test_creation_time_is_the_environments_or_now():
    now = datetime(2026, 1, 1, tzinfo=timezone.utc)
    assert build.creation_time({}, now) == now
    assert build.creation_time({"SOURCE_DATE_EPOCH": ""}, now) == now
    assert build.creation_time({"SOURCE_DATE_EPOCH": "0"}, now) == datetime(1970, 1, 1, tzinfo=timezone.utc)
    for wrong in ("x", "1.5", "9" * 30):
        with pytest.raises(BadRequest, match="SOURCE_DATE_EPOCH"):
            build.creation_time({"SOURCE_DATE_EPOCH": wrong}, now)


@pytest.mark.parametrize("content", ["", "x = ", "\xff", "[[", "name = 1", 'name = "tiny"'])
def test_what_is_no_recipe_is_refused(tmp_path, content):
    path = tmp_path / "recipe.toml"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(BadRequest, match="is not valid"):
        recipe.load(path)


def test_a_missing_recipe_and_a_huge_one_are_refused(tmp_path):
    with pytest.raises(BadRequest, match="cannot read the recipe"):
        recipe.load(tmp_path / "none.toml")
    (tmp_path / "huge.toml").write_text("#" * (recipe.MOST_RECIPE_BYTES + 1))
    with pytest.raises(BadRequest, match="too long"):
        recipe.load(tmp_path / "huge.toml")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('version = "1.0.0"', 'version = "1.0.0"\nverzion = 1'),
        ('id = "onnx"', 'id = "onnx"\nquantised = true'),
        ("tolerance = {", "tolerance = { probabillity = 0.1, "),
    ],
)
def test_unknown_keys_are_refused_by_name(file, old, new):
    change(file, old, new)
    assert "unknown field" in refused(file, "is not valid").found


@pytest.mark.parametrize("version", ["1.0", "v1.0.0", "1.0.0-rc1", "01.0.0", "1.0.0\\n", "1..0", "latest"])
def test_a_version_that_is_not_x_y_z_is_refused(file, version):
    change(file, 'version = "1.0.0"', f'version = "{version}"')
    assert "version" in refused(file, "is not valid").found


@pytest.mark.parametrize("name", ["Tiny", "tiny_model", "-tiny", "", "a/b", ".."])
def test_a_name_that_cannot_be_is_refused(file, name):
    change(file, 'name = "tiny"', f'name = "{name}"')
    refused(file, "is not valid")


@pytest.mark.parametrize("missing", ["model.onnx", "card.md"])
def test_a_missing_file_is_refused_by_name(file, missing):
    (file.parent / missing).unlink()
    refused(file, f"cannot read {missing}")


def test_an_empty_artifact_is_refused(file):
    (file.parent / "model.onnx").write_bytes(b"")
    refused(file, r"model\.onnx is empty")


def test_no_golden_cases_are_refused(file):
    labels(file, {})
    refused(file, "no golden cases")
    (file.parent / "golden" / "labels.json").unlink()
    refused(file, "cannot read the golden labels")


def test_a_class_without_a_golden_case_is_refused_by_name(file):
    labels(file, {"low.png": 0, "high.png": 2})
    assert refused(file, "classes without a golden case").found == "middle"


@pytest.mark.parametrize("label", [3, -1, 1000])
def test_a_label_out_of_range_is_refused_by_name(file, label):
    labels(file, {"low.png": 0, "middle.png": 1, "high.png": label})
    assert refused(file, "out of range").found == f"high.png: {label}"


@pytest.mark.parametrize("value", [{"low.png": "0"}, {"low.png": 0.5}, None, {"low.png": True}])
def test_labels_that_are_none_are_refused(file, value):
    labels(file, value)
    refused(file, "golden labels .* are not valid")


def test_a_golden_label_that_the_reference_does_not_give_is_refused_by_name(file):
    labels(file, {"low.png": 0, "middle.png": 2, "high.png": 1})
    error = refused(file, "reference model itself is wrong")
    assert error.found == "high.png is middle, taken for high; middle.png is high, taken for middle"


def test_a_missing_golden_image_is_refused_by_name(file):
    (file.parent / "golden" / "low.png").unlink()
    refused(file, r"cannot read the golden image .*low\.png")


@pytest.mark.parametrize("name", ["../card.md", "/etc/passwd", ".hidden"])
def test_a_golden_image_outside_the_folder_is_refused(file, name):
    labels(file, {"low.png": 0, "middle.png": 1, "high.png": 2, name: 0})
    refused(file, "must lie in the golden folder")


def test_images_that_differ_in_their_suffix_alone_are_two_cases(file):
    (file.parent / "golden" / "low.jpg").write_bytes((file.parent / "golden" / "low.png").read_bytes())
    labels(file, {"low.png": 0, "low.jpg": 0, "middle.png": 1, "high.png": 2})
    assert built(file).manifest.golden.cases == 4


def test_labels_may_be_a_list_with_more_about_each_image(file):
    entries = [
        {"file": f"{label}.png", "label_index": index, "label": label, "test_index": 7}
        for index, label in enumerate(LABELS)
    ]
    first = built(file).digest
    labels(file, entries)
    assert built(file, out="again").digest == first
    labels(file, [*entries, entries[0]])
    with pytest.raises(BadRequest, match="name a file twice"):
        built(file, out="third")


@pytest.mark.parametrize(
    "outputs",
    [
        {"probabilities": [0.9, 0.05, 0.05]},
        {"logits": [0.9, 0.1]},
        {"logits": [0.9, 0.05, 0.05], "more": [1.0]},
        {},
    ],
)
def test_outputs_that_differ_between_variant_and_reference_are_refused(file, outputs):
    refused(file, "other outputs than the reference", lambda image: outputs)


def test_a_reference_that_gives_no_numbers_is_refused(file):
    refused(file, "no numbers", lambda image: {"logits": [float("nan"), 0.0, 0.0]})


def test_a_variant_without_a_tolerance_is_refused(file):
    change(file, "tolerance = { probability = 0.01 }", "tolerance = { }")
    refused(file, "makes no release: variant onnx has no tolerance")


def test_two_variants_may_share_an_artifact_but_not_a_name_for_two(tmp_path, file):
    text = file.read_text()
    second = text[text.index("[[variants]]") :].replace('id = "onnx"', 'id = "second"')
    file.write_text(text + second)
    made = built(file)
    assert len({variant.artifact for variant in made.manifest.variants}) == 1
    (file.parent / "other").mkdir()
    (file.parent / "other" / "model.onnx").write_bytes(b"another model")
    file.write_text(text + second.replace('artifact = "model.onnx"', 'artifact = "other/model.onnx"'))
    with pytest.raises(BadRequest, match="two files of the recipe have one name"):
        built(file, out="again")


@pytest.mark.parametrize("name", ["manifest.json", "golden.msgpack"])
def test_the_releases_own_names_are_taken(file, name):
    (file.parent / name).write_bytes(b"x")
    change(file, 'file = "card.md"', f'file = "{name}"')
    refused(file, "name of the release's own|two files of the recipe")


def test_a_file_name_that_no_device_takes_is_refused(file):
    (file.parent / "my card.md").write_bytes(b"x")
    change(file, 'file = "card.md"', 'file = "my card.md"')
    refused(file, "makes no release")


def test_a_folder_in_use_is_not_built_into(file):
    built(file)
    refused(file, "is not empty")


def test_what_an_interrupted_build_left_is_no_obstacle(file):
    left = file.parent.parent / ".tmp-out"
    left.mkdir()
    (left / "half").write_bytes(b"x")
    assert built(file).directory.is_dir()
    assert not left.exists()


def test_a_huge_golden_image_is_refused(file):
    with (file.parent / "golden" / "low.png").open("wb") as stream:
        stream.truncate(build.MOST_IMAGE_BYTES + 1)
    with pytest.raises(BadRequest, match="too long"):
        built(file)


def test_every_label_is_covered_by_the_cases_of_a_release_read_back(file):
    made = built(file)
    data = (made.directory / "golden.msgpack").read_bytes()
    assert {case.label for case in packed.check_golden(made.manifest, data)} == set(range(len(LABELS)))
