#!/bin/sh
# From WSSS-BED's files (clovaai/WSSS-BED, arXiv 2404.00918) to its labels, their scores, and the best pair of thresholds.
# Usage: sh examples/bed.sh DATA METHOD MAPS [SALIENCY…]
#
# DATA is a VOC folder or another dataset with tags and masks; METHOD one of cam, oaa, mcis, drs, edam, eps and l2g; MAPS
# a folder of the method's activation maps (ID_CLASS.png), such as VOC2012_DRS; each SALIENCY a folder of saliency maps
# (ID.png), such as VOC2012_VST_COCO20. eps and l2g were trained with saliency maps and are given none here.
# Settings, as environment variables:
#   SPLIT   whose images are labelled and scored (default: train)
#   ALPHA   threshold of the maps (default: that of WSSS-BED's script of the method)
#   FOLDER  where everything goes (default: bed/METHOD)
# What is done already is kept: an interrupted study continues when the same line is run again.
set -eu
if [ $# -lt 3 ]; then
    echo "usage: sh $0 DATA METHOD MAPS [SALIENCY…]" >&2
    exit 2
fi
data=$1 method=$2 maps=$3
shift 3
case $method in
    cam) alpha=0.1 ;;
    eps) alpha=0.2 ;;
    oaa | l2g) alpha=0.3 ;;
    drs | mcis | edam) alpha=0.5 ;;
    *) echo "'$method' is not one of cam, oaa, mcis, drs, edam, eps and l2g" >&2 && exit 2 ;;
esac
case $method in
    eps | l2g) [ $# -eq 0 ] || { echo "$method takes no saliency maps here" >&2 && exit 2; } ;;
    *) [ $# -gt 0 ] || { echo "$method needs a folder of saliency maps" >&2 && exit 2; } ;;
esac
alpha=${ALPHA:-$alpha}
work=${FOLDER:-bed/$method}
split=${SPLIT:-train}
mkdir -p "$work"

# The maps may be of more images than the split: WSSS-BED's are of all of trainaug.
[ -e "$work/maps.h5" ] || drstool import --from wsss-bed "$maps" --data "$data" --split "$split" --intersect \
    -o "$work/maps.h5"

# labelled NAME SWEEP OPTION…: labels by WSSS-BED's rule, their scores, and the scores at other thresholds
labelled() {
    name=$1 sweep=$2
    shift 2
    drstool pseudo-label "$work/maps.h5" "$@" $rule --resume -o "$work/labels-$name"
    echo
    echo "$method, $name: pseudo labels at alpha $alpha against the ground truth of $split"
    drstool eval "$work/labels-$name" --data "$data" --split "$split" --ignored skip > "$work/scores-$name.txt"
    cat "$work/scores-$name.txt"
    echo
    echo "$method, $name: maps at all thresholds"
    drstool eval "$work/maps.h5" "$@" --data "$data" --split "$split" --sweep "$sweep" > "$work/sweep-$name.txt"
    cat "$work/sweep-$name.txt"
}

if [ $# -eq 0 ]; then
    rule="--alpha 0 --constant $alpha --no-ignore"
    labelled none constant --background constant
fi
# 51 is 0.2 of 255, above which WSSS-BED calls a pixel salient; no number of confident cues is a conflict there.
rule="--alpha $alpha --saliency-threshold 51 --conflict 1"
for saliency in "$@"; do
    labelled "$(basename "$saliency")" alpha,saliency-threshold --saliency "$saliency"
done
