"""Weights to start from (``--init``): torchvision's download, a file, or none."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from drstool.artifacts.header import FORMAT
from drstool.checkpoints.checkpoint import load_checkpoint, load_tensors
from drstool.errors import InputError

__all__ = ["history_of_weights", "initial_weights"]

_TORCHVISION = {
    "vgg16": "VGG16_Weights",
    "resnet50": "ResNet50_Weights",
    "resnet101": "ResNet101_Weights",
    "mobilenet_v2": "MobileNet_V2_Weights",
}


def initial_weights(init: str, backbone: str, *, progress: bool = False) -> Mapping[str, Any] | None:
    """The state dict that ``--init`` names, or None for a random start.

    Parameters
    ----------
    init
        ``imagenet`` (downloaded by torchvision, or taken from its cache), ``none``, or a file: a
        state dict under torchvision's names, or a drstool checkpoint.
    backbone
    progress
        Let torch tell on stderr how its download goes.

    Raises
    ------
    InputError
        The download fails, there is none for this backbone, or the file cannot serve.
    """
    if init == "none":
        return None
    if init != "imagenet":
        return _from_file(init)
    if backbone not in _TORCHVISION:
        raise InputError(
            "--init", f"there are no ImageNet weights for {backbone}", "--init none, or --init FILE")
    import torchvision

    weights = getattr(torchvision.models, _TORCHVISION[backbone]).IMAGENET1K_V1
    try:
        # torch tells on stdout, which is for data, where it downloads from.
        with contextlib.redirect_stdout(sys.stderr if progress else io.StringIO()):
            return weights.get_state_dict(progress=progress, check_hash=True)
    except (OSError, RuntimeError) as error:
        # URLError is an OSError; a broken download is a RuntimeError.
        raise InputError(
            "--init imagenet", f"the weights could not be had ({type(error).__name__})",
            f"--init FILE with a state dict of torchvision's {backbone}, or --init none") from None


def history_of_weights(init: str) -> tuple[dict[str, Any], ...]:
    """The provenance of the checkpoint that ``--init`` names; none where it names no checkpoint of ours."""
    try:
        return load_checkpoint(init).provenance if Path(init).is_file() else ()
    except InputError:
        # A state dict has no history; what is damaged is refused where its weights are read.
        return ()


def _from_file(path: str) -> Mapping[str, Any]:
    if not Path(path).exists():
        raise InputError("--init", f"no file {path}", "imagenet, none, or an existing file")
    content = load_tensors(path)
    if isinstance(content, dict) and content.get("format") == FORMAT:
        content = content.get("weights")
    if not isinstance(content, dict) or not content or not all(
            isinstance(name, str) and hasattr(value, "shape") for name, value in content.items()):
        raise InputError(path, "is no state dict", "a file of named tensors, as torchvision's weights are")
    return content
