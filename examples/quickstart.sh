#!/bin/sh
# The whole chain on the demo dataset, from nothing: environment, data, networks, labels, scores.
# Usage: sh examples/quickstart.sh [FOLDER]     (default: quickstart)
set -eu
here=$(pwd)
work=${1:-quickstart}
cd "$(dirname "$0")/.."
root=$(pwd)
. examples/environment.sh
make_environment ""
cd "$here"
mkdir "$work" 2>/dev/null || { echo "$work exists; name another folder, or remove it" >&2; exit 1; }
cd "$work"

# A small network from scratch: its learning rates are not those of a pretrained VGG-16.
small="--backbone vgg16-small --image-size 176"
scratch="$small --resize-size 192 --init none --lr 0.01 --new-lr-factor 1 --bias-lr-factor 1 --batch-size 5"

drstool demo demo
data="--data demo --split train"

drstool train-cls $data $scratch --suppression none --epochs 8 --decay-epochs 6,8 -o plain.pt
drstool train-cls $data $scratch --suppression fixed --delta 0.55 --epochs 8 --decay-epochs 6,8 -o cls.pt
drstool cam $data --weights plain.pt -o cam.h5
drstool cam $data --weights cls.pt -o drs.h5
drstool refine-train $data --maps drs.h5 $small --init cls.pt --lr 0.001 --epochs 5 --decay-epochs 4,5 -o refiner.pt
drstool refine $data --weights refiner.pt -o refined.h5
drstool pseudo-label refined.h5 --saliency demo/saliency_map -o labels
drstool train-seg $data --labels labels $small --init refiner.pt --lr 0.05 --backbone-lr-factor 1 --batch-size 8 --epochs 6 -o seg.pt
drstool segment --data demo --split val --weights seg.pt -o pred

mkdir scores
for maps in cam drs refined; do
    drstool eval $maps.h5 $data --background constant --json > scores/$maps-plain.json
    drstool eval $maps.h5 $data --saliency demo/saliency_map --json > scores/$maps-saliency.json
done
drstool eval labels $data --ignored skip --json > scores/labels.json
drstool eval pred --data demo --split val --json > scores/pred.json
drstool overlay --data demo --split val --labels pred -o figures

python "$root/examples/contact_sheet.py" --data demo --split train --maps cam.h5 drs.h5 refined.h5 --labels labels -o sheet.png
python "$root/examples/summary.py" scores
echo
echo "Pictures, step by step: $(pwd)/sheet.png"
