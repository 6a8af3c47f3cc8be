"""README and the pages in examples: command lines parse, options and files exist, the Python example runs."""

import re
import shlex

import pytest
from pages import EXAMPLES, NOT_RUN, PAGES, README, ROOT, blocks, prose
from typer.main import get_command

from drstool.cli.app import app
from drstool.cli.commands import register

register()
GROUP = get_command(app)


def command_lines():
    """The drstool commands in the shell blocks, one per stage of a pipe."""
    for page in PAGES:
        for block in blocks(page):
            for line in re.sub(r"\\\n", " ", block.text.replace("|\n", "| ")).splitlines():
                for stage in line.split("#")[0].split(" | "):
                    words = shlex.split(stage)
                    if words[:1] == ["drstool"]:
                        yield page.name, words[1:words.index(">")] if ">" in words else words[1:]


LINES = list(command_lines())


def test_the_chain_is_at_the_door():
    names = [words[0] for page, words in LINES if page == "README.md"]
    assert names[:9] == [
        "train-cls", "cam", "refine-train", "refine", "pseudo-label", "train-seg", "segment", "eval", "overlay"]
    assert {"ids", "import", "cat", "check", "info", "saliency", "demo"} <= {words[0] for _, words in LINES}
    assert len(LINES) >= 60


def test_the_door_is_short():
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150
    assert max(len(line) for page in PAGES for line in prose(page).splitlines() if not line.startswith("|")) <= 120


@pytest.mark.parametrize(("page", "line"), LINES, ids=lambda part: part if isinstance(part, str) else " ".join(part))
def test_command_line_parses(page, line):
    # Options that a script in a page keeps in a variable.
    line = [word for word in line if not re.fullmatch(r"\$\w+", word)]
    line += ["--data", "x"] if line[0] in ("train-cls", "cam", "train-seg") and "--data" not in line else []
    line = [re.sub(r"\$\{\w+:-(.*)\}", r"\1", word) for word in line]
    GROUP.commands[line[0]].make_context(line[0], line[1:])


def test_every_command_is_in_a_table():
    rows = [name for page in PAGES for name in re.findall(r"^\| `([a-z-]+)` \|", prose(page), re.MULTILINE)]
    assert set(GROUP.commands) <= set(rows)
    assert re.findall(r"^\| `([a-z-]+)` \|", prose(EXAMPLES / "commands.md"), re.MULTILINE) == list(GROUP.commands)


def test_links_lead_somewhere():
    for page in PAGES:
        links = re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8"))
        here = [link for link in links if not link.startswith("https://")]
        assert [link for link in here if not (page.parent / link).is_file()] == [], page
        named = re.findall(r"sh ((?:examples|tests)/\S+\.sh)", page.read_text(encoding="utf-8"))
        assert [name for name in named if not (ROOT / name).is_file()] == [], page


def test_every_page_is_linked_at_the_door_and_in_the_index():
    index = {file.name for file in EXAMPLES.iterdir() if file.suffix in (".md", ".py")} - {
        "README.md", "results.py", "summary.py"}
    text = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert index <= set(re.findall(r"^- \[([\w.-]+)\]\(\1\): ", text, re.MULTILINE))
    door = README.read_text(encoding="utf-8")
    assert [name for name in index if name.endswith(".md") and f"](examples/{name})" not in door] == []


def test_options_named_in_the_text_exist():
    parameters = [p for command in (GROUP, *GROUP.commands.values()) for p in command.params]
    known = {flag for p in parameters for flag in (*p.opts, *p.secondary_opts)}
    # Of pytest's harnesses and torchrun, in words.
    known |= {"--help"}
    named = {flag for page in PAGES for flag in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", prose(page))}
    assert len(named) > 60
    assert named - known == set()


def test_nothing_is_said_twice():
    """No longer sentence stands on two pages."""
    seen = {}
    for page in PAGES:
        for sentence in re.split(r"(?<=[.:]) |\n\n|\|", " ".join(prose(page).split(" "))):
            words = " ".join(sentence.split())
            if len(words) > 100:
                assert seen.setdefault(words, page) == page, words


def test_blocks_that_are_not_run_say_why():
    marks = [line for page in PAGES for line in page.read_text(encoding="utf-8").splitlines()
             if line.startswith("<!--")]
    assert [line for line in marks if not re.fullmatch(re.escape(NOT_RUN) + r".{5,} -->", line)] == []
    assert sum(not block.runs for page in PAGES for block in blocks(page)) == len(marks) <= 8


def test_library_snippet_runs(voc, made, tmp_path, monkeypatch, capsys):
    (tmp_path / "demo").symlink_to(voc)
    (tmp_path / "pred").symlink_to(made.pred)
    monkeypatch.chdir(tmp_path)
    (snippet,) = blocks(README, "python")
    exec(compile(snippet.text, "README", "exec"), {})
    assert 0 <= float(capsys.readouterr().out) <= 1
