from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fashion_mnist import card, results
from fashion_mnist.evaluation import VariantReport
from fashion_mnist.variants import FOLDER

RECORDED = results.report_from(FOLDER / "report.json")


def with_correct(name: str, correct: int) -> list[VariantReport]:
    return [
        replace(v, correct=correct, accuracy=correct / v.images) if v.name == name else v for v in RECORDED.variants
    ]


def test_the_recorded_report_misses_no_bar() -> None:
    assert results.missed_bars(RECORDED.variants) == []


def test_an_fp32_artifact_at_the_bar_passes_and_one_image_less_fails() -> None:
    level = [replace(v, accuracy=0.915) for v in RECORDED.variants]
    assert results.missed_bars(level) == []
    below = [replace(v, accuracy=0.9149) for v in RECORDED.variants]
    assert [sentence.split()[0] for sentence in results.missed_bars(below)] == [
        "v1-onnx",
        "v1-tflite",
    ]


@pytest.mark.parametrize(("name", "baseline"), [("v2-onnx", 0), ("v2-tflite", 1)])
def test_an_int8_artifact_may_lose_half_a_point_and_no_image_more(name: str, baseline: int) -> None:
    allowed = RECORDED.variants[baseline].correct - 50
    assert results.missed_bars(with_correct(name, allowed)) == []
    (sentence,) = results.missed_bars(with_correct(name, allowed - 1))
    assert sentence.startswith(f"{name} is 0.51 points below")


def test_an_accuracy_that_is_not_a_number_misses_its_bar() -> None:
    broken = [replace(v, accuracy=float("nan")) for v in RECORDED.variants]
    assert len(results.missed_bars(broken)) == 4


def test_card_report_and_artifacts_belong_together() -> None:
    assert card.differences() == []


def test_a_figure_changed_by_hand_in_the_card_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = card.CARD.read_text("utf-8")
    figure = f"{RECORDED.variants[0].accuracy:.2%}"
    assert figure in text
    changed = tmp_path / "card.md"
    changed.write_text(text.replace(figure, "99.99%", 1), "utf-8")
    monkeypatch.setattr(card, "CARD", changed)
    assert card.differences() == ["card.md differs from report.json: run python -m fashion_mnist.card"]
