#!/bin/sh
# Takes the maps of two methods through the same cues: labels, their scores with confidence intervals, and a figure.
# Usage: sh examples/compare-methods.sh DATA NAME=MAPS NAME=MAPS
#
# DATA is a dataset with masks; MAPS a map file of drstool's, or another project's folder or file of maps, which
# 'drstool import' reads. The difference is of the second from the first.
# Settings, as environment variables:
#   SPLIT   whose images are scored (default: train)
#   CUES    options of 'drstool pseudo-label' for both (default: --background constant --constant 0.3)
#   ROWS    rows of the figure, as --pick of 'drstool overlay' (default: even:4)
#   FIGURE  name of the figure, with the ending of its kind (default: figure.pdf)
#   FOLDER  where everything goes (default: compared)
# What is done already is kept: an interrupted comparison continues when the same line is run again.
set -eu
if [ $# -ne 3 ]; then
    echo "usage: sh $0 DATA NAME=MAPS NAME=MAPS" >&2
    exit 2
fi
data=$1
shift
work=${FOLDER:-compared}
split=${SPLIT:-train}
cues=${CUES:---background constant --constant 0.3}
figure=$work/${FIGURE:-figure.pdf}
first=${1%%=*} second=${2%%=*}
for named in "$@"; do
    case $named in
        [!=]*=?*) ;;
        *) echo "'$named' is not NAME=MAPS" >&2 && exit 2 ;;
    esac
done
[ "$first" != "$second" ] || { echo "both methods are called '$first'" >&2 && exit 2; }
mkdir -p "$work"

columns=image,target
for named in "$@"; do
    name=${named%%=*} maps=${named#*=}
    # A folder is another project's; so is a file, unless drstool knows what is in it.
    if [ -d "$maps" ] || ! drstool info "$maps" > /dev/null 2>&1; then
        [ -e "$work/$name.h5" ] || drstool import "$maps" --data "$data" --split "$split" --intersect -o "$work/$name.h5"
        maps=$work/$name.h5
    fi
    drstool pseudo-label "$maps" $cues --resume -o "$work/labels-$name"
    columns="$columns,$name maps=$maps,$name=$work/labels-$name"
done

# Only images that both have are scored and shown.
ids() { (cd "$work/labels-$1" && find . -name '*.png' | sed 's,^\./\(.*\)\.png$,"id": "\1"\,,' | sort); }
ids "$first" > "$work/ids.txt"
ids "$second" | comm -12 "$work/ids.txt" - > "$work/both.txt"
# With whole paths, as paths in a list start at its folder.
case $data in /*) ;; *) data=$PWD/$data ;; esac
drstool ids --data "$data" --split "$split" > "$work/all.jsonl"
grep -F -f "$work/both.txt" "$work/all.jsonl" > "$work/both.jsonl" || { echo "no image has labels of both" >&2 && exit 1; }
echo "images with labels of both: $(wc -l < "$work/both.jsonl") of $(wc -l < "$work/all.jsonl")" >&2
rm "$work/ids.txt" "$work/both.txt" "$work/all.jsonl"

echo
set -- --data "$work/both.jsonl"
drstool eval "$work/labels-$first" "$work/labels-$second" "$@" --ignored skip > "$work/scores.txt"
cat "$work/scores.txt"
drstool overlay --figure "$figure" "$@" --pick "${ROWS:-even:4}" --score --columns "$columns" --overwrite
