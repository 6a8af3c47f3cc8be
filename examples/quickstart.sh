#!/bin/sh
# Runs the whole chain on the demo dataset, starting from nothing: environment, data, networks, labels, scores.
# Usage: sh examples/quickstart.sh [FOLDER]     (default: quickstart)
set -eu
here=$(pwd)
work=${1:-quickstart}
cd "$(dirname "$0")/.."
root=$(pwd)
. examples/environment.sh
make_environment "[figures]"
cd "$here"
if [ -e "$work" ]; then
    echo "$work exists; remove it, or choose another folder" >&2
    exit 1
fi
mkdir -p "$work"
cd "$work"

# Small networks and images, trained from scratch, need other settings than a pretrained VGG-16.
# First, a classifier is trained without suppression. It provides plain CAMs for comparison, and the network
# with suppression starts from it, as it would otherwise start from ImageNet weights: with suppression from
# the first step, a randomly initialised network learns too slowly for a demo. Suppression is applied at the
# last three of the 16 ReLU layers, because at all of them the network forgets what it has learned.
# The learning rate decays often, because the loss drops most right after each decay. Hue jitter is off,
# because the classes differ in the colours of their heads.
backbone="--backbone vgg16-small --image-size 128 --batch-size 5 --hue 0 --saturation 0.1 --decay-factor 0.5"
classifier="$backbone --resize-size 144 --optimizer adam --weight-decay 0 --bias-lr-factor 1 --schedule step"
classifier="$classifier --extra-init random --suppression-ramp 0 --min-steps 0"

drstool demo demo --val 60
data="--data demo --split train"

drstool train-cls $data $classifier --suppression none --init none --lr 0.001 --new-lr-factor 5 \
    --epochs 24 --decay-epochs 12,15,18,21,23 -o plain.pt
drstool train-cls $data $classifier --suppression fixed --delta 0.55 --drs-layers 14-16 --init plain.pt \
    --lr 0.0007 --new-lr-factor 3 --epochs 10 --decay-epochs 4,6,8,10 -o cls.pt
drstool cam $data --weights plain.pt -o cam.h5
drstool cam $data --weights cls.pt -o drs.h5
drstool refine-train $data --maps drs.h5 $backbone --init cls.pt --lr 0.001 --epochs 10 --decay-epochs 5,7,9 \
    -o refiner.pt
# uint8 clips the refiner's values at 1; larger ones would beat even a certain background.
drstool refine $data --weights refiner.pt --dtype uint8 -o refined.h5
drstool pseudo-label refined.h5 --saliency demo/saliency_map -o labels
drstool train-seg $data --labels labels --backbone vgg16-small --image-size 160 --init refiner.pt \
    --lr 0.05 --backbone-lr-factor 1 --batch-size 8 --epochs 5 --scale-min 0.75 --scale-max 1.5 -o seg.pt
drstool segment --data demo --split val --weights seg.pt -o pred

mkdir scores
for maps in cam drs refined; do
    drstool eval $maps.h5 $data --background constant --json > scores/$maps-plain.json
    drstool eval $maps.h5 $data --saliency demo/saliency_map --json > scores/$maps-saliency.json
done
drstool eval labels $data --ignored skip --json > scores/labels.json
drstool eval pred --data demo --split val --json > scores/pred.json
drstool overlay --data demo --split val --labels pred -o figures

drstool overlay --spec "$root/examples/contact_sheet.toml"
python "$root/examples/summary.py" scores
echo
echo "Contact sheet of all steps: $(pwd)/sheet.png"
