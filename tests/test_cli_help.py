"""Help texts: common options, examples that parse, an option for every setting, no import of torch."""

import re
import shlex
import subprocess
import sys
from dataclasses import fields

import pytest
from typer.main import get_command

from drstool import recipe
from drstool.cli.app import app
from drstool.cli.commands import register

register()
GROUP = get_command(app)
COMMANDS = sorted(GROUP.commands)
SETTINGS = {
    "train-cls": recipe.ClassifierRecipe, "refine-train": recipe.RefinerRecipe,
    "train-seg": recipe.SegmenterRecipe, "cam": recipe.CamSettings, "refine": recipe.RefineSettings,
    "pseudo-label": recipe.CueSettings, "eval": recipe.CueSettings, "segment": recipe.SegmentSettings,
    "overlay": recipe.OverlaySettings, "crf": recipe.CueSettings,
}
EXAMPLE = re.compile(r"^  Example:\n +(drstool .+)\s*\Z", re.MULTILINE)


def options(command):
    """All flags of a command."""
    params = GROUP.commands[command].params
    return {flag for parameter in params for flag in (*parameter.opts, *parameter.secondary_opts)}


def example(drs, command):
    """The example at the end of the help of a command."""
    outcome = drs(command, "--help")
    assert outcome.code == 0
    match = EXAMPLE.search(outcome.out)
    assert match, outcome.out[-300:]
    return match[1]


def test_commands_of_the_method_are_there():
    method = {"train-cls", "cam", "refine-train", "refine", "pseudo-label", "train-seg", "segment", "eval", "overlay"}
    assert method <= set(COMMANDS)


def test_help_lists_every_command(drs):
    outcome = drs("--help")
    assert outcome.code == 0
    assert [name for name in COMMANDS if f"\n  {name} " not in outcome.out] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_common_options(drs, command):
    common = {"--device", "--seed", "--workers", "-q", "--quiet", "-v", "--verbose", "--overwrite", "--no-provenance"}
    assert common <= options(command)
    for flag in ("-h", "--help"):
        outcome = drs(command, flag)
        assert (outcome.code, outcome.err) == (0, "")
        assert outcome.out.startswith(f"Usage: drstool {command} ")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_explained(command):
    params = GROUP.commands[command].params
    assert [p.name for p in params if not getattr(p, "help", None)] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_example_parses(drs, command):
    stages = [shlex.split(stage) for stage in example(drs, command).split(" | ")]
    ours = [stage[1:] for stage in stages if stage[0] == "drstool"]
    assert ours[0][0] == command
    for name, *arguments in ours:
        # Parses everything and checks types and limits, but runs nothing.
        GROUP.commands[name].make_context(name, arguments)


@pytest.mark.parametrize("command", SETTINGS)
def test_every_setting_is_an_option(command):
    flags = {"--" + spec.name.replace("_", "-") for spec in fields(SETTINGS[command])}
    assert flags <= options(command)


@pytest.mark.parametrize("command", SETTINGS)
def test_every_default_is_shown(drs, command):
    text = " ".join(drs(command, "--help").out.split())
    for name, kinds in recipe.RECIPES.items():
        if SETTINGS[command] in kinds:
            assert "--recipe" in options(command)
            assert name in text
    settings = recipe.named_recipe("default", SETTINGS[command])
    for spec in fields(settings):
        if isinstance(getattr(settings, spec.name), float):
            assert f"default: {getattr(settings, spec.name)}" in text


def test_options_that_scripts_rely_on():
    assert {"--data", "--split", "--tags", "--init", "--recipe", "--suppression", "-o"} <= options("train-cls")
    assert {"--weights", "--sizes", "--method", "--keep-going", "-o"} <= options("cam")
    assert {"--saliency", "--alpha", "--background", "-o"} <= options("pseudo-label")
    assert {"--labels", "--backbone", "--epochs", "--batch-size", "--image-size", "--lr"} <= options("train-seg")
    assert {"--json", "--csv"} <= options("eval")


def test_no_command_is_help(drs):
    outcome = drs()
    assert outcome.code == 2
    assert outcome.out == ""
    assert outcome.err.startswith("Usage: drstool ")
    assert "\nCommands:\n" in outcome.err


def test_version(drs):
    from drstool import __version__

    assert drs("--version").out == f"drstool {__version__}\n"


# One process runs all of them, because starting a process takes longer than running most commands.
_WITHOUT_TORCH = """
import contextlib, io, json, sys
from drstool.cli.app import app
from drstool.cli.commands import register

register()

for arguments in json.loads(sys.argv[1]):
    sys.argv = ["drstool", *arguments]
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            app(arguments)
        except SystemExit as end:
            assert end.code == 0, arguments
    found = sorted(name for name in sys.modules if name.partition(".")[0] in ("torch", "torchvision"))
    assert not found, (arguments, found[:3])
print("no torch")
"""


def test_commands_that_need_no_torch_do_not_import_it(voc, made, program, tmp_path):
    import json

    lines = [
        ["--help"], ["cam", "--help"], ["train-seg", "--help"],
        ["ids", "--data", voc, "--split", "train"],
        ["info", made.cams], ["info", made.labels],
        ["check", made.cams, made.labels, made.figures],
        ["eval", made.pred, "--data", voc, "--split", "val"],
        ["eval", made.cams, "--data", voc, "--split", "train", "--background", "power"],
        ["overlay", "--data", voc, "--split", "val", "--labels", made.pred, "-o", tmp_path / "figures"],
        ["pseudo-label", made.cams, "--saliency", voc / "saliency_map", "-o", tmp_path / "labels"],
        ["saliency", "--data", voc, "--split", "val", "-o", tmp_path / "saliency"],
        ["cat", made.cams, "-o", tmp_path / "cams.tar"],
        ["pseudo-label", made.cams, "--background", "constant", "--shard", "1/2", "-o", tmp_path / "half"],
        ["demo", tmp_path / "demo", "--train", "1", "--val", "1", "--size", "48"],
    ]
    lines = [[str(word) for word in line] for line in lines]
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_TORCH, json.dumps(lines)], env=program.environment,
        capture_output=True, text=True, timeout=120)
    assert done.stdout == "no torch\n", done.stderr


def test_listing_images_needs_nothing_heavy(voc, program):
    """Frequently typed commands start without NumPy, Pillow and HDF5."""
    script = (
        "import sys\nfrom drstool.cli.app import app\nfrom drstool.cli.commands import register\nregister()\n"
        "try:\n    app(sys.argv[1:])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "print(*sorted({'numpy', 'PIL', 'h5py', 'scipy', 'torch', 'torchvision'} & set(sys.modules)), file=sys.stderr)")
    for line in (["--help"], ["eval", "--help"], ["ids", "--data", str(voc), "--split", "train"]):
        done = subprocess.run(
            [sys.executable, "-c", script, *line], env=program.environment, capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stderr) == (0, "\n")
        assert done.stdout


def test_info_imports_only_what_the_file_needs(made, program):
    script = (
        "import sys\nfrom drstool.cli.app import app\nfrom drstool.cli.commands import register\nregister('info')\n"
        "try:\n    app(sys.argv[1:])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'PIL', 'h5py', 'scipy', 'torch', 'rich', 'drstool.recipe', 'drstool.formats.sinks'}\n"
        "print(*sorted(heavy & set(sys.modules)), file=sys.stderr)")
    for path, needed in ((made.cams, "h5py"), (made.labels, "PIL")):
        done = subprocess.run([sys.executable, "-c", script, "info", str(path)], env=program.environment,
                              capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stderr) == (0, f"{needed}\n")
        assert "localization-maps" in done.stdout or "labels" in done.stdout


_REGISTERED = """
import sys
from drstool.cli.app import app
from drstool.cli.commands import register
from typer.main import get_command

for name in sys.argv[1:]:
    register(name or None)
print(*get_command(app).commands)
"""


def test_only_the_requested_command_is_registered(program):
    def registered(*asked):
        done = subprocess.run([sys.executable, "-c", _REGISTERED, *asked], env=program.environment,
                              capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    everything = registered("")
    assert sorted(everything) == COMMANDS
    # Earlier requests do not matter.
    assert registered("info", "") == registered("cat", "no command") == everything
    assert registered("info", "cat", "check") == ["check"]
    assert registered("cat") == ["cat"]
    assert registered("cam") == ["cam"]
    for asked in ("--help", "-q", "cm", ""):
        assert registered(asked) == everything


def test_verbose_says_more_and_quiet_wins(drs, made, tmp_path):
    line = ("pseudo-label", made.cams, "--background", "constant", "--constant", "0.3")
    more = drs(*line, "-v", "-o", tmp_path / "more").err
    assert more.startswith("pseudo-label: alpha 0.2, background constant, ") and "constant 0.3" in more
    usual = drs(*line, "-o", tmp_path / "usual").err
    assert "alpha 0.2" not in usual and usual.splitlines()[-1].startswith("pseudo-label: wrote")
    assert drs(*line, "-v", "-q", "-o", tmp_path / "less").err == ""
