"""From loaded images to records: order, batches that halve where memory is short, and encoding."""

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

from drstool.data.item import Item
from drstool.errors import DrstoolError, InputError, UsageError
from drstool.formats.records import encode_values
from drstool.inference import Execution
from drstool.mapping import Loaded, OnHost, encoded, map_records, output_size, pipelined, score_record

CPU = torch.device("cpu")


def loaded(count):
    for i in range(count):
        yield Loaded(Item(str(i), Path(f"{i}.jpg")), torch.full((3, 8, 8), i, dtype=torch.uint8), (9, 9), [0])


def recorder(most, seen):
    """Maps that tell of their image; with room for so many images at a time."""

    def compute(batch, images):
        seen.append(len(batch))
        if len(batch) > most:
            raise torch.OutOfMemoryError("out of memory")
        assert images.shape == (len(batch), 3, 8, 8)
        return [[0]] * len(batch), [torch.full((1, 2, 2), int(image.item.id) / 255) for image in batch]

    return compute


def run(compute, count=20, batch_size=0, **more):
    options = {"dtype": "uint8", "execution": Execution(), **more}
    return list(map_records(loaded(count), compute, batch_size=batch_size, **options))


def check_order(records, count=20):
    assert [record.id for record in records] == [str(i) for i in range(count)]
    assert [record.values[0, 0, 0] for record in records] == list(range(count))


def test_batches_of_the_device():
    seen = []
    check_order(run(recorder(100, seen)))
    assert seen == [8, 8, 4]


def test_an_image_that_failed_keeps_its_place_in_its_batch():
    """Those after it are made with the same images as if it had not failed."""
    images, batches = list(loaded(9)), []

    def compute(batch, _):
        batches.append([int(image.item.id) for image in batch])
        return recorder(3, [])(batch, _)

    holed = [None if n in (1, 3, 4, 5) else image for n, image in enumerate(images)]
    records = list(map_records(holed, compute, Execution(), batch_size=3, dtype="uint8"))
    assert batches == [[0, 2], [6, 7, 8]]
    assert [record.id for record in records] == ["0", "2", "6", "7", "8"]


@pytest.mark.parametrize("most, expected", [(5, [8, 4, 4, 4, 4, 4]), (1, [8, 4, 2, 1]), (7, [8, 4, 4, 4, 4, 4])])
def test_automatic_batch_halves_and_stays_small(most, expected):
    seen = []
    check_order(run(recorder(most, seen)))
    assert seen[:len(expected)] == expected
    assert max(seen[len(expected):], default=1) == 1


def test_automatic_batch_halves_late():
    """Memory that runs short in the last, smaller batch."""
    seen = []
    check_order(run(recorder(4, seen), count=6), count=6)
    assert seen == [6, 3, 3]


def test_no_memory_for_one_image():
    with pytest.raises(DrstoolError, match="lower --sizes"):
        run(recorder(0, []))


def test_batch_of_the_user_is_not_changed():
    with pytest.raises(torch.OutOfMemoryError):
        run(recorder(3, []), batch_size=4)


def test_only_full_batches_are_tuned_for():
    full = []

    class Recorded(Execution):
        def computing(self, *, same_size=False):
            full.append(same_size)
            return nullcontext()

    run(recorder(9, []), execution=Recorded())
    assert full == [True, True, False]


@pytest.mark.parametrize("autotune, same_size", [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("tf32", [True, False])
def test_settings_of_cudnn(autotune, same_size, tf32):
    """They need no GPU to be set; and are afterwards what they were."""
    cudnn, products = torch.backends.cudnn, torch.backends.cuda.matmul

    def settings():
        return cudnn.benchmark, cudnn.allow_tf32, products.allow_tf32

    before = settings()
    execution = Execution(torch.device("cuda"), autotune=autotune, tf32=tf32)
    with execution.computing(same_size=same_size):
        assert settings() == (autotune and same_size, tf32 and before[1], tf32 and before[2])
    assert settings() == before
    with Execution(autotune=autotune, tf32=tf32).computing(same_size=same_size):
        assert settings() == before


def test_map_that_is_not_finite():
    def compute(batch, images):
        return [[0]], [torch.full((1, 2, 2), torch.nan)]

    for dtype in ("uint8", "float16"):
        with pytest.raises(InputError, match="image '0': a map value is not a finite number"):
            run(compute, 1, 1, dtype=dtype)


@pytest.mark.parametrize("dtype", ["uint8", "float16"])
def test_encoding_is_that_of_files(dtype):
    torch.manual_seed(0)
    halves = torch.arange(0, 256).div(2 * 255).reshape(1, 16, 16)
    for maps in (torch.randn(3, 40, 50), halves, torch.zeros(0, 4, 4)):
        values, finite = encoded(maps, dtype)
        assert np.array_equal(values.numpy(), encode_values(maps.numpy(), dtype))
        assert finite
    assert not encoded(torch.full((1, 1, 1), 1e9), "float16")[1]


def test_a_gpu_is_asked_when_the_next_batch_has_begun():
    begun = []

    def started():
        for i in range(3):
            begun.append(i)
            yield i

    assert [(i, begun[-1]) for i in pipelined(started(), torch.device("cuda"))] == [(0, 1), (1, 2), (2, 2)]
    begun.clear()
    assert [(i, begun[-1]) for i in pipelined(started(), CPU)] == [(0, 0), (1, 1), (2, 2)]


def test_on_host_of_the_cpu():
    one, other = OnHost([torch.arange(3), torch.ones(())]).arrays()
    assert (one.tolist(), float(other)) == ([0, 1, 2], 1.0)


def test_computing_leaves_no_trace():
    before = torch.is_grad_enabled(), torch.backends.cudnn.benchmark, torch.is_autocast_enabled("cpu")
    with Execution(precision="bfloat16").computing(same_size=True):
        assert not torch.is_grad_enabled()
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    assert before == (torch.is_grad_enabled(), torch.backends.cudnn.benchmark, torch.is_autocast_enabled("cpu"))


def test_modes_of_the_caller_do_not_change_between_records():
    """Records come one by one, and who takes them may well compute gradients."""
    for record in map_records(loaded(3), recorder(9, []), Execution(), batch_size=1, dtype="uint8"):
        assert torch.is_grad_enabled(), record.id


@pytest.mark.parametrize(("given", "size"), [("1", 1), ("10000", 10_000), ("320", 320)])
def test_map_sizes_in_pixels(given, size):
    assert output_size(given, 64, (30, 40)) == (size, size)


@pytest.mark.parametrize("given", ["0", "10001", "-1", "1.5", "huge", "", "²"])
def test_wrong_map_sizes(given):
    with pytest.raises(UsageError, match="--map-size"):
        output_size(given, 64, (30, 40))


def test_scores_that_round_to_nothing_are_not_stored():
    """A score is 0 in a byte up to half of 1/255."""
    half = np.float32(1 / 510)
    probabilities = np.float32([[[0.9, 0.9]], [[half, 0.0]], [[np.nextafter(half, np.float32(1)), 0.0]], [[0.0, 0.1]]])
    found = score_record("a", probabilities, [1, 2, 5], "a.jpg")
    assert found.labels == (2, 5)
    assert found.values.tolist() == [[[1, 0]], [[0, 26]]]
    assert found.image_size == (1, 2)
