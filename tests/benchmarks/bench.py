"""Benchmarks of drstool against plain implementations of the same work and, given a checkout, the authors' code.

    python tests/benchmarks/bench.py [--data VOC2012] [--against DRS] [--only cam --only eval] [--json FILE]

Contenders take turns in one process (A B A B …) after a warm-up, so that other load on the machine affects all of
them alike; GPU work is synchronised. The table gives the median time of each, the ratio to the first one, and the
median of the ratios of neighbouring turns, which slow drifts do not affect. Images are drawn unless --data names a
dataset. --clock cpu measures CPU time instead of wall-clock time, for shared machines.

Nothing is asserted and pytest collects nothing here: the figures describe a machine, not the code.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
# Number of classes of the authors' network, which is made for VOC.
AUTHORS_CLASSES = 20


@dataclass
class Settings:
    """Options of the command line."""

    data: str | None = None
    split: str | None = None
    against: str | None = None
    weights: str | None = None
    device: str = "auto"
    backbone: str = "vgg16"
    image_size: int = 320
    images: int = 16
    batch_size: int = 3
    rounds: int = 3
    steps: int = 3
    threads: int = 0
    workers: int = 0
    clock: str = "wall"
    precision: str = "auto"
    many: int = 400
    classes: int = 0
    folder: Path = field(default_factory=Path)

    def __post_init__(self) -> None:
        import os

        self.workers = self.workers or min(16, len(os.sched_getaffinity(0)))


@dataclass
class Result:
    """One comparison.

    Attributes
    ----------
    name
    unit
        What the times are per: image, step or run.
    times
        Seconds per unit by contender, one per round.
    told
        Additional results.
    """

    name: str
    unit: str
    times: dict[str, list[float]]
    told: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict:
        """The comparison as plain values; ``speedup`` is that of the first contender over each other one."""
        first = next(iter(self.times.values()), [])
        return {
            "name": self.name, "unit": self.unit, "seconds": self.times,
            "median": {name: statistics.median(times) for name, times in self.times.items()},
            "speedup": {
                name: statistics.median(b / a for a, b in zip(first, times))
                for name, times in self.times.items() if times is not first},
            **self.told}


class Bench:
    """The device, images and networks shared by all comparisons."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    # --- shared inputs --------------------------------------------------------------------------

    @cached_property
    def device(self) -> Any:
        """The device that networks run on."""
        import torch

        from drstool.training.device import pick_device

        if self.settings.threads:
            torch.set_num_threads(self.settings.threads)
        return pick_device(self.settings.device)

    @cached_property
    def dataset(self) -> Any:
        """The first images of the user's dataset, or of a drawn one."""
        from drstool.data import open_dataset

        data = self.settings.data or str(self._drawn())
        dataset = open_dataset(data, self.settings.split or "train")
        return replace(dataset, items=dataset.items[: self.settings.images])

    def _drawn(self) -> Path:
        from drstool.stages.demo import render_demo

        folder = self.settings.folder / "demo"
        folder.mkdir()
        render_demo(folder, train=self.settings.images, val=2, size=max(48, self.settings.image_size))
        return folder

    @property
    def labels(self) -> dict[str, Path]:
        """Label images by id; the ground truth will do, since only the time matters."""
        return {item.id: item.mask for item in self.dataset.items}

    @cached_property
    def authors(self) -> Any:
        """The module of the authors' classifier in the user's checkout."""
        path = Path(self.settings.against or "") / "models" / "vgg.py"
        if importlib.util.find_spec("cv2") is None:
            # Imported there, but not used.
            sys.modules["cv2"] = types.ModuleType("cv2")
        spec = importlib.util.spec_from_file_location("authors_vgg", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    def authors_network(self) -> Any:
        """The authors' classifier with learnable DRS, and with their weights if given."""
        import torch

        torch.manual_seed(0)
        network = self.authors.vgg16(pretrained=False, delta=0)
        if self.settings.weights:
            content = torch.load(self.settings.weights, map_location="cpu", weights_only=True)
            network.load_state_dict(content.get("model", content))
        return network.to(self.device)

    def classifier(self, suppression: str = "learnable") -> Any:
        """A classifier checkpoint, with the authors' weights (--against) or randomly initialised."""
        import torch

        from drstool.checkpoints.checkpoint import Checkpoint
        from drstool.models.build import build_network
        from drstool.stages.import_ import import_drs

        if self.settings.against and suppression == "learnable":
            path = self.settings.folder / "authors.pth"
            torch.save({"model": self.authors_network().state_dict()}, path)
            return import_drs(str(path))
        torch.manual_seed(0)
        parts = {"backbone": self.settings.backbone, "suppression": suppression, "delta": 0.55,
                 "drs_layers": list(range(16))}
        names = self.dataset.class_names
        network, _ = build_network("classifier", parts, names)
        return Checkpoint("classifier", names, parts, {"image_size": self.settings.image_size}, network.state_dict())

    def items_for(self, checkpoint: Any) -> list:
        """The images, with their tags mapped to the checkpoint's classes by number."""
        ours = self.dataset.class_names
        theirs = checkpoint.class_names
        return [replace(item, tags=tuple(sorted(
            (theirs[ours.index(tag)] for tag in item.tags), key=theirs.index))) for item in self.dataset.items]

    # --- measuring --------------------------------------------------------------------------------

    def clock(self) -> float:
        """Current time in seconds, after all work of the device is done."""
        if "torch" in sys.modules and self.device.type == "cuda":
            import torch

            torch.cuda.synchronize(self.device)
        return time.process_time() if self.settings.clock == "cpu" else time.perf_counter()

    def alternate(self, contenders: dict[str, Callable[[], Any]], units: int) -> dict[str, list[float]]:
        """Seconds per unit of each contender, measured in turns after a warm-up turn."""
        def timed(work: Callable[[], Any]) -> float:
            start = self.clock()
            work()
            return (self.clock() - start) / units

        return self.turns({name: partial(timed, work) for name, work in contenders.items()})

    def turns(self, contenders: dict[str, Callable[[], float]]) -> dict[str, list[float]]:
        """Times that the contenders report, in turns after a warm-up turn."""
        times: dict[str, list[float]] = {name: [] for name in contenders}
        for turn in range(self.settings.rounds + 1):
            for name, work in contenders.items():
                seconds = work()
                if turn:
                    times[name].append(seconds)
        return times

    def steps(self, name: str, contenders: dict[str, Callable[[int], Any]], **told: Any) -> Result:
        """Time training steps; each contender is called with their number."""
        count = self.settings.steps
        times = self.alternate({key: (lambda work=work: work(count)) for key, work in contenders.items()}, count)
        return Result(name, "step", times, {"batch_size": self.settings.batch_size, **told})


# --- the comparisons ------------------------------------------------------------------------------


def cam(bench: Bench) -> Result:
    """``cam`` as in the command, including reading and writing, versus one image at a time."""
    from drstool.formats import Header, open_records, open_sink
    from drstool.inference import Execution
    from drstool.recipe import CamSettings
    from drstool.stages.cam import cam as stage

    checkpoint = bench.classifier()
    items = bench.items_for(checkpoint)
    settings = CamSettings(image_size=bench.settings.image_size)
    precision = bench.settings.precision
    if precision == "auto":
        precision = "float16" if bench.device.type == "cuda" else "float32"

    def drstool(name: str = "cams.h5", **changed: Any) -> None:
        records = stage(
            items, checkpoint, replace(settings, **changed),
            execution=Execution(bench.device, precision, workers=bench.settings.workers))
        header = Header("localization-maps", checkpoint.class_names)
        path = str(bench.settings.folder / name)
        with open_sink(path, header, overwrite=True, threads=bench.settings.workers) as sink:
            sink.write_all(records)

    contenders = {"drstool": drstool, "one at a time": lambda: drstool("single.h5", batch_size=1)}
    told: dict[str, Any] = {"images": len(items), "precision": precision}
    if bench.settings.against:
        del contenders["one at a time"]
        network, folder = bench.authors_network().eval(), bench.settings.folder / "npy"
        folder.mkdir(exist_ok=True)
        contenders["authors"] = lambda: authors_maps(bench, network, items, checkpoint.class_names, folder)
    times = bench.alternate(contenders, len(items))
    if bench.settings.against:
        with open_records(bench.settings.folder / "cams.h5") as source:
            told |= difference(source.records(), folder)
    return Result("cam", "image", times, told)


def light(bench: Bench) -> Result:
    """A step of training, and the maps, of a MobileNetV2 with frozen batch norm at output stride 16, as drstool
    computes them and as PyTorch does by default.
    """
    import copy

    import torch

    from drstool.inference import Execution, fused_maps, localization_map
    from drstool.models.deeplab import build_segmenter
    from drstool.stages import train_cls as stage

    torch.manual_seed(0)
    backbone = build_segmenter("mobilenet_v2", 2, 16)[0].backbone
    network = torch.nn.Sequential(
        backbone.low, backbone.high, torch.nn.Conv2d(backbone.high_channels, AUTHORS_CLASSES, 1)).to(bench.device)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.train = lambda mode=True, module=module: module  # stays in evaluation mode
            module.requires_grad_(False).training = False
    image, size = picture(bench), bench.settings.image_size
    batch = torch.stack([image] * bench.settings.batch_size)

    def steps(how: Callable) -> Callable[[], Any]:
        model = copy.deepcopy(network)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-9)
        work = how(bench, model, stage._loss, optimizer, image, torch.ones(AUTHORS_CLASSES))
        return lambda: work(1)

    def maps(model: Any, execution: Execution) -> Callable[[], Any]:
        from drstool.inference import normalize

        def work() -> None:
            with execution.computing():
                fused_maps(
                    lambda seen, _: model(seen), normalize(batch.to(bench.device)), [[0, 1]] * len(batch),
                    localization_map, [(size, size)] * len(batch),
                    sizes=[round(scale * size) for scale in (0.8, 1, 1.2)])

        return work

    plainly = Execution(bench.device, winograd=False)
    contenders = {
        "step": steps(trained), "step, eager float32": steps(plain),
        "maps": maps(plainly.prepared(copy.deepcopy(network).eval()), plainly),
        "maps, eager float32": maps(copy.deepcopy(network).eval(), plainly)}
    result = Result("light", "batch", bench.alternate(contenders, 1), {"batch_size": bench.settings.batch_size})
    for name in ("step", "maps"):
        pairs = zip(result.times[name], result.times[f"{name}, eager float32"])
        result.told[f"speedup_of_{name}"] = statistics.median(slow / fast for fast, slow in pairs)
    return result


def authors_maps(bench: Bench, network: Any, items: list, class_names: tuple[str, ...], folder: Path) -> None:
    """The loop of the authors' script: one image at a time, with gradients, storing all classes."""
    import numpy as np
    import torch
    from torch.nn import functional as F

    side = bench.settings.image_size
    pictures = AuthorsPictures(items, class_names, side)
    workers = 2 if bench.device.type == "cuda" else 0
    for image, tags, name in torch.utils.data.DataLoader(pictures, num_workers=workers):
        tags, image = tags.to(bench.device), image.to(bench.device)
        maps = np.zeros((AUTHORS_CLASSES, side, side), dtype=np.float32)
        for scale in (0.8, 1.0, 1.2):
            size = (round(scale * side),) * 2
            seen = F.interpolate(image, size=size, mode="bilinear", align_corners=False)
            _, found = network(seen, tags, size=(side, side))
            maps = np.maximum(maps, found[0].detach().cpu().numpy())
        np.save(folder / (name[0].replace("/", "_") + ".npy"), np.uint8(maps * 255))


class AuthorsPictures:
    """Images and tags as in the authors' loader, without the ground truth that it also reads."""

    def __init__(self, items: list, class_names: tuple[str, ...], side: int) -> None:
        self._items, self._names, self._side = items, class_names, side

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> tuple:
        import torch
        from PIL import Image
        from torchvision.transforms import functional as tv

        from drstool.recipe import NORMALIZE_MEAN, NORMALIZE_STD

        item = self._items[index]
        image = Image.open(item.image).convert("RGB").resize((self._side, self._side), Image.Resampling.BILINEAR)
        tags = torch.zeros(AUTHORS_CLASSES)
        tags[[self._names.index(tag) for tag in item.tags]] = 1
        return tv.normalize(tv.to_tensor(image), NORMALIZE_MEAN, NORMALIZE_STD), tags, item.id


def difference(records: Iterator, folder: Path) -> dict[str, Any]:
    """Difference between our maps and the authors' in steps of 1/255; theirs are rounded down, ours to the nearest."""
    import numpy as np

    most, pixels, other = 0, 0, 0
    for record in records:
        theirs = np.load(folder / (record.id.replace("/", "_") + ".npy"))
        steps = np.abs(record.values.astype(int) - theirs[[label - 1 for label in record.labels]])
        most, pixels, other = max(most, int(steps.max())), pixels + steps.size, other + int((steps > 1).sum())
    return {"largest_difference_in_255ths": most, "share_beyond_rounding": other / pixels}


class Repeated:
    """Training samples that cost nothing: the tensors of one image, repeated."""

    def __init__(self, count: int, *tensors: Any) -> None:
        self._count, self._tensors = count, tensors

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, key: tuple[int, int]) -> tuple:
        return (self.id_of(key[1]), *self._tensors)

    def id_of(self, index: int) -> str:
        return str(index)


def trained(bench: Bench, network: Any, loss: Callable, optimizer: Any, *tensors: Any) -> Callable[[int], None]:
    """Steps as drstool's training loop does them."""
    from drstool.training.device import pick_precision
    from drstool.training.loop import RunConfig, fit
    from drstool.training.schedule import Plan

    config = RunConfig(device=bench.device, precision=pick_precision(bench.settings.precision, bench.device))

    def work(count: int) -> None:
        batch = bench.settings.batch_size
        fit(network, loss, Repeated(count * batch, *tensors), optimizer, lambda step, epoch: 1.0,
            Plan(count * batch, 1, batch, 0, steps=count), config)

    return work


def plain(bench: Bench, network: Any, loss: Callable, optimizer: Any, *tensors: Any) -> Callable[[int], None]:
    """The same steps in eager float32, in PyTorch's default memory format."""
    import torch

    network = network.to(bench.device).train()
    batch = [torch.stack([tensor] * bench.settings.batch_size) for tensor in tensors]

    def work(count: int) -> None:
        for _ in range(count):
            value = loss(network, [tensor.to(bench.device) for tensor in batch])
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            value.item()

    return work


def classifier_steps(bench: Bench, suppression: str, how: Callable) -> Callable[[int], None]:
    """Steps of ``train-cls`` on one image."""
    import torch

    parts = classifier_parts(bench, suppression, [f"class {i}" for i in range(AUTHORS_CLASSES)])
    return how(bench, *parts, picture(bench), torch.ones(AUTHORS_CLASSES))


def classifier_parts(bench: Bench, suppression: str, class_names: Sequence[str]) -> tuple[Any, Callable, Any]:
    """Network, loss and optimizer, with a tiny learning rate so that nothing diverges."""
    import torch

    from drstool.models.build import build_network
    from drstool.recipe import ClassifierRecipe
    from drstool.stages import train_cls as stage
    from drstool.training.optimizer import build_optimizer

    torch.manual_seed(0)
    recipe = ClassifierRecipe(backbone=bench.settings.backbone, lr=1e-9)
    parts = {"backbone": recipe.backbone, "suppression": suppression, "delta": 0.55, "drs_layers": list(range(16))}
    network, _ = build_network("classifier", parts, class_names)
    network.to(bench.device)
    return network, stage._loss, build_optimizer(
        stage.parameter_groups(network, recipe), recipe, nesterov=True)


def picture(bench: Bench) -> Any:
    """The first image as a training crop, (3, S, S) uint8."""
    from drstool.data.decoding import load_pil
    from drstool.data.transforms import image_tensor, warp

    return image_tensor(warp(load_pil(bench.dataset.items[0].image), bench.settings.image_size)).contiguous()


def authors_steps(bench: Bench) -> Callable[[int], None]:
    """Steps of the authors' classifier as in their script: float32, DataParallel on one GPU, four parameter groups."""
    import torch
    from torch.nn import functional as F

    network = bench.authors_network().train()
    groups = network.get_parameter_groups()
    optimizer = torch.optim.SGD(
        [{"params": group, "lr": 1e-9 * factor} for group, factor in zip(groups, (1, 2, 10, 20))],
        momentum=0.9, weight_decay=5e-4, nesterov=True)
    image = picture(bench).float() / 255

    def loss(network: Any, batch: list) -> Any:
        return F.multilabel_soft_margin_loss(network(batch[0]), batch[1])

    return plain(bench, network, loss, optimizer, image, torch.ones(AUTHORS_CLASSES))


def train_cls(bench: Bench) -> Result:
    """A step of ``train-cls`` versus the authors' or eager float32, and versus the matrix-product peak."""
    contenders = {"drstool": classifier_steps(bench, "learnable", trained)}
    if bench.settings.against:
        contenders["authors"] = authors_steps(bench)
    else:
        contenders["eager float32"] = classifier_steps(bench, "learnable", plain)
    result = bench.steps("train-cls", contenders)
    flops, ceiling = flops_a_step(bench), matrix_ceiling(bench)
    speed = flops / statistics.median(result.times["drstool"])
    result.told |= {"gflop_a_step": flops / 1e9, "gflops": speed / 1e9, "matrix_gflops": ceiling / 1e9,
                    "share_of_ceiling": speed / ceiling}
    return result


def flops_a_step(bench: Bench) -> int:
    """FLOPs of the convolutions in a step of ``train-cls``, forward and backward, counted without computing them."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from drstool.models.build import build_network

    parts = {"backbone": bench.settings.backbone, "suppression": "none", "delta": 0.55, "drs_layers": []}
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        network, _ = build_network("classifier", parts, [f"class {i}" for i in range(AUTHORS_CLASSES)])
        network(torch.zeros(1, 3, bench.settings.image_size, bench.settings.image_size)).sum().backward()
    return counter.get_total_flops() * bench.settings.batch_size


def matrix_ceiling(bench: Bench) -> float:
    """FLOP/s of a large matrix product in the precision that training uses."""
    import torch

    from drstool.training.device import pick_precision

    precision = getattr(torch, pick_precision(bench.settings.precision, bench.device))
    side, turns = (8192, 20) if bench.device.type == "cuda" else (1024, 3)
    factor = torch.randn(side, side, device=bench.device, dtype=precision)
    seconds = []
    for _ in range(bench.settings.rounds + 1):
        start = bench.clock()
        for _ in range(turns):
            factor @ factor
        seconds.append((bench.clock() - start) / turns)
    return 2 * side**3 / min(seconds)


def busy(bench: Bench) -> Result:
    """Steps of ``train-cls`` with and without reading images: the fraction of time not spent waiting for data.

    Timed from the first batch on, because the start of a training hardly matters; use a few hundred --steps.
    """
    from drstool.data.transforms import ClassifierSamples
    from drstool.recipe import ClassifierRecipe

    recipe = ClassifierRecipe(image_size=bench.settings.image_size, backbone=bench.settings.backbone)
    pictures = ClassifierSamples(bench.dataset, bench.dataset.class_names, recipe, 0)
    _, image, tags = pictures[0, 0]
    readers = bench.settings.workers if bench.device.type == "cuda" else 0
    contenders = {
        "reading": steady_steps(bench, pictures, readers),
        "not reading": steady_steps(bench, Repeated(len(pictures), image, tags), 0)}
    times = bench.turns(contenders)
    median = {name: statistics.median(values) for name, values in times.items()}
    told = {"batch_size": bench.settings.batch_size, "readers": readers,
            "busy": median["not reading"] / median["reading"]}
    return Result("busy", "step", times, told)


def steady_steps(bench: Bench, samples: Any, readers: int) -> Callable[[], float]:
    """Seconds a step of a training of these samples, from when the first batch is there."""
    from drstool.training.device import pick_precision
    from drstool.training.loop import RunConfig, fit
    from drstool.training.reports import Observer
    from drstool.training.schedule import Plan

    network, loss, optimizer = classifier_parts(bench, "learnable", bench.dataset.class_names)
    count = bench.settings.steps
    began: list[float] = []

    class Watched(Observer):
        def track(self, steps: Any, total: int) -> Iterator:
            for batch in steps:
                if not began:
                    began.append(bench.clock())
                yield batch

    config = RunConfig(
        device=bench.device, precision=pick_precision(bench.settings.precision, bench.device), workers=readers,
        observer=Watched())

    def work() -> float:
        began.clear()
        fit(network, loss, samples, optimizer, lambda step, epoch: 1.0,
            Plan(len(samples), 1, bench.settings.batch_size, 0, steps=count), config)
        return (bench.clock() - began[0]) / count

    return work


def refine_train(bench: Bench) -> Result:
    """A step of ``refine-train`` versus the same network in eager float32."""
    import torch

    from drstool.models.network import build_refiner
    from drstool.stages import refine_train as stage

    image = picture(bench)
    target = torch.zeros(AUTHORS_CLASSES, *image.shape[1:], dtype=torch.uint8)
    contenders = {}
    for name, how in (("drstool", trained), ("eager float32", plain)):
        torch.manual_seed(0)
        network = build_refiner(bench.settings.backbone, AUTHORS_CLASSES).to(bench.device)
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-9)
        contenders[name] = how(bench, network, stage._loss, optimizer, image, target)
    return bench.steps("refine-train", contenders)


def train_seg(bench: Bench) -> Result:
    """A step of ``train-seg`` versus the same network in eager float32."""
    import torch

    from drstool.models.deeplab import build_segmenter
    from drstool.stages import train_seg as stage

    backbone = "vgg16-small" if bench.settings.backbone == "vgg16-small" else "resnet50"
    image = picture(bench)
    labels = torch.zeros(image.shape[1:], dtype=torch.int64)
    contenders = {}
    for name, how in (("drstool", trained), ("eager float32", plain)):
        torch.manual_seed(0)
        network, _ = build_segmenter(backbone, AUTHORS_CLASSES + 1, 16)
        network.to(bench.device)
        optimizer = torch.optim.SGD(network.parameters(), lr=1e-9, momentum=0.9)
        contenders[name] = how(bench, network, stage._loss, optimizer, image, labels)
    return bench.steps("train-seg", contenders, backbone=backbone)


def drs(bench: Bench) -> Result:
    """Cost of the 16 DRS modules: steps with and without them."""
    contenders = {name: classifier_steps(bench, name, trained) for name in ("learnable", "fixed", "none")}
    result = bench.steps("drs", contenders)
    median = {name: statistics.median(times) for name, times in result.times.items()}
    result.told |= {f"share_{name}": 1 - median["none"] / median[name] for name in ("learnable", "fixed")}
    return result


def memory(bench: Bench) -> Result:
    """Peak GPU memory in steps of ``train-cls``; empty without a GPU."""
    import torch

    makers = {"drstool": lambda: classifier_steps(bench, "learnable", trained)}
    if bench.settings.against:
        makers["authors"] = lambda: authors_steps(bench)
    else:
        makers["eager float32"] = lambda: classifier_steps(bench, "learnable", plain)
    if bench.device.type != "cuda":
        return Result("memory", "step", {}, {"gpu_bytes": None})
    peaks, times = {}, {}
    for name, make in makers.items():
        work = make()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(bench.device)
        start = bench.clock()
        work(bench.settings.steps)
        times[name] = [(bench.clock() - start) / bench.settings.steps]
        peaks[name] = torch.cuda.max_memory_allocated(bench.device)
        del work
    return Result("memory", "step", times, {"gpu_bytes": peaks})


def decoding(bench: Bench) -> Result:
    """Reading and augmenting training samples, and reading images for maps, on one core."""
    from drstool.data.transforms import ClassifierSamples
    from drstool.mapping import load_square
    from drstool.recipe import ClassifierRecipe

    dataset, side = bench.dataset, bench.settings.image_size
    samples = ClassifierSamples(dataset, dataset.class_names, ClassifierRecipe(image_size=side), 0)
    load = partial(load_square, side=side, class_names=dataset.class_names)
    times = bench.alternate({
        "train-cls sample": lambda: [samples[0, i] for i in range(len(dataset))],
        "cam picture": lambda: [load(item) for item in dataset.items]}, len(dataset))
    rates = {name: 1 / statistics.median(seconds) for name, seconds in times.items()}
    return Result("decoding", "image", times, {"images_per_second_and_core": rates})


def eval_(bench: Bench) -> Result:
    """``eval`` of label PNGs versus decoding the same files once with Pillow, in one thread and in several."""
    import numpy as np
    from PIL import Image

    from drstool.formats import Header, LabelRecord, open_records, open_sink
    from drstool.formats.label_png import read_label_png
    from drstool.stages.eval import evaluate

    dataset, folder = bench.dataset, bench.settings.folder / "labels"
    if not folder.exists():
        with open_sink(str(folder), Header("labels", dataset.class_names)) as sink:
            # Somewhat wrong, as predictions are.
            sink.write_all(LabelRecord(i, np.roll(read_label_png(p), (3, 5), (0, 1))) for i, p in bench.labels.items())
    files = [*bench.labels.values(), *(folder / f"{item.id}.png" for item in dataset.items)]

    def decode(paths: list[Path]) -> None:
        for path in paths:
            with Image.open(path) as image:
                np.asarray(image)

    workers, share = bench.settings.workers, 16
    shares = [files[k: k + share] for k in range(0, len(files), share)]

    def decode_in_threads() -> None:
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(decode, shares))

    def drstool(workers: int) -> None:
        with open_records(folder) as source:
            evaluate(source.lazy_records(), dataset, header=source.header, ids=source.ids(), workers=workers)

    times = bench.alternate({
        "drstool": lambda: drstool(workers), "one thread": lambda: drstool(1),
        "Pillow": lambda: decode(files), "Pillow in threads": decode_in_threads}, len(dataset))
    return Result("eval", "image", times, {"workers": bench.settings.workers})


def sweep(bench: Bench) -> Result:
    """A single evaluation of maps, versus sweeps of 256 values over the same maps."""
    from drstool.formats import Header, open_records, open_sink
    from drstool.metrics import GRIDS, swept_settings
    from drstool.recipe import CueSettings
    from drstool.stages import eval as stage

    dataset, path = bench.dataset, bench.settings.folder / "sweep.h5"
    if not path.exists():
        with open_sink(str(path), Header("localization-maps", dataset.class_names)) as sink:
            sink.write_all(likely_maps(bench))

    def scored(parameter: str | None) -> None:
        settings = swept_settings(CueSettings(), parameter or "constant")
        if parameter == "alpha":
            settings = replace(settings, background="constant")
        with open_records(path) as source:
            given = {"header": source.header, "ids": source.ids(), "workers": bench.settings.workers,
                     "scoring": stage.Scoring(settings)}
            if parameter is None:
                stage.evaluate(source.records(), dataset, **given)
            else:
                stage.sweep(source.records(), dataset, parameter, **given)

    contenders = {"one evaluation": lambda: scored(None)}
    contenders |= {f"sweep of {name}": (lambda name=name: scored(name)) for name in GRIDS}
    return Result("sweep", "image", bench.alternate(contenders, len(dataset)), {"workers": bench.settings.workers})


def likely_maps(bench: Bench) -> Iterator[Any]:
    """Maps like those of a network, square and soft, of the classes in the ground truth."""
    import numpy as np
    from PIL import Image
    from scipy.ndimage import gaussian_filter

    from drstool.formats import MapRecord
    from drstool.formats.label_png import read_label_png

    side = bench.settings.image_size
    for number, (identifier, path) in enumerate(bench.labels.items()):
        labels = read_label_png(path)
        square = np.asarray(Image.fromarray(labels).resize((side, side), Image.Resampling.NEAREST))
        present = tuple(int(label) for label in np.unique(labels) if 0 < label <= len(bench.dataset.class_names))
        noise = np.random.default_rng(number).random((len(present), side, side))
        soft = [0.7 * gaussian_filter(np.float32(square == label), side / 30) for label in present]
        values = np.uint8(255 * np.clip(np.reshape(soft, noise.shape) + 0.2 * noise, 0, 1))
        yield MapRecord(identifier, values, present, labels.shape)


def crf(bench: Bench, preset: str) -> Result:
    """The CRF on one image at a time, with one thread and several, versus pydensecrf if it is installed."""
    from concurrent.futures import ProcessPoolExecutor
    from contextlib import ExitStack
    from multiprocessing import get_context

    import torch

    from drstool.crf import DenseCRF, one_thread
    from drstool.parallel import map_items
    from drstool.recipe import CRF_PRESETS

    settings, several = CRF_PRESETS[preset], max(2, bench.settings.workers)
    images = [pixels_and_energies(bench, item) for item in bench.dataset.items]
    before = torch.get_num_threads()

    def smooth(given: tuple[Any, Any]) -> None:
        DenseCRF(given[0], settings)(given[1])

    def threads(number: int) -> None:
        torch.set_num_threads(number)
        for given in images:
            smooth(given)
        torch.set_num_threads(before)

    def workers() -> None:
        def work(given: tuple[Any, Any]) -> None:
            with one_thread():
                smooth(given)

        list(map_items(work, images, several))

    def on_gpu(mode: str) -> None:
        for image, energies in images:
            DenseCRF(image, replace(settings, mode=mode), bench.device)(energies)

    contenders: dict[str, Callable[[], Any]] = {"one thread": lambda: threads(1)}
    with ExitStack() as stack:
        if importlib.util.find_spec("pydensecrf") is not None:
            contenders["pydensecrf"] = lambda: [pydensecrf(*given, settings) for given in images]
        contenders |= {f"{several} threads": lambda: threads(several), f"{several} workers": workers}
        if "pydensecrf" in contenders:
            pool = stack.enter_context(ProcessPoolExecutor(several, get_context("spawn")))
            contenders[f"pydensecrf, {several} processes"] = lambda: list(
                pool.map(pydensecrf, *zip(*images), [settings] * len(images)))
        if bench.device.type == "cuda":
            contenders |= {f"{mode}, GPU": (lambda mode=mode: on_gpu(mode)) for mode in ("lattice", "exact")}
        times = bench.alternate(contenders, len(images))
    told = {"classes": [len(energies) for _, energies in images], "iterations": settings.iterations}
    return Result(f"crf-{preset}", "image", times, told)


def pixels_and_energies(bench: Bench, item: Any) -> tuple[Any, Any]:
    """An image and its energies, for the requested number of classes or those in the image plus background."""
    import numpy as np
    from scipy.ndimage import gaussian_filter

    from drstool.crf import probability_unary
    from drstool.data import load_image

    image = load_image(item.image)
    shape = (bench.settings.classes or 1 + len(item.tags), *image.shape[:2])
    random = np.random.default_rng(0)
    scores = gaussian_filter(random.standard_normal(shape), (0, 25, 25))
    raised = np.exp(2 * scores / scores.std() + 0.2 * random.standard_normal(shape))
    return image, probability_unary((raised / raised.sum(axis=0)).astype(np.float32))


def pydensecrf(image: Any, energies: Any, settings: Any) -> Any:
    """The same with pydensecrf2."""
    import numpy as np
    from pydensecrf.densecrf import DenseCRF2D

    model = DenseCRF2D(image.shape[1], image.shape[0], len(energies))
    model.setUnaryEnergy(np.ascontiguousarray(energies.reshape(len(energies), -1)))
    model.addPairwiseGaussian(sxy=settings.gaussian_sxy, compat=settings.gaussian_compat)
    model.addPairwiseBilateral(
        sxy=settings.bilateral_sxy, srgb=settings.bilateral_srgb, rgbim=np.ascontiguousarray(image),
        compat=settings.bilateral_compat)
    return np.array(model.inference(settings.iterations))


def imports(bench: Bench) -> Result:
    """Frequently typed commands as separate processes, versus a process that does nothing."""
    lines = {
        "--help": ["-m", "drstool", "--help"],
        "ids": ["-m", "drstool", "ids", "--data", bench.dataset.source, "--split", bench.settings.split or "train"],
        "info": ["-m", "drstool", "info", str(maps_file(bench, 2))],
        "python alone": ["-c", "pass"]}

    def run(line: list[str]) -> None:
        subprocess.run([sys.executable, *line], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)

    times: dict[str, list[float]] = {name: [] for name in lines}
    for turn in range(bench.settings.rounds + 1):
        for name, line in lines.items():
            before, start = _children(), time.perf_counter()
            run(line)
            wall = time.perf_counter() - start
            if turn:
                times[name].append(_children() - before if bench.settings.clock == "cpu" else wall)
    return Result("imports", "run", times)


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def maps_file(bench: Bench, count: int, side: int = 64, size: tuple[int, int] = (48, 64)) -> Path:
    """A map file with a number of images of one size (H, W), which all share one image file."""
    import numpy as np
    from PIL import Image

    from drstool.formats import Header, MapRecord, open_sink

    kind = f"{count}-{side}-{size[1]}x{size[0]}"
    path, image = (bench.settings.folder / f"{kind}{suffix}" for suffix in (".h5", ".jpg"))
    if not image.exists():
        Image.new("RGB", size[::-1], (90, 120, 150)).save(image)
    if path.exists():
        return path
    y, x = np.mgrid[:side, :side] / side
    values = np.uint8(255 * np.exp(-8 * ((x - 0.5) ** 2 + (y - 0.4) ** 2)))[None]
    with open_sink(str(path), Header("localization-maps", ("thing",)), threads=bench.settings.workers) as sink:
        sink.write_all(MapRecord(f"{i:06d}", values, (1,), size, str(image)) for i in range(count))
    return path


def bytes_(bench: Bench) -> Result:
    """Size of a map file versus the authors' arrays of all classes."""
    from drstool.formats import Header, open_sink
    from drstool.inference import Execution
    from drstool.recipe import CamSettings
    from drstool.stages.cam import cam as stage

    checkpoint = bench.classifier()
    items, side = bench.items_for(checkpoint), bench.settings.image_size
    path = bench.settings.folder / "bytes.h5"
    settings = CamSettings(image_size=side, sizes=(side,))
    start = bench.clock()
    with open_sink(str(path), Header("localization-maps", checkpoint.class_names), overwrite=True) as sink:
        execution = Execution(bench.device, workers=bench.settings.workers)
        sink.write_all(stage(items, checkpoint, settings, execution=execution))
    seconds = (bench.clock() - start) / len(items)
    authors = len(items) * (128 + AUTHORS_CLASSES * side * side)
    told = {"bytes": path.stat().st_size, "authors_bytes": authors, "smaller_by": authors / path.stat().st_size}
    return Result("bytes", "image", {"drstool": [seconds]}, told)


def writing(bench: Bench) -> Result:
    """Writing records to a map file, compressed by all threads and by one."""
    from drstool.formats import open_records, open_sink

    with open_records(maps_file(bench, bench.settings.many, 320, (375, 500))) as source:
        header, records = source.header, list(source.records())

    def write(threads: int) -> None:
        path = str(bench.settings.folder / "written.h5")
        with open_sink(path, header, overwrite=True, threads=threads) as sink:
            sink.write_all(records)

    times = bench.alternate(
        {"all threads": lambda: write(bench.settings.workers), "one thread": lambda: write(1)}, len(records))
    return Result("writing", "image", times, {"workers": bench.settings.workers})


# What a process of its own runs: one command, and its most memory in KiB.
_MEASURED = """
import resource, sys
from drstool.cli.commands import register
register()
from drstool.cli.app import app
try:
    app(sys.argv[1:])
except SystemExit as end:
    assert not end.code, end.code
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


# Enough that start-up hardly matters.
_PHOTOGRAPHS = 300


def scaling(bench: Bench) -> Result:
    """``pseudo-label`` and ``overlay`` on photo-sized images with all cores and with one, including start-up.

    Also measures their memory for few and for many small images.
    """
    many = bench.settings.many
    few, photographs = max(2, many // 100), min(max(2, many // 2), _PHOTOGRAPHS)
    times: dict[str, list[float]] = {}
    peaks: dict[str, dict[str, int]] = {}

    def measured(command: str, maps: Path, workers: int) -> tuple[float, int]:
        out = str(bench.settings.folder / f"{command}-of-{maps.stem}")
        line = {
            "pseudo-label": ["pseudo-label", str(maps), "--background", "constant", "-o", out],
            "overlay": ["overlay", "--maps", str(maps), "-o", out]}[command]
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", _MEASURED, *line, "--workers", str(workers), "--overwrite", "-q"],
            cwd=ROOT, check=True, stdout=subprocess.PIPE)
        return time.perf_counter() - start, int(done.stdout.split()[-1])

    for command in ("pseudo-label", "overlay"):
        for _ in range(bench.settings.rounds):
            for workers in (bench.settings.workers, 1):
                seconds, _ = measured(command, maps_file(bench, photographs, 320, (375, 500)), workers)
                name = f"{command}, {'all threads' if workers > 1 else 'one thread'}"
                times.setdefault(name, []).append(seconds / photographs)
        for count in (few, many):
            peak = measured(command, maps_file(bench, count), bench.settings.workers)[1]
            peaks.setdefault(command, {})[f"{count} small images"] = peak
    return Result("scaling", "image", times, {"peak_memory_kib": peaks, "workers": bench.settings.workers})


BENCHMARKS: dict[str, Callable[[Bench], Result]] = {
    "cam": cam, "light": light, "train-cls": train_cls, "refine-train": refine_train, "train-seg": train_seg,
    "drs": drs, "memory": memory, "busy": busy, "decoding": decoding, "eval": eval_, "sweep": sweep,
    **{f"crf-{preset}": partial(crf, preset=preset) for preset in ("irn", "deeplab", "psa")},
    "imports": imports, "bytes": bytes_, "writing": writing, "scaling": scaling}


# --- telling --------------------------------------------------------------------------------------


def machine(bench: Bench) -> dict[str, Any]:
    """A description of the machine."""
    import numpy
    import torch

    cuda = bench.device.type == "cuda"
    return {
        "processor": platform.processor() or platform.machine(), "cores": bench.settings.workers,
        "threads": torch.get_num_threads(), "python": platform.python_version(), "torch": torch.__version__,
        "numpy": numpy.__version__, "gpu": torch.cuda.get_device_name(bench.device) if cuda else None,
        "clock": bench.settings.clock, "pictures": "given" if bench.settings.data else "drawn",
        "image_size": bench.settings.image_size, "backbone": bench.settings.backbone, "rounds": bench.settings.rounds}


def table(told: dict[str, Any]) -> str:
    """The results as an aligned table."""
    out = io.StringIO()
    for key, value in told["machine"].items():
        print(f"{key:<12} {value}", file=out)
    for result in told["results"]:
        print(file=out)
        for name, median in result["median"].items():
            ratio = f"{result['speedup'][name]:8.2f} x the first" if name in result["speedup"] else ""
            print(f"{result['name']:<14} {name:<28} {1e3 * median:10.2f} ms/{result['unit']:<6} {ratio}", file=out)
        known = ("name", "unit", "seconds", "median", "speedup")
        for key, value in result.items():
            if key not in known:
                print(f"{result['name']:<14} {key}: {value}", file=out)
    return out.getvalue()


def measure(settings: Settings, names: list[str]) -> dict[str, Any]:
    """Run the named comparisons; their results as plain values."""
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(replace(settings, folder=Path(folder)))
        results = []
        for name in names:
            print(f"{name} ...", file=sys.stderr, flush=True)
            results.append(BENCHMARKS[name](bench).to_json() | {"name": name})
        return {"machine": machine(bench), "results": results}


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="dataset with ground truth, such as a VOC folder; default: drawn images")
    parser.add_argument("--split", help="split of the dataset; default: train")
    parser.add_argument("--against", metavar="DIR", help="checkout of qjadud1994/DRS, to benchmark its code too")
    parser.add_argument("--weights", help="checkpoint of theirs to use on both sides; default: random weights")
    parser.add_argument("--only", action="append", choices=list(BENCHMARKS), help="comparison to run; can be repeated")
    parser.add_argument("--json", metavar="FILE", help="file for the results; default: stdout, after the table")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto", choices=("auto", "float32", "bfloat16"))
    parser.add_argument("--backbone", default="vgg16", choices=("vgg16", "vgg16-small"))
    parser.add_argument("--clock", default="wall", choices=("wall", "cpu"))
    for flag, default, told in (
        ("image-size", 320, "image side in pixels"), ("images", 16, "image count"), ("batch-size", 3, "batch size"),
        ("rounds", 3, "measured turns per contender"), ("steps", 3, "training steps per turn"),
        ("threads", 0, "torch threads; 0: torch's default"), ("workers", 0, "reader and writer threads; 0: all cores"),
        ("classes", 0, "CRF classes; 0: those in each image"), ("many", 400, "small images for memory and writing"),
    ):
        parser.add_argument(f"--{flag}", type=int, default=default, help=f"{told}; default: {default}")
    given = vars(parser.parse_args(arguments))
    names, target = given.pop("only") or list(BENCHMARKS), given.pop("json")
    if given["backbone"] != "vgg16" and given["against"]:
        parser.error("the authors' code has vgg16 only")
    told = measure(Settings(**given), names)
    print(table(told))
    text = json.dumps(told, indent=1) + "\n"
    if target:
        Path(target).write_text(text)
    else:
        print(text, end="")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
