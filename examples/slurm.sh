#!/bin/bash
# Maps and pseudo labels of a large dataset by a Slurm job array, one GPU a task, then one file of all parts.
#
#   sbatch --array=1-8 examples/slurm.sh            each task works on its eighth of the images
#   sh examples/slurm.sh merge 8                    afterwards: the parts into one file and one folder
#
# DATA, SPLIT and WEIGHTS may be set; the parts are as long as each other but for a batch, and a part that failed
# can be run again alone: sbatch --array=3 --export=ALL,PARTS=8 examples/slurm.sh
#SBATCH --gpus=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --time=02:00:00
set -eu

DATA=${DATA:-VOC2012}
SPLIT=${SPLIT:-train}
WEIGHTS=${WEIGHTS:-cls.pt}

if [ "${1:-}" = merge ]; then
    parts=$2
    # The order of the names does not matter; a part that is missing is an error.
    drstool cat $(seq -f "cams.%g-of-$parts.h5" 1 "$parts") -o cams.h5
    drstool cat $(seq -f "labels.%g-of-$parts" 1 "$parts") -o labels
    exit
fi

parts=${PARTS:-$SLURM_ARRAY_TASK_COUNT}
part=$SLURM_ARRAY_TASK_ID-of-$parts
drstool cam --data "$DATA" --split "$SPLIT" --weights "$WEIGHTS" --shard "$SLURM_ARRAY_TASK_ID/$parts" \
    --overwrite -o "cams.$part.h5"
drstool pseudo-label "cams.$part.h5" --saliency "$DATA/saliency_map" --overwrite -o "labels.$part"
