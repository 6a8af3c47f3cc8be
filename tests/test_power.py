"""The harness that cuts the power, without waiting; the long run is its own program."""

import pytest
from harness_power import Disk, commands, kinds, trial


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    if "ext4" not in kinds():
        pytest.skip("needs root, loop devices and mkfs.ext4")
    try:
        disk = Disk("ext4", tmp_path_factory.mktemp("disk"))
        disk.__enter__()
    except OSError as error:
        pytest.skip(str(error))
    yield disk
    disk.__exit__()


@pytest.mark.parametrize("name", ["labels", "demo", "maps.h5"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_what_was_written_is_there_after_a_power_failure(disk, voc, made, name, overwrite):
    words = commands(voc, made.cams.parent)[name]
    assert trial(disk, words, name, overwrite=overwrite) == ["new", "new"]
