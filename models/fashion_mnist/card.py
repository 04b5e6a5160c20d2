"""The tables of the model card, made from `report.json`: `python -m fashion_mnist.card`.

Without arguments the tables in `card.md` are replaced; `--check` changes nothing and exits
with 1 if the card, the report or the artifacts do not belong together.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Iterable

from fashion_mnist.evaluation import VariantReport
from fashion_mnist.preprocessing import LABELS
from fashion_mnist.results import Report, drop, report_from
from fashion_mnist.variants import FOLDER, VARIANTS

CARD, REPORT = FOLDER / "card.md", FOLDER / "report.json"
BEGIN, END = "<!-- tables: made by fashion_mnist.card -->\n", "<!-- end of tables -->\n"
CONFUSIONS_NOTE = "Pictures out of the 1,000 of each class; *fewer* where a variant has six more frequent confusions."


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _table(header: list[str], rows: Iterable[list[str]]) -> list[str]:
    return [_row(header), _row(["---"] + ["---:"] * (len(header) - 1)), *map(_row, rows), ""]


def card_tables(report: Report) -> str:
    """Return the tables in Markdown."""
    variants = report.variants
    names = [f"`{variant.name}`" for variant in variants]
    lines = ["### Accuracy, size and time", ""]
    lines += _table(
        ["", *names],
        [
            ["precision", *(v.precision.upper() for v in variants)],
            ["test accuracy", *(f"{v.accuracy:.2%}" for v in variants)],
            ["points from FP32", *(f"{0 - 100 * drop(v, variants):+.2f}" for v in variants)],
            ["file, bytes", *(f"{v.size_bytes:,}" for v in variants)],
            ["mean ms, one thread", *(f"{v.mean_ms:.2f}" for v in variants)],
            ["p50 ms", *(f"{v.p50_ms:.2f}" for v in variants)],
            ["p99 ms", *(f"{v.p99_ms:.2f}" for v in variants)],
        ],
    )
    lines += ["### Accuracy per class", ""]
    lines += _table(
        ["class", *names],
        [[name, *(f"{v.accuracy_per_class[name]:.1%}" for v in variants)] for name in LABELS],
    )
    lines += ["### What is taken for what", "", CONFUSIONS_NOTE, ""]
    lines += _table(["true class, taken for", *names], _confusion_rows(variants))
    lines += ["### Calibration", ""]
    lines += _table(
        ["", *names],
        [
            ["temperature", *(f"{v.temperature:.3f}" for v in variants)],
            ["ECE at T = 1", *(f"{v.calibration_error_before:.2%}" for v in variants)],
            ["ECE calibrated", *(f"{v.calibration_error_after:.2%}" for v in variants)],
            ["energy threshold", *(f"{v.energy_threshold:.3f}" for v in variants)],
            [
                "test pictures below it",
                *(f"{v.below_energy_threshold:.1%}" for v in variants),
            ],
        ],
    )
    lines += ["### The test pictures, inverted", ""]
    lines += _table(
        ["", *names],
        [
            ["accuracy", *(f"{v.inverted_accuracy:.1%}" for v in variants)],
            [
                "not noticed (below the energy threshold)",
                *(f"{v.inverted_below_energy_threshold:.1%}" for v in variants),
            ],
        ],
    )
    versions = ", ".join(f"{name} {version}" for name, version in report.packages.items())
    lines.append(f"Measured on {report.machine}, Python {report.python}, {versions}.")
    return "\n".join(lines) + "\n"


def _confusion_rows(variants: list[VariantReport]) -> Iterable[list[str]]:
    """One row for each confusion that is among any variant's most frequent."""
    counts = [{(c.label, c.taken_for): c.count for c in v.confusions} for v in variants]
    pairs = sorted({pair for found in counts for pair in found})
    pairs.sort(key=lambda pair: -max(found.get(pair, 0) for found in counts))
    for label, taken_for in pairs:
        cells = (str(found.get((label, taken_for), "fewer")) for found in counts)
        yield [f"{label} as {taken_for}", *cells]


def with_tables(card: str, tables: str) -> str:
    """Return the card's text with the tables between its two marks replaced."""
    before, begin, rest = card.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{CARD.name} lacks the marks {BEGIN.strip()} and {END.strip()}")
    return f"{before}{BEGIN}\n{tables}\n{END}{after}"


def differences() -> list[str]:
    """Return one sentence for each thing in which card, report and artifacts disagree."""
    report = report_from(REPORT)
    found = []
    if with_tables(CARD.read_text("utf-8"), card_tables(report)) != CARD.read_text("utf-8"):
        found.append("card.md differs from report.json: run python -m fashion_mnist.card")
    digests = {entry.name: entry.sha256 for entry in report.variants}
    for variant in VARIANTS:
        digest = hashlib.sha256(variant.path.read_bytes()).hexdigest()
        if digests.get(variant.name) != digest:
            found.append(
                f"{variant.name} is not the file that report.json measured "
                f"({digest}, expected {digests.get(variant.name)}): run report --write"
            )
    return found


def main() -> int:
    """Replace or check the tables; return the exit status."""
    parser = argparse.ArgumentParser(description="Replace or check the model card's tables.")
    parser.add_argument("--check", action="store_true", help="change nothing, report differences")
    if parser.parse_args().check:
        found = differences()
        for sentence in found:
            print(sentence, file=sys.stderr)
        return 1 if found else 0
    CARD.write_text(with_tables(CARD.read_text("utf-8"), card_tables(report_from(REPORT))), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
