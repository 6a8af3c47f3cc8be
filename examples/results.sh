#!/bin/sh
# Measures what to expect of the recipes on a dataset, and writes a table: FOLDER/results.md.
# Usage: sh examples/results.sh DATA [FOLDER]        (default folder: results)
#
# DATA is a VOC folder with the splits train and val, tags, masks and saliency_map. The masks of train serve only to
# score. Settings, as environment variables:
#   RECIPES   (default: light)           SEEDS  (default: 0)
#   LISTS     splits or files of ids to train on (default: train)
#   SUPPRESSIONS  kinds of suppression to compare; what follows the maps continues from the first
#             (default: none fixed)
#   VGG16, MOBILENET_V2   files of ImageNet weights (default: imagenet, downloaded)
#   OPTIONS   more options for all trainings
# An interrupted measurement continues where it was: run the same line again.
set -eu
data=$1
work=${2:-results}
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$work"

# timed NAME COMMAND…: runs a step unless it is done, and notes its seconds
timed() {
    name=$1
    shift
    [ -e "$name.seconds" ] && return
    start=$(date +%s)
    "$@" --resume
    echo $(($(date +%s) - start)) > "$name.seconds"
}

# scores NAME FILE…: of maps, at the best threshold with saliency and without, and at a constant of 0.2
scores() {
    drstool eval "$2" --data "$data" --split "$list" --sweep alpha --background saliency --json > "$1-saliency.json"
    drstool eval "$2" --data "$data" --split "$list" --sweep constant --background constant --json > "$1-constant.json"
    drstool eval "$2" --data "$data" --split "$list" --background constant --json > "$1-coverage.json"
}

for recipe in ${RECIPES:-light}; do
    case $recipe in
        light) init=${MOBILENET_V2:-imagenet} drs="--drs-layers stage5" ;;
        *) init=${VGG16:-imagenet} drs= ;;
    esac
    for list in ${LISTS:-train}; do
        for seed in ${SEEDS:-0}; do
            run=$work/$recipe-$(basename "$list" .txt)-$seed
            mkdir -p "$run"
            common="--data $data --split $list --seed $seed -q"
            first=
            for kind in ${SUPPRESSIONS:-none fixed}; do
                timed "$run/train-$kind" drstool train-cls $common --recipe "$recipe" --init "$init" \
                    --suppression "$kind" $drs ${OPTIONS:-} --log "$run/$kind.jsonl" -o "$run/$kind.pt"
                timed "$run/cam-$kind" drstool cam $common --weights "$run/$kind.pt" -o "$run/$kind.h5"
                scores "$run/$kind" "$run/$kind.h5"
                first=${first:-$kind}
            done
            timed "$run/refine-train" drstool refine-train $common --recipe "$recipe" --maps "$run/$first.h5" \
                --init "$run/$first.pt" ${OPTIONS:-} -o "$run/refiner.pt"
            timed "$run/refine" drstool refine $common --weights "$run/refiner.pt" --dtype uint8 -o "$run/refined.h5"
            scores "$run/refined" "$run/refined.h5"
            for crf in none deeplab; do
                timed "$run/labels-$crf" drstool pseudo-label "$run/$first.h5" --saliency "$data/saliency_map" \
                    --crf "$crf" -q -o "$run/labels-$crf"
                drstool eval "$run/labels-$crf" --data "$data" --split "$list" --ignored skip --json \
                    > "$run/labels-$crf.json"
            done
            timed "$run/train-seg" drstool train-seg $common --recipe "$recipe" --labels "$run/labels-deeplab" \
                --init "$run/$first.pt" ${OPTIONS:-} -o "$run/seg.pt"
            timed "$run/segment" drstool segment --data "$data" --split val --weights "$run/seg.pt" -q -o "$run/pred"
            timed "$run/segment-ms" drstool segment --data "$data" --split val --weights "$run/seg.pt" -q \
                --scales 0.75,1,1.25,1.5 --flip -o "$run/pred-ms"
            for pred in pred pred-ms; do
                drstool eval "$run/$pred" --data "$data" --split val --json > "$run/$pred.json"
            done
        done
    done
done
python "$here/results.py" "$work" > "$work/results.md"
cat "$work/results.md"
