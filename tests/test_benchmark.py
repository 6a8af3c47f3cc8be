"""The benchmark runs on tiny inputs; its timings are not checked."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

FILE = Path(__file__).parent / "benchmarks" / "bench.py"
TINY = ("--backbone", "vgg16-small", "--image-size", "48", "--images", "2", "--batch-size", "2", "--rounds", "1",
        "--steps", "1", "--many", "4", "--workers", "2", "--device", "cpu", "--precision", "float32")


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("bench", FILE)
    module = sys.modules["bench"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["bench"]


def run(bench, tmp_path, capsys, *more):
    bench.main([*TINY, "--json", str(tmp_path / "told.json"), *more])
    return json.loads((tmp_path / "told.json").read_text()), capsys.readouterr().out


def only(*names):
    return [word for name in names for word in ("--only", name)]


def check(result, *contenders):
    assert set(result["median"]) == set(contenders)
    assert all(len(times) == 1 and times[0] > 0 for times in result["seconds"].values())
    assert set(result["speedup"]) == set(list(result["seconds"])[1:])


def test_structure(bench, tmp_path, capsys, voc):
    names = ("cam", "light", "train-cls", "refine-train", "train-seg", "drs", "memory", "busy", "decoding", "eval",
             "sweep", "crf-irn", "bytes", "writing")
    told, table = run(bench, tmp_path, capsys, "--data", str(voc), *only(*names))
    assert {"processor", "torch", "gpu", "clock", "pictures"} <= set(told["machine"])
    results = {result["name"]: result for result in told["results"]}
    assert tuple(results) == names
    check(results["cam"], "drstool", "one at a time")
    check(results["light"], "step", "step, eager float32", "maps", "maps, eager float32")
    assert results["light"]["speedup_of_step"] > 0 and results["light"]["speedup_of_maps"] > 0
    check(results["train-cls"], "drstool", "eager float32")
    assert results["train-cls"]["share_of_ceiling"] > 0 and results["train-cls"]["gflop_a_step"] > 0
    check(results["busy"], "reading", "not reading")
    assert results["busy"]["busy"] > 0
    check(results["drs"], "learnable", "fixed", "none")
    assert results["drs"]["share_learnable"] < 1
    assert results["memory"]["gpu_bytes"] is None
    check(results["eval"], "drstool", "one thread", "Pillow", "Pillow in threads")
    check(results["sweep"], "one evaluation", "sweep of alpha", "sweep of constant", "sweep of power")
    crf = {name: times for name, times in results["crf-irn"]["seconds"].items() if "pydensecrf" not in name}
    assert set(crf) == {"one thread", "2 threads", "2 workers"}
    assert results["crf-irn"]["classes"] == [2, 2]
    assert results["bytes"]["smaller_by"] > 1
    check(results["writing"], "all threads", "one thread")
    assert all(name in table for name in names)


def test_processes(bench, tmp_path, capsys):
    """Drawn pictures, and what runs in processes of its own, by the processor's time."""
    told, _ = run(bench, tmp_path, capsys, "--clock", "cpu", *only("imports"))
    (result,) = told["results"]
    check(result, "--help", "ids", "info", "python alone")
    assert told["machine"]["pictures"] == "drawn"


# In place of a checkout: a network with the calls of the authors' one.
_AUTHORS = """
from torch import nn

class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 20, 3)

    def forward(self, x, label=None, size=None):
        return self.conv(x).mean((2, 3))

    def get_parameter_groups(self):
        return [self.conv.weight], [self.conv.bias], [], []

def vgg16(pretrained=True, delta=0):
    return Small()
"""


def test_against_a_checkout(bench, tmp_path, capsys, voc):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "vgg.py").write_text(_AUTHORS)
    settings = bench.Settings(
        data=str(voc), against=str(tmp_path), backbone="vgg16-small", image_size=32, images=1, batch_size=1, rounds=1,
        steps=1, device="cpu", precision="float32")
    (result,) = bench.measure(settings, ["train-cls"])["results"]
    check(result, "drstool", "authors")


def test_only_what_it_knows(bench, capsys):
    with pytest.raises(SystemExit):
        bench.main(["--only", "nothing"])
    assert "invalid choice" in capsys.readouterr().err
