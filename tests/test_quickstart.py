"""Command lines of the quick start: they parse, and each reads only what an earlier one wrote."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.main import get_command

from drstool.cli.app import app
from drstool.cli.commands import register

ROOT = Path(__file__).parent.parent
register()
GROUP = get_command(app)

# Replaces drstool: logs its arguments, one JSON line per call, and does nothing else.
RECORDER = """#!/bin/sh
exec {python} -c 'import json, sys; print(json.dumps(sys.argv[1:]), file=open("{log}", "a"))' "$@"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    """The finished script and the command lines it ran, in an environment where commands do nothing."""
    folder = tmp_path_factory.mktemp("quickstart")
    programs = folder / "environment" / "bin"
    programs.mkdir(parents=True)
    for name, text in (
        ("drstool", RECORDER.format(python=sys.executable, log=folder / "log")), ("python", "#!/bin/sh\n")
    ):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    done = subprocess.run(
        ["sh", str(ROOT / "examples" / "quickstart.sh"), "work"], cwd=folder, capture_output=True, text=True,
        env={**os.environ, "DRSTOOL_ENV": str(programs.parent)})
    return done, [json.loads(line) for line in (folder / "log").read_text().splitlines()], folder


def settings(line):
    """The options of a command line by name, without those left to the recipe."""
    given = GROUP.commands[line[0]].make_context(line[0], line[1:]).params
    return {name.removeprefix("number_"): ",".join(value) if isinstance(value, (list, tuple)) else str(value)
            for name, value in given.items() if value not in (None, [], ())}


def test_it_runs_to_the_end_and_names_its_picture(script):
    done, lines, folder = script
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"Contact sheet of all steps: {folder}/work/sheet.png"
    assert {"demo", "train-cls", "cam", "refine-train", "refine", "pseudo-label", "train-seg", "segment", "eval",
            "overlay"} == {line[0] for line in lines}


def test_each_command_reads_what_an_earlier_one_made(script):
    made = {"none"}
    for line in script[1]:
        given = settings(line)
        # Maps and labels to score are positional arguments.
        read = {given[name] for name in ("data", "weights", "maps", "labels", "init", "saliency", "prediction")
                if name in given} - {"imagenet"}
        if "spec" in given:
            sheet = tomllib.loads(Path(given["spec"]).read_text())
            read |= {sheet["data"], *(path for column in sheet["columns"] for path in column.get("paths", ()))}
            assert len(read) > 4
            made.add(sheet["figure"])
        assert {name.split("/")[0] for name in read} <= made, line
        made.add(given.get("output") or given.get("folder"))


def test_suppression_starts_from_the_plain_classifier(script):
    plain, drs = (settings(line) for line in script[1] if line[0] == "train-cls")
    assert (plain["suppression"], drs["suppression"]) == ("none", "fixed")
    assert (plain["init"], drs["init"]) == ("none", plain["output"])
    assert (plain["backbone"], plain["image_size"]) == (drs["backbone"], drs["image_size"])


def test_refined_maps_cannot_beat_a_certain_background(script):
    (refined,) = (settings(line) for line in script[1] if line[0] == "refine")
    assert refined["dtype"] == "uint8"


def test_an_existing_folder_is_left_alone(script):
    folder = script[2]
    done = subprocess.run(
        ["sh", str(ROOT / "examples" / "quickstart.sh"), "work"], cwd=folder, capture_output=True, text=True,
        env={**os.environ, "DRSTOOL_ENV": str(folder / "environment")})
    assert done.returncode == 1
    assert "work exists" in done.stderr
