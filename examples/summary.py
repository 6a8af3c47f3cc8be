"""Print the scores of each step of a chain, read from the output of 'drstool eval --json'."""

import json
import sys
from pathlib import Path

STEPS = [
    ("cam", "CAM (plain classifier)"),
    ("drs", "DRS localization maps"),
    ("refined", "refined maps"),
]


def read(folder: Path, name: str) -> dict:
    return json.loads((folder / f"{name}.json").read_text())


def object_mean(scores: dict, key: str) -> float:
    """Mean of a score over the object classes."""
    values = [entry[key] for entry in scores["classes"] if entry["name"] != "background" and entry[key] is not None]
    return sum(values) / len(values)


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("Usage: python examples/summary.py FOLDER")
    folder = Path(sys.argv[1])
    print()
    print("                              object    map mIoU,    mIoU,")
    print("step                          coverage  no saliency  with saliency")
    print("-" * 67)
    for name, title in STEPS:
        plain, saliency = read(folder, f"{name}-plain"), read(folder, f"{name}-saliency")
        print(f"{title:<28}  {object_mean(plain, 'acc'):8.3f}  {plain['mean_iou']:11.3f}  {saliency['mean_iou']:13.3f}")
    for name, title in (("labels", "pseudo labels"), ("pred", "segmentation, val split")):
        scores = read(folder, name)
        print(f"{title:<28}  {object_mean(scores, 'acc'):8.3f}  {'':11}  {scores['mean_iou']:13.3f}")
    print()
    print("Object coverage: fraction of an object's pixels labelled as its class, averaged over object classes; for")
    print("maps, with a constant background cue of 0.2. Pseudo labels are scored only where they are not ignored.")


if __name__ == "__main__":
    main()
