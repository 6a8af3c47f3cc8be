"""The examples of the page on the library run as they are printed."""

import inspect
import pkgutil
import re

import numpy as np
from pages import EXAMPLES, blocks
from typer.testing import CliRunner

import drstool.stages
from drstool.cli.app import app
from drstool.cli.commands import register

register()


def test_examples_run(voc, made, tmp_path, monkeypatch, capsys):
    (tmp_path / "VOC2012").symlink_to(voc)
    for name in ("cls", "seg"):
        (tmp_path / f"{name}.pt").symlink_to(getattr(made, name))
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(app, ["export", "--to", "onnx", "seg.pt", "-o", "seg.onnx"]).exit_code == 0
    capsys.readouterr()
    names = {}
    told = []
    for number, block in enumerate(blocks(EXAMPLES / "library.md", "python"), start=1):
        exec(compile(block.text, f"library.md, block {number}", "exec"), names)
        told.append(capsys.readouterr().out)
    assert len(told) == 7
    # What was made is what the commands make.
    options = ["--sizes", "256", "--weights", "cls.pt", "--data", "VOC2012", "--split", "train"]
    assert CliRunner().invoke(app, ["cam", *options, "-o", "cams.h5"]).exit_code == 0
    options = ["--alpha", "0.25", "--saliency-threshold", "40", "--saliency", "VOC2012/saliency_map"]
    assert CliRunner().invoke(app, ["pseudo-label", "cams.h5", *options, "-o", "labels"]).exit_code == 0
    theirs, ours = (
        {path.name: path.read_bytes() for path in (tmp_path / name).glob("*.png")} for name in ("labels", "my-labels"))
    assert theirs == ours and len(ours) == len(names["dataset"].items)
    assert set(re.findall(r"\d+", told[2])) <= {"0", "3", "15", "255"} and len(told[2].split()) > 1
    assert 0 <= float(told[3].split()[0]) <= 1
    assert len(list((tmp_path / "my-pictures").glob("*_overlay.png"))) == len(ours)
    assert told[5].startswith("irn {") and set(names["maps"].ids) == {item.id for item in names["dataset"].items}
    assert names["labels"].shape == names["image"].shape[:2] and isinstance(names["labels"], np.ndarray)


def test_public_functions_of_the_stages_are_documented_and_annotated():
    count = 0
    for module in pkgutil.iter_modules(drstool.stages.__path__, "drstool.stages."):
        stage = __import__(module.name, fromlist=["x"])
        for name in stage.__all__:
            function = getattr(stage, name)
            if inspect.isfunction(function):
                count += 1
                assert inspect.getdoc(function), (module.name, name)
                unknown = [key for key, parameter in inspect.signature(function).parameters.items()
                           if parameter.annotation is parameter.empty]
                assert unknown == [] and "return" in function.__annotations__, (module.name, name)
    assert count > 15
