"""Initial weights (``--init``): torchvision's ImageNet weights, a file, or none."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Mapping
from typing import Any

from drstool.artifacts.header import FORMAT
from drstool.checkpoints.checkpoint import load_checkpoint, load_tensors
from drstool.checkpoints.foreign_names import torchvision_names
from drstool.errors import InputError
from drstool.files import is_file, status
from drstool.text import listed

__all__ = ["history_of_weights", "initial_weights"]


def initial_weights(init: str, backbone: str, *, progress: bool = False) -> Mapping[str, Any] | None:
    """The state dict that ``--init`` names; None for random initialization.

    Parameters
    ----------
    init
        ``imagenet`` (from torchvision's cache, or downloaded), ``none``, or a file: a state dict with the
        names of torchvision, timm or Hugging Face transformers, alone or in a training's dictionary, or a
        drstool checkpoint.
    backbone
    progress
        Whether torch shows its download's progress on stderr.

    Raises
    ------
    InputError
        The download fails, there are no weights for this backbone, the file is not a state dict or
        holds several, or is a checkpoint with another backbone.
    """
    if init == "none":
        return None
    if init != "imagenet":
        return _from_file(init, backbone)
    from torch.hub import get_dir
    from torchvision.models import get_model_weights

    try:
        weights = get_model_weights(backbone)["IMAGENET1K_V1"]
    except ValueError:
        raise InputError(
            "--init", f"there are no ImageNet weights for {backbone}", "use --init none or --init FILE") from None
    try:
        # torch prints the address on stdout, which is for data.
        with contextlib.redirect_stdout(sys.stderr if progress else io.StringIO()):
            return weights.get_state_dict(progress=progress, check_hash=True)
    except (OSError, RuntimeError) as error:
        # URLError is an OSError; a broken download is a RuntimeError.
        place = os.path.join(get_dir(), "checkpoints")
        raise InputError(
            "--init imagenet", f"the weights cannot be downloaded ({type(error).__name__})",
            f"get torchvision's {backbone} from {weights.url} and put it into {place}, "
            "or give its place as --init FILE; or use --init none") from None


def history_of_weights(init: str) -> tuple[dict[str, Any], ...]:
    """The provenance of the checkpoint that ``--init`` names; empty for anything else."""
    try:
        return load_checkpoint(init).provenance if is_file(init) else ()
    except InputError:
        # A state dict has no history; a damaged file is refused where its weights are read.
        return ()


def _from_file(path: str, backbone: str) -> Mapping[str, Any]:
    if status(path) is None:
        raise InputError("--init", f"'{path}' does not exist", "use imagenet, none or a file")
    content = load_tensors(path)
    own = isinstance(content, dict) and content.get("format") == FORMAT
    if own:
        architecture = content.get("architecture")
        trained = architecture.get("backbone", backbone) if isinstance(architecture, dict) else backbone
        if trained != backbone:
            raise InputError(path, f"holds a network with backbone {trained}", f"give --backbone {trained}, or others")
        content = content.get("weights")
    elif isinstance(content, dict) and (wrapped := [name for name, each in content.items() if _is_state_dict(each)]):
        # As trainings save it, beside the optimizer's state and numbers: {"state_dict": ..., "epoch": 90}.
        if len(wrapped) > 1:
            raise InputError(path, f"holds {len(wrapped)} state dicts: {listed(wrapped)}",
                             "save the one you want in a file of its own")
        content = content[wrapped[0]]
    if not _is_state_dict(content):
        raise InputError(path, "is not a state dict", "give a file of named tensors, such as torchvision's weights")
    return content if own else torchvision_names(content, path, backbone)


def _is_state_dict(content: Any) -> bool:
    return isinstance(content, dict) and bool(content) and all(
        isinstance(name, str) and hasattr(value, "shape") for name, value in content.items())
