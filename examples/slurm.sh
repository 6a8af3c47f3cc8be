#!/bin/bash
# A classifier trained on all GPUs of several machines; then maps and pseudo labels of a large dataset by a Slurm job
# array, one GPU a task, and one file of all parts.
#
#   sbatch --nodes=2 --gpus-per-node=4 --cpus-per-task=32 --mem=128G examples/slurm.sh train
#   sbatch --array=1-8 examples/slurm.sh            each task works on its eighth of the images
#   sh examples/slurm.sh merge 8                    afterwards: the parts into one file and one folder
#
# A training that the time limit cut off goes on when it is submitted again.
#
# DATA, SPLIT and WEIGHTS may be set; the parts are as long as each other but for a batch, and a part that failed
# can be run again alone: sbatch --array=3 --export=ALL,PARTS=8 examples/slurm.sh
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --time=02:00:00
#SBATCH --signal=TERM@120
set -eu

DATA=${DATA:-VOC2012}
SPLIT=${SPLIT:-train}
WEIGHTS=${WEIGHTS:-cls.pt}

if [ "${1:-}" = train ]; then
    first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
    # One launcher a machine, which starts a process for each of its GPUs.
    srun --ntasks-per-node=1 torchrun --nnodes "$SLURM_JOB_NUM_NODES" --nproc-per-node "$SLURM_GPUS_ON_NODE" \
        --rdzv-backend c10d --rdzv-id "$SLURM_JOB_ID" --rdzv-endpoint "$first:29500" \
        -m drstool train-cls --data "$DATA" --split "$SPLIT" --batch-size 64 --lr 0.02 --resume -o "$WEIGHTS"
    exit
fi

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
