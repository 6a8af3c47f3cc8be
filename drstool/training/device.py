"""Where and in what precision networks run."""

from __future__ import annotations

import contextlib
import time
from functools import cache

import torch
from torch.nn import functional as F

from drstool.crf import one_thread
from drstool.errors import UsageError

__all__ = ["autocast", "bfloat16_gain", "pick_device", "pick_precision"]

# Less may be noise, and identical runs must choose the same.
_CLEARLY_FASTER = 1.3
# A training step of VGG-16 has this shape, but for its size: images, channels, side. It takes milliseconds.
_IMAGES, _CHANNELS, _SIDE = 2, 128, 20
_TURNS = 6


def pick_device(name: str) -> torch.device:
    """The device under its name; ``auto`` is the first GPU where there is one.

    Raises
    ------
    UsageError
        There is no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError("--device", f"{name!r} is not a device", "expected auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise UsageError("--device", f"{name!r} is not supported", "expected auto, cpu, cuda or cuda:N")
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise UsageError("--device", "no CUDA device is available here", "--device cpu, or auto")
        count = torch.cuda.device_count()
        if device.index is not None and device.index >= count:
            raise UsageError("--device", f"there is no {name}", f"this machine has {count} CUDA device(s)")
    return device


def pick_precision(name: str, device: torch.device) -> str:
    """``float32`` or ``bfloat16``; ``auto`` is bfloat16 where the device is clearly faster with it.

    A GPU is if it multiplies bfloat16 natively; a CPU is measured, see :func:`bfloat16_gain`.

    Raises
    ------
    UsageError
        Another name.
    """
    if name == "auto":
        if device.type == "cuda":
            return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
        return "bfloat16" if bfloat16_gain() >= _CLEARLY_FASTER else "float32"
    if name not in ("float32", "bfloat16"):
        raise UsageError("--precision", f"{name!r} is not one of auto, float32, bfloat16")
    return name


@cache
def bfloat16_gain() -> float:
    """How many times faster this CPU trains a 3×3 convolution in bfloat16 than in float32; measured once, in 0.2 s.

    The quickest of several turns is compared, in CPU time of one thread, so that other programs hardly matter.
    """
    seconds = {torch.float32: float("inf"), torch.bfloat16: float("inf")}
    with one_thread():
        for turn in range(_TURNS + 1):
            for dtype, quickest in seconds.items():
                took = _seconds_of_step(dtype)
                if turn:  # the first one warms up
                    seconds[dtype] = min(quickest, took)
            if seconds[torch.bfloat16] > 3 * seconds[torch.float32]:
                break  # without native instructions it takes long
    return seconds[torch.float32] / seconds[torch.bfloat16]


def _seconds_of_step(dtype: torch.dtype) -> float:
    """CPU time of this thread for a convolution, forward and backward, as autocast computes it."""
    layout = torch.channels_last if dtype == torch.bfloat16 else torch.contiguous_format
    # No random numbers, which would be missing in the training.
    x, weight = torch.ones(_IMAGES, _CHANNELS, _SIDE, _SIDE), torch.ones(_CHANNELS, _CHANNELS, 3, 3)
    x, weight = (tensor.contiguous(memory_format=layout).requires_grad_() for tensor in (x, weight))
    started = time.thread_time()
    F.conv2d(x.to(dtype), weight.to(dtype), padding=1).float().sum().backward()
    return time.thread_time() - started


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    """Context in which matrix products run in ``precision``."""
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)
