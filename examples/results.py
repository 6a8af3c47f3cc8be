"""Print the table of examples/results.sh from the files in its folder."""

import json
import re
import sys
from pathlib import Path

NAMES = {"none": "plain CAM", "fixed": "DRS, fixed", "learnable": "DRS, learnable", "refined": "refined maps"}


def load(run: Path, name: str) -> dict | None:
    path = run / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def minutes(run: Path, *steps: str) -> float:
    return sum(int(path.read_text()) for step in steps if (path := run / f"{step}.seconds").exists()) / 60


def coverage(scores: dict) -> float:
    """Mean accuracy of the object classes: how much of the objects is labelled as what it is."""
    values = [entry["acc"] for entry in scores["classes"] if entry["name"] != "background" and entry["acc"] is not None]
    return sum(values) / len(values)


def last_map(run: Path, kind: str) -> float | None:
    """mAP over the training tags in the last epoch."""
    path = run / f"{kind}.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    found = [line["map"] for line in lines if line.get("event") == "epoch" and "map" in line]
    return found[-1] if found else None


def rows(run: Path) -> dict[str, dict[str, float | None]]:
    """The columns of each row that was measured in one run."""
    table: dict[str, dict[str, float | None]] = {}
    for name, title in NAMES.items():
        saliency, constant, covered = (load(run, f"{name}-{kind}") for kind in ("saliency", "constant", "coverage"))
        if saliency and constant and covered:
            steps = ("refine-train", "refine") if name == "refined" else (f"train-{name}", f"cam-{name}")
            table[title] = {
                "saliency": saliency["best"]["mean_iou"], "constant": constant["best"]["mean_iou"],
                "coverage": coverage(covered), "map": last_map(run, name), "minutes": minutes(run, *steps)}
    for crf, title in (("none", "pseudo labels"), ("deeplab", "pseudo labels, CRF")):
        if scores := load(run, f"labels-{crf}"):
            table[title] = {
                "saliency": scores["mean_iou"], "coverage": coverage(scores), "minutes": minutes(run, f"labels-{crf}")}
    for name, title, steps in (
            ("pred", "segmenter, on val", ("train-seg", "segment")),
            ("pred-ms", "the same, four scales and flipped", ("segment-ms",))):
        if scores := load(run, name):
            table[title] = {
                "saliency": scores["mean_iou"], "coverage": coverage(scores), "minutes": minutes(run, *steps)}
    return table


def cell(values: list[float | None], digits: int = 3) -> str:
    """Mean and, of several seeds, range."""
    known = [value for value in values if value is not None]
    if not known:
        return ""
    mean, spread = sum(known) / len(known), f" ({min(known):.{digits}f}–{max(known):.{digits}f})"
    return f"{mean:.{digits}f}" + (spread if len(known) > 1 else "")


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("Usage: python examples/results.py FOLDER")
    groups: dict[str, list[dict]] = {}
    for run in sorted(path for path in Path(sys.argv[1]).iterdir() if path.is_dir()):
        if match := re.fullmatch(r"(.+)-\d+", run.name):
            groups.setdefault(match[1], []).append(rows(run))
    print("| recipe, images | | mIoU, saliency | mIoU, best constant | coverage | mAP | minutes |")
    print("|---|---|---|---|---|---|---|")
    for group, runs in groups.items():
        for title in dict.fromkeys(title for run in runs for title in run):
            found = [run[title] for run in runs if title in run]
            cells = [cell([row.get(column) for row in found]) for column in ("saliency", "constant", "coverage", "map")]
            print("|", " | ".join([group, title, *cells, cell([row["minutes"] for row in found], 1)]), "|")


if __name__ == "__main__":
    main()
