"""The harness that kills commands at random moments, with few tries; the long run is its own program."""

import os
import signal
import subprocess
import sys

import pytest
from harness_kill import SIGNALS, Trial, stages


@pytest.mark.parametrize(("name", "moments"), [
    ("train-seg", (0.6,)), ("refine", (0.3, 0.6, 0.8)), ("segment, scores", (0.3, 0.6, 0.8))])
def test_killed_at_random_moments(zygote, voc, made, tmp_path, name, moments):
    words, outputs = stages(voc, made.cls.parent)[name]
    trial = Trial(zygote, words, outputs, tmp_path / "trial")
    for number, moment in zip(SIGNALS, moments):
        trial.kill(number, moment, None)
    assert trial.faults == []


def test_every_command_that_can_be_gone_on_with_is_killed(voc, made):
    from typer.main import get_command

    from drstool.cli.app import app
    from drstool.cli.commands import register

    register()
    resumable = {
        name for name, command in get_command(app).commands.items()
        if any("--resume" in parameter.opts for parameter in command.params)}
    assert {words[0] for words, _ in stages(voc, made.cls.parent).values()} == resumable


# A signal comes as Python forgets an object, where no exception gets out; the work goes on a while.
FORGETTING = """
import os, time
from drstool.artifacts.resume import Journal
class Forgotten:
    def __del__(self):
        os.kill(os.getpid(), {number})
add = Journal.add
def forgetful(journal, *arguments):
    add(journal, *arguments)
    Forgotten()
    time.sleep(5)
Journal.add = forgetful
"""


@pytest.mark.parametrize(("number", "code", "told"), [
    (signal.SIGINT, 130, "drstool: interrupted\n"), (signal.SIGTERM, 143, "")])
def test_a_signal_where_nothing_may_be_raised(zygote, voc, made, tmp_path, number, code, told):
    words, _ = stages(voc, made.cls.parent)["cam"]
    before = FORGETTING.format(number=int(number))
    errors = tmp_path / "errors"
    assert zygote.run(*words, "-q", "-o", tmp_path / "maps.h5", before=before, errors=errors) == code
    assert errors.read_text() == told
    assert sorted(path.name for path in tmp_path.iterdir()) == [".maps.h5.resume", "errors"]


# A signal comes while a module makes a class, which Python 3.11 tells as a RuntimeError.
NAMING = """
import os
from drstool.artifacts import resume as unfinished
class Named:
    def __set_name__(self, owner, name):
        os.kill(os.getpid(), {number})
def begin(journal):
    {body}
unfinished.Journal.start = begin
"""
MAKING = "type('Made', (), {'field': Named()})"
WRAPPING = "\n    ".join((
    "from drstool.errors import InputError",
    "try:", "    " + MAKING, "except Exception:", "    raise InputError('x', 'is damaged') from None"))


@pytest.mark.parametrize("body", [MAKING, WRAPPING], ids=["as Python has it", "as a library might"])
@pytest.mark.parametrize(("number", "code", "told"), [
    (signal.SIGINT, 130, "drstool: interrupted\n"), (signal.SIGTERM, 143, "")])
def test_a_signal_that_arrives_as_another_error(zygote, voc, made, tmp_path, number, code, told, body):
    words, _ = stages(voc, made.cls.parent)["cam"]
    before = NAMING.format(number=int(number), body=body)
    errors = tmp_path / "errors"
    assert zygote.run(*words, "-q", "-o", tmp_path / "maps.h5", before=before, errors=errors) == code
    assert errors.read_text() == told
    assert "maps.h5" not in os.listdir(tmp_path)


BEGINNING = """
import os, signal, sys
import drstool.cli
class Named:
    def __set_name__(self, owner, name):
        os.kill(os.getpid(), {number})
def imports():
    {making}
drstool.cli._main = imports
signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))
drstool.cli.main()
"""


@pytest.mark.parametrize(("number", "code", "told"), [
    (signal.SIGINT, 130, "drstool: interrupted\n"), (signal.SIGTERM, 143, "")])
def test_a_signal_that_arrives_as_another_error_while_it_begins(number, code, told):
    script = BEGINNING.format(number=int(number), making=MAKING)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr, done.stdout) == (code, told, "")
