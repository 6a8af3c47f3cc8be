"""Help texts: common options, examples that parse, an option for every setting, no import of torch."""

import contextlib
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
    "overlay": recipe.FigureSettings, "crf": recipe.CueSettings,
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


def headed(text):
    """The options and commands of a help text by the heading they stand under."""
    found, heading = {}, None
    for line in text.splitlines():
        if re.fullmatch(r"[A-Z][A-Za-z ]*:", line):
            heading = line[:-1]
        elif heading and (match := re.match(r"  ((?:-\w, )?--[\w-]+|[a-z-]+)(?: |$)", line)):
            found.setdefault(heading, []).append(match[1].split(", ")[-1])
    return found


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_in_groups(drs, command):
    text = drs(command, "--help").out
    groups = headed(text)
    order = ["Arguments", "Data", "Method", "CRF", "Output", "Running"]
    assert [name for name in groups if name != "Example"] == [name for name in order if name in groups]
    shown = {flag for flags in groups.values() for flag in flags}
    assert {p.opts[-1] for p in GROUP.commands[command].params if p.param_type_name == "option"} <= shown
    assert {"--device", "--seed", "--help"} <= set(groups["Running"])
    for flag, group in (("--data", "Data"), ("--split", "Data"), ("--weights", "Data"), ("--maps", "Data"),
                        ("--labels", "Data"), ("--saliency", "Data"), ("--lr", "Method"), ("--alpha", "Method"),
                        ("--crf", "CRF"), ("--crf-mode", "CRF"), ("--output", "Output"), ("--json", "Output"),
                        ("--overwrite", "Output"), ("--workers", "Running"), ("--precision", "Running")):
        assert flag not in shown or flag in groups[group], flag
    # Text to search, without frames or colours.
    assert not re.search("[\u2500-\u257f\x1b]", text)


def test_commands_stand_in_the_order_of_the_chain(drs):
    groups = headed(drs("--help").out)
    assert groups["Commands"] == [
        "train-cls", "cam", "refine-train", "refine", "pseudo-label", "train-seg", "segment", "eval", "overlay"]
    assert sorted(groups["Commands"] + groups["More commands"]) == COMMANDS


def on_terminal(program, *arguments):
    """What a command writes on a terminal that is its stdout and stderr."""
    import os
    import pty

    ours, theirs = pty.openpty()
    process = program.start(*arguments, stdout=theirs, stderr=theirs)
    os.close(theirs)
    parts = []
    # At the end, Linux gives an error and others nothing.
    with contextlib.suppress(OSError):
        while part := os.read(ours, 65536):
            parts.append(part)
    os.close(ours)
    process.communicate()
    return process.returncode, b"".join(parts).decode()


def test_help_on_a_terminal_has_frames(program, monkeypatch):
    for name, value in (("TERM", "xterm"), ("COLUMNS", "90"), ("NO_COLOR", "1")):
        monkeypatch.setitem(program.environment, name, value)
    code, text = on_terminal(program, "pseudo-label", "--help")
    assert code == 0
    lines = [re.sub("\x1b[^m]*m", "", line) for line in text.splitlines()]
    titles = [re.search("\u256d\u2500 ([A-Za-z]+) \u2500", line) for line in lines]
    assert [title[1] for title in titles if title] == ["Arguments", "Data", "Method", "CRF", "Output", "Running"]
    assert max(map(len, lines)) <= 90
    words = set(re.sub("[,\u2500-\u257f]", " ", "\n".join(lines)).split())
    assert {flag for flag in options("pseudo-label") if len(flag) < 20} <= words
    # A line to be copied, whatever the width.
    assert lines[-1].strip() == "drstool pseudo-label refined.h5 --saliency demo/saliency_map -o labels"
    # Without a command, the same is an error; brackets are text, not markup.
    code, text = on_terminal(program)
    assert code == 2 and "\u256d\u2500" in text and "train-cls" in text
    monkeypatch.setitem(program.environment, "TERM", "dumb")
    assert "\u256d" not in on_terminal(program, "--help")[1]


# What completes in a bash that has read the file that was installed; one line of answers for each.
_COMPLETING = """
source ~/.bash_completions/drstool.sh
for words in "refi" "cam --sp" "cam --method " "cam --data " "demo ./a"; do
    COMP_WORDS=(drstool $words); [ "${words% }" = "$words" ] || COMP_WORDS+=("")
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMPREPLY=(); _drstool_completion drstool; echo "${COMPREPLY[*]}"
done
"""


def test_completion(program, tmp_path):
    home = tmp_path / "home"
    bin = home / "bin"
    bin.mkdir(parents=True)
    (bin / "drstool").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m drstool "$@"\n')
    (bin / "drstool").chmod(0o755)
    environment = {**program.environment, "HOME": str(home), "PATH": f"{bin}:{program.environment['PATH']}"}

    def bash(script):
        return subprocess.run(["bash", "--norc", "-c", script], cwd=home, env=environment, capture_output=True,
                              text=True, timeout=120)

    done = bash("drstool --install-completion; exit $?")
    assert (done.returncode, done.stderr) == (0, "")
    assert "drstool.sh" in (home / ".bashrc").read_text()
    # Where nothing of ours fits, bash itself completes file names.
    assert "-o default" in (home / ".bash_completions" / "drstool.sh").read_text()
    done = bash(_COMPLETING)
    assert done.stdout.splitlines() == ["refine-train refine", "--split", "drs cam grad-cam", "", ""], done.stderr


@pytest.mark.parametrize(("line", "message"), [
    (("trian",), "No such command 'trian'; did you mean train-seg or train-cls? See 'drstool --help'"),
    (("psuedo-lables",), "No such command 'psuedo-lables'; did you mean pseudo-label? See 'drstool --help'"),
    (("help",), "No such command 'help'; see 'drstool --help'"),
    (("cam", "--weigths", "x"),
     "cam: No such option: --weigths (Possible options: --weights); see 'drstool cam --help'"),
    (("cam", "--sweep=alpha"), "cam: No such option: --sweep (an option of eval); see 'drstool cam --help'"),
    (("--drs-layers", "5"), "No such option: --drs-layers (an option of train-cls); see 'drstool --help'"),
    (("cam", "-x"), "cam: No such option: -x; see 'drstool cam --help'"),
])
def test_mistyped_names_lead_to_the_right_ones(drs, line, message):
    outcome = drs(*line)
    assert (outcome.code, outcome.out, outcome.err) == (2, "", f"drstool: {message}\n")


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
