"""Send many images through a chain of pipes, and watch memory and open files: ``python tests/harness_long.py``.

A tiny network processes the same few small images under thousands of ids: ``cam | pseudo-label | eval``.
Memory and open files of each stage are read from ``/proc`` as the images pass. After the first thousand
images they must not grow, except by what each id takes (see ``BYTES_AN_ID``).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from PIL import Image

STAGES = ("cam", "pseudo-label", "eval")
# Memory per image of any size: its row in the dataset, and its id in the set of those seen.
BYTES_AN_ID = 1000
PICTURES = 100
# Files that may be open when a sample is taken, one per thread.
MOST_OPEN = 16


def make_data(folder, images):
    """A manifest of many ids that share a hundred images with masks."""
    random = np.random.default_rng(0)
    rows = []
    for number in range(min(images, PICTURES)):
        pixels = random.integers(0, 255, (40, 48, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.jpg")
        Image.fromarray((pixels[..., 0] % 3).astype(np.uint8)).save(folder / f"{number}.png")
    for number in range(images):
        name = number % PICTURES
        rows.append({"id": f"folder/{number:06d}", "image": f"{name}.jpg", "mask": f"{name}.png", "tags": ["a", "b"]})
    lines = [json.dumps(row) for row in [{"class_names": ["a", "b"]}, *rows]]
    (folder / "data.jsonl").write_text("\n".join(lines))
    return folder / "data.jsonl"


def program(*arguments, **pipes):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1]), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-m", "drstool", *map(str, arguments)], env=environment, **pipes)


def read_proc(process):
    """Resident memory in MB and open files of a process; None once it has ended."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
        files = len(os.listdir(f"/proc/{process.pid}/fd"))
        (kilobytes,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))
    except (OSError, ValueError):
        return None
    return int(kilobytes) / 1024, files


def run(images, every, say=lambda line: None):
    """Run the chain; return samples as ``{stage: [(images, MB, files)]}``, and the scores."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = make_data(folder, images)
        weights = folder / "cls.pt"
        trained = program(
            "train-cls", "--data", data, "--backbone", "vgg16-small", "--init", "none", "--epochs", "0",
            "--image-size", "32", "-o", weights, "-q")
        if trained.wait():
            raise SystemExit("train-cls failed")
        stages = [program("cam", "--data", data, "--weights", weights, "--sizes", "32", "--batch-size", "8", "-q",
                          stdout=subprocess.PIPE)]
        # This process passes the data on between the first two stages, and counts the records.
        labels = program("pseudo-label", "--background", "power", "-q", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        scores = program("eval", "--data", data, "--json", "-q", stdin=labels.stdout, stdout=subprocess.PIPE)
        stages += [labels, scores]
        labels.stdout.close()
        samples = {stage: [] for stage in STAGES}
        for passed in pumped(stages[0].stdout, labels.stdin):
            if passed % every == 0:
                found = [read_proc(process) for process in stages]
                for stage, sample in zip(STAGES, found, strict=True):
                    if sample is not None:
                        samples[stage].append((passed, *sample))
                say(f"{passed:>7}  " + "  ".join(
                    f"{sample[0]:7.1f} MB {sample[1]:3d} files" if sample else f"{'ended':>20}" for sample in found))
        told = json.load(scores.stdout)
        codes = [process.wait() for process in stages]
        if any(codes):
            raise SystemExit(f"exit codes {codes}")
        return samples, told


def pumped(source, target):
    """Copy a tar stream, and yield the number of records so far after each of them."""
    passed = 0
    while head := read(source, 512):
        size = int(head[124:135] or b"0", 8) if head.strip(b"\0") else 0
        target.write(head + read(source, -(-size // 512) * 512))
        target.flush()
        if head[:100].rstrip(b"\0").endswith(b".h5") and head[156:157] == b"0":
            passed += 1
            yield passed
    target.close()


def read(source, size):
    parts = []
    while size > 0 and (part := source.read(size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def growth(samples, start):
    """Growth in MB and in open files from the first sample after ``start`` images to the highest later one."""
    later = [sample for sample in samples if sample[0] >= start]
    return max(sample[1] for sample in later) - later[0][1], max(sample[2] for sample in later) - later[0][2]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--every", type=int, default=1000, help="number of images between samples")
    chosen = parser.parse_args()
    print(f"{'images':>7}  " + "  ".join(f"{stage:>20}" for stage in STAGES), flush=True)
    began = time.monotonic()
    samples, told = run(chosen.images, chosen.every, lambda line: print(line, flush=True))
    print(f"{told['images']} images scored in {time.monotonic() - began:.0f} s")
    allowed = 2 + (chosen.images - chosen.every) * BYTES_AN_ID / 2**20
    failed = told["images"] != chosen.images
    for stage in STAGES:
        megabytes, files = growth(samples[stage], chosen.every)
        failed |= megabytes > allowed or files > MOST_OPEN
        print(f"{stage:>13}: {megabytes:.1f} MB (at most {allowed:.1f}) and {files} more open files than at first")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
