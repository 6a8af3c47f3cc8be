"""Every reader against some hundred damaged files; ``harness_fuzz.py`` does it by the thousand."""

import importlib.util
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

HARNESS = Path(__file__).with_name("harness_fuzz.py")
spec = importlib.util.spec_from_file_location("harness_fuzz", HARNESS)
harness = importlib.util.module_from_spec(spec)
spec.loader.exec_module(harness)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return harness.Place(tmp_path_factory.mktemp("fuzz"))


@pytest.fixture(scope="module", params=harness.READERS)
def reader(request):
    make, read = harness.READERS[request.param]
    return request.param, list(make()), read


def test_whole_files_are_read(reader, place):
    """Else nothing that follows would mean anything."""
    name, seeds, read = reader
    outcomes = [harness.attempt(read, place, data) for data in seeds]
    # A state dict of the old form is none of our checkpoints, but is read.
    assert set(outcomes) == {"read"}, outcomes


@settings(max_examples=150, deadline=None, derandomize=True,
          suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32))
@example(seed=0)
def test_damaged_files_are_read_or_refused(reader, place, seed):
    name, seeds, read = reader
    outcome = harness.attempt(read, place, harness.attempt_file(name, seeds, seed, 0))
    assert outcome in ("read", "refused"), outcome


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200) | st.text(max_size=100).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_files_of_anything_are_read_or_refused(reader, place, data):
    _, seeds, read = reader
    for whole in (data, seeds[0][:8] + data):
        outcome = harness.attempt(read, place, whole)
        assert outcome in ("read", "refused"), outcome


def test_mutations_change_and_repeat():
    seeds = list(harness.label_pngs())
    made = [harness.attempt_file("label-png", seeds, 1, number) for number in range(50)]
    assert made == [harness.attempt_file("label-png", seeds, 1, number) for number in range(50)]
    assert len(set(made) - set(seeds)) > 40
    assert harness.repaired(seeds[0]) == seeds[0]
    assert harness.mutated(random.Random(1), b"", seeds) == b""


def test_harness_counts_what_fails(tmp_path):
    """A reader that crashes, hangs, fails and takes memory is caught at each, and the rest is tried."""
    script = tmp_path / "harness_fuzz.py"
    broken = '''
    "broken": (lambda: [b"x" * 50], lambda place, data: break_something()),
}
DONE = []
def break_something():
    number = len(DONE)
    DONE.append(1)
    if START + number == 1:
        os.abort()
    if START + number == 2:
        while True:
            pass
    if START + number == 3:
        raise KeyError("x")
    if START + number == 4:
        bytearray(8 << 30)
START = int(sys.argv[sys.argv.index("--work") + 1]) if "--work" in sys.argv else 0
'''
    text = HARNESS.read_text().replace("\n}\n", broken, 1).replace("SECONDS, PATIENCE = 10", "SECONDS, PATIENCE = 1")
    text = text.replace("parents[1]))", f"parents[1]))\n    sys.path.insert(0, {str(HARNESS.parents[1])!r})", 1)
    script.write_text(text)
    done = subprocess.run([sys.executable, script, "--reader", "broken", "--times", "6"],
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stderr
    header, row, *failures = done.stdout.splitlines()
    assert dict(zip(header.split()[1:8], row.split()[1:8])) == {
        "tries": "6", "read": "2", "refused": "0", "traceback": "1", "crash": "1", "hang": "1", "memory": "1"}
    assert [json.loads(line.split()[1].rstrip(":")) for line in failures] == [1, 2, 3, 4]
