#!/bin/sh
# The ensemble of simulated networks in twelve parts; the one that ends last learns from all. A part
# that is cut off goes on where it was saved last.
#   sbatch deploy/slurm/atlas.sh /shared/folder/atlas
#SBATCH --job-name=atlas
#SBATCH --array=0-11
#SBATCH --cpus-per-task=2
#SBATCH --mem=8G
#SBATCH --time=02:00:00
#SBATCH --requeue
exec regimed atlas --out "$1" --shard "$SLURM_ARRAY_TASK_ID/12"
