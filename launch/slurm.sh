#!/bin/bash
# sbatch launch/slurm.sh my.yml --mesh dp=8,tp=2 --save /shared/runs/mine
#
# One task for each GPU, as jax's detection of Slurm expects; the flags of several processes are
# not needed. Submit from the project's folder, which all nodes share.
#SBATCH --job-name=jaxneox
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --time=24:00:00
# Slurm's own restarts: a job whose node fails, or that is preempted, is queued again, and its log
# goes on in the same file.
#SBATCH --requeue
#SBATCH --open-mode=append
# Two minutes before the end of its time each process gets SIGTERM: the run saves and ends with 0.
#SBATCH --signal=TERM@120

python=${PYTHON:-.venv/bin/python}

# --restarts starts a process again on its node, and the others with it; what a node itself cannot
# survive is Slurm's. --kill-on-bad-exit=0 lets the others speak their one line before they end.
srun --kill-on-bad-exit=0 "$python" train.py "$@" --restarts 3
status=$?

# 75: a process died or hung once too often. A new allocation may leave out the bad node.
if [ $status = 75 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt 5 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit $status
