"""Choosing the epoch by ground truth, on request and told; and the choice of optimizer."""

import pytest
import torch

from drstool.training.loop import RunConfig, fit
from drstool.training.reports import EpochReport
from drstool.training.schedule import Plan

SMALL = ("--backbone", "vgg16-small", "--init", "none", "--image-size", "32")


class _Steps:
    """Samples that tell the model nothing."""

    def __len__(self):
        return 2

    def __getitem__(self, key):
        return self.id_of(key[1]), torch.ones(1)

    def id_of(self, index):
        return str(index)


def _fitted(scores):
    """Weight after each epoch and at the end, and the report, of a model whose weight grows by 1 an epoch."""
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    seen, told = [], iter(scores)

    def select(snapshot):
        seen.append(model.weight.item())
        return next(told)

    report = fit(
        model, lambda m, batch: -m.weight.sum() * batch[0].mean(), _Steps(),
        torch.optim.SGD(model.parameters(), lr=1.0), lambda step, epoch: 1.0, Plan(2, len(scores), 2, 0),
        RunConfig(select=select))
    return seen, model.weight.item(), report


@pytest.mark.parametrize(("scores", "best"), [([0.1, 0.7, 0.3], 2), ([0.5, 0.5, 0.4], 1), ([0.1, 0.2, 0.3], 3)])
def test_the_first_of_the_best_epochs_is_kept(scores, best):
    seen, end, report = _fitted(scores)
    assert seen == [1.0, 2.0, 3.0]
    assert end == seen[best - 1]
    assert isinstance(report, EpochReport) and (report.epoch, report.score) == (best, scores[best - 1])


def test_without_a_score_the_last_epoch_is_the_result():
    model = torch.nn.Linear(1, 1, bias=False)
    report = fit(
        model, lambda m, batch: (m.weight * 0).sum() + batch[0].mean(), _Steps(),
        torch.optim.SGD(model.parameters(), lr=1.0), lambda step, epoch: 1.0, Plan(2, 3, 2, 0),
        RunConfig())
    assert (report.epoch, report.score) == (3, None)


@pytest.mark.parametrize("command", ["train-cls", "refine-train", "train-seg"])
def test_select_on_is_recorded(must, command, voc, made, tmp_path):
    more = {
        "train-cls": [], "refine-train": ["--maps", made.cams],
        "train-seg": ["--labels", made.labels, "--batch-size", 2]}[command]
    small = [*SMALL, "--epochs", 2]
    output = tmp_path / "net.pt"
    outcome = must(command, "--data", voc, "--split", "train", *more, *small, "--select-on", "val", "-o", output)
    assert outcome.err.count("mIoU") == 2
    told = must("info", output, "--json").json()
    assert told["recipe"]["selected_epoch"] in (1, 2)
    assert f"mIoU {told['recipe']['selected_score']:.4f}" in outcome.err
    assert told["provenance"][-1]["used"]["pixel_ground_truth"] == "epoch chosen on split val"


def test_what_the_first_weights_learned_from_is_remembered(must, voc, tmp_path):
    train = ("train-cls", "--data", voc, "--split", "train", "--backbone", "vgg16-small", "--image-size", 32)
    must(*train, "--init", "none", "--epochs", 1, "--select-on", "val", "-o", tmp_path / "chosen.pt")
    must(*train, "--init", tmp_path / "chosen.pt", "--epochs", 0, "-o", tmp_path / "net.pt")
    val = ("--data", voc, "--split", "val")
    must("cam", *val, "--weights", tmp_path / "net.pt", "--sizes", 32, "-o", tmp_path / "cams.h5")
    told = must("eval", tmp_path / "cams.h5", *val, "--json").json()["protocol"]["method"]
    assert told["pixel_ground_truth"] == [{"step": "train-cls", "used": "epoch chosen on split val"}]
    # A state dict has no history, and a checkpoint without one gives none.
    torch.save(torch.load(tmp_path / "net.pt", weights_only=True)["weights"], tmp_path / "weights.pt")
    for init, steps in ((tmp_path / "net.pt", 3), (tmp_path / "weights.pt", 1)):
        must(*train, "--init", init, "--epochs", 0, "--overwrite", "-o", tmp_path / "again.pt")
        assert len(must("info", tmp_path / "again.pt", "--json").json()["provenance"]) == steps


def test_training_without_it_reads_no_ground_truth(must, own_voc, tmp_path):
    for mask in (own_voc / "SegmentationClass").iterdir():
        mask.write_bytes(b"not to be read")
    output = tmp_path / "net.pt"
    must("train-cls", "--data", own_voc, "--split", "train", *SMALL, "--epochs", 1, "-o", output)
    told = must("info", output, "--json").json()
    assert told["provenance"][-1]["used"]["pixel_ground_truth"] is False
    assert "selected_epoch" not in told["recipe"]


def test_a_segmenter_starts_from_a_segmenter(must, voc, made, tmp_path):
    first, second = tmp_path / "first.pt", tmp_path / "second.pt"
    common = ["--data", voc, "--split", "train", "--labels", made.labels, "--backbone", "mobilenet_v2", "--epochs", 0]
    must("train-seg", *common, "--init", "none", "--seed", 1, "-o", first)
    must("train-seg", *common, "--init", first, "--seed", 2, "-o", second)
    weights = [torch.load(path, weights_only=True)["weights"] for path in (first, second)]
    same = {name for name in weights[0] if torch.equal(weights[0][name], weights[1][name])}
    # All but the last layer, which is new: another data set may have other classes.
    assert set(weights[0]) - same == {"decoder.1.weight", "decoder.1.bias"}
