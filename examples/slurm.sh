#!/bin/bash
# Trains a classifier on all GPUs of several nodes; then makes maps and pseudo labels of a large dataset in a Slurm
# job array, with one GPU per task, and merges the shards.
#
#   sbatch --nodes=2 --gpus-per-node=4 --cpus-per-task=32 --mem=128G examples/slurm.sh train
#   sbatch --array=1-8 examples/slurm.sh            each task processes an eighth of the images
#   sh examples/slurm.sh merge 8                    afterwards: merges the shards into one file and one folder
#
# A training that hit the time limit resumes when it is submitted again.
#
# Set DATA, SPLIT and WEIGHTS to change the defaults. Shards differ in size by at most one batch, and a failed shard
# can be rerun by itself: sbatch --array=3 --export=ALL,SHARDS=8 examples/slurm.sh
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
    # One launcher per node, which starts one process per GPU.
    srun --ntasks-per-node=1 torchrun --nnodes "$SLURM_JOB_NUM_NODES" --nproc-per-node "$SLURM_GPUS_ON_NODE" \
        --rdzv-backend c10d --rdzv-id "$SLURM_JOB_ID" --rdzv-endpoint "$first:29500" \
        -m drstool train-cls --data "$DATA" --split "$SPLIT" --recipe paper --batch-size 40 --lr 0.008 --resume \
        -o "$WEIGHTS"
    exit
fi

if [ "${1:-}" = merge ]; then
    shards=$2
    # The order of the files does not matter; a missing shard is an error.
    drstool cat $(seq -f "cams.%g-of-$shards.h5" 1 "$shards") -o cams.h5
    drstool cat $(seq -f "labels.%g-of-$shards" 1 "$shards") -o labels
    exit
fi

shards=${SHARDS:-$SLURM_ARRAY_TASK_COUNT}
shard=$SLURM_ARRAY_TASK_ID-of-$shards
drstool cam --data "$DATA" --split "$SPLIT" --weights "$WEIGHTS" --shard "$SLURM_ARRAY_TASK_ID/$shards" \
    --overwrite -o "cams.$shard.h5"
drstool pseudo-label "cams.$shard.h5" --saliency "$DATA/saliency_map" --overwrite -o "labels.$shard"
