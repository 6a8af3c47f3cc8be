"""Where and in what precision networks run."""

from __future__ import annotations

import contextlib

import torch

from drstool.errors import UsageError

__all__ = ["autocast", "pick_device", "pick_precision"]


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
    """``float32`` or ``bfloat16``; ``auto`` is bfloat16 where the device multiplies it natively.

    Raises
    ------
    UsageError
        Another name.
    """
    if name == "auto":
        if device.type == "cuda":
            return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
        return "bfloat16" if torch.backends.cpu.get_cpu_capability() == "AMX" or _has_amx() else "float32"
    if name not in ("float32", "bfloat16"):
        raise UsageError("--precision", f"{name!r} is not one of auto, float32, bfloat16")
    return name


def _has_amx() -> bool:
    supported = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(supported and supported())


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    """Context in which matrix products run in ``precision``."""
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)
