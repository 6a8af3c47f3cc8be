"""README: command lines parse, files exist, the Python example runs."""

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from drstool.cli.app import app
from drstool.cli.commands import register

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
register()
GROUP = get_command(app)


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def command_lines():
    """The drstool commands in the shell blocks, one per stage of a pipe."""
    for block in blocks("sh"):
        for line in block.replace("|\n", "| ").splitlines():
            for stage in line.split("#")[0].split(" | "):
                words = shlex.split(stage)
                if words[:1] == ["drstool"]:
                    yield words[1:]


LINES = list(command_lines())


def test_the_chain_is_there():
    names = {line[0] for line in LINES}
    assert {"train-cls", "cam", "refine-train", "refine", "pseudo-label", "train-seg", "segment", "eval", "overlay",
            "ids", "import"} <= names
    assert len(LINES) >= 16


@pytest.mark.parametrize("line", LINES, ids=" ".join)
def test_command_line_parses(line):
    GROUP.commands[line[0]].make_context(line[0], line[1:])


def test_every_command_is_in_the_table():
    rows = re.findall(r"^\| `([a-z-]+)` \|", README, re.MULTILINE)
    assert sorted(rows) == sorted(GROUP.commands)


def test_scripts_and_pictures_are_there():
    named = re.findall(r"sh ((?:examples|tests)/\S+\.sh)", README) + re.findall(r"\]\((examples/\S+)\)", README)
    assert len(named) >= 3
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_options_named_in_the_text_exist():
    parameters = [p for command in GROUP.commands.values() for p in command.params]
    known = {flag for p in parameters for flag in (*p.opts, *p.secondary_opts)}
    known |= {"--help", "--version"}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", re.sub(r"^```.*?^```", "", README, flags=re.M | re.S)))
    assert len(named) > 20
    assert named - known == set()


def test_library_snippet_runs(voc, made, tmp_path, monkeypatch, capsys):
    (tmp_path / "demo").symlink_to(voc)
    (tmp_path / "pred").symlink_to(made.pred)
    monkeypatch.chdir(tmp_path)
    (snippet,) = blocks("python")
    exec(compile(snippet, "README", "exec"), {})
    assert 0 <= float(capsys.readouterr().out) <= 1
