"""Draw images with their ground truth, maps and labels side by side, one row per image.

Example: python examples/contact_sheet.py --data demo --split train \\
             --maps cam.h5 drs.h5 refined.h5 --labels labels -o sheet.png

The picture in README was made in the folder of the quick start, with
--rows 5 --titles "plain CAM" "DRS maps" "refined maps" "pseudo labels".
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from drstool.cues import resize_maps
from drstool.data import load_image, load_target, open_dataset
from drstool.formats import open_records
from drstool.stages.overlay import blend_heat, blend_labels

TILE, GAP, HEAD = 160, 4, 22


def main() -> None:
    args = arguments()
    sources = [open_records(path) for path in args.maps]
    labels = open_records(args.labels) if args.labels else None
    names = sources[0].header.class_names
    items = open_dataset(args.data, args.split, class_names=names).items
    if args.ids:
        known = {item.id: item for item in items}
        unknown = [wanted for wanted in args.ids if wanted not in known]
        if unknown:
            raise SystemExit(f"images not in the split: {', '.join(unknown)}")
        items = [known[wanted] for wanted in args.ids]
    else:
        # Evenly spaced over the split, so that no row is cherry-picked.
        items = [items[i] for i in np.linspace(0, len(items) - 1, args.rows).astype(int)]
    # Of own photographs there may be none.
    truth = any(item.mask is not None for item in items)
    titles = ["image", *(["ground truth"] if truth else []), *(args.titles or [Path(path).stem for path in args.maps])]
    if labels and len(titles) < 2 + truth + len(args.maps):
        titles.append(Path(args.labels).name)
    rows = [list(pictures(item, sources, labels, truth)) for item in items]
    sheet(rows, titles).save(args.output, optimize=True, quality=82)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--split")
    parser.add_argument("--maps", nargs="+", required=True)
    parser.add_argument("--titles", nargs="+")
    parser.add_argument("--labels")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--ids", nargs="+")
    parser.add_argument("-o", "--output", required=True)
    return parser.parse_args()


def pictures(item, sources, labels, truth):
    """The pictures of one row, each ``(H, W, 3) uint8``."""
    image = load_image(item.image)
    yield image
    if truth:
        yield blend_labels(image, load_target(item), 0.75)
    for source in sources:
        record = source.read(item.id)
        heat = resize_maps(record.as_float(), image.shape[:2]).max(axis=0, initial=0)
        yield blend_heat(image, np.minimum(heat, 1), 0.75)
    if labels is not None:
        yield blend_labels(image, labels.read(item.id).labels, 0.75)


def sheet(rows, titles) -> Image.Image:
    """All pictures in a grid, with titles above the columns."""
    canvas = Image.new("RGB", (len(titles) * (TILE + GAP) - GAP, HEAD + len(rows) * (TILE + GAP) - GAP), "white")
    draw = ImageDraw.Draw(canvas)
    for column, title in enumerate(titles):
        draw.text(
            (column * (TILE + GAP) + TILE // 2, HEAD // 2),
            title,
            fill="black",
            anchor="mm",
            font=ImageFont.load_default(13),
        )
    for row, pictures_of_row in enumerate(rows):
        for column, picture in enumerate(pictures_of_row):
            tile = Image.fromarray(picture).resize((TILE, TILE), Image.Resampling.LANCZOS)
            canvas.paste(tile, (column * (TILE + GAP), HEAD + row * (TILE + GAP)))
    return canvas


if __name__ == "__main__":
    main()
