#!/bin/bash
# A run on SLURM: sbatch --nodes=4 launch/cluster/slurm.sh --gin_file=... --mesh=... --model_dir=...
# What it needs stands in slurm.md.
#SBATCH --job-name=meshlang
#SBATCH --ntasks-per-node=1
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --output=%x-%j.out

# Tasks are numbered machine by machine. When one is lost the others find it gone and end as well.
srun --distribution=block --kill-on-bad-exit=0 \
  python -m launch.cluster slurm python -m launch.train "$@"
code=$?

# 75: stopped, or a machine was lost; above 128: a task was killed. Then it goes on from the last
# checkpoint; other codes are final.
again=0
if [ "$code" -eq 75 ] || [ "$code" -gt 128 ]; then again=1; fi
if [ "$again" -eq 1 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt "${MESHLANG_MAX_RESTARTS:-10}" ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
