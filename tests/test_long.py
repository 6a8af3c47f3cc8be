"""A hundred images through a chain of pipes; ``harness_long.py`` takes 20,000."""

import importlib.util
from pathlib import Path

spec = importlib.util.spec_from_file_location("harness_long", Path(__file__).with_name("harness_long.py"))
harness = importlib.util.module_from_spec(spec)
spec.loader.exec_module(harness)


def test_memory_and_open_files_stay_flat():
    samples, told = harness.run(images=150, every=25)
    assert told["images"] == 150
    for stage in harness.STAGES:
        assert len(samples[stage]) >= 5, samples
        megabytes, files = harness.growth(samples[stage], 50)
        # A picture's maps and labels kept would be 10 KB each; the interpreter's own ups and downs are some MB.
        assert files <= harness.MOST_OPEN and megabytes < 20, samples


def test_growth_is_told():
    samples = [(100, 50.0, 7), (200, 60.0, 8), (300, 61.0, 9), (400, 60.5, 8)]
    assert harness.growth(samples, 200) == (1.0, 1)
