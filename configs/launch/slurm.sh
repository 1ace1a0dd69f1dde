#!/bin/bash
# Training on several machines by Slurm:   sbatch slurm.sh runs/x models/llama3.1-8b.yaml tasks/redial.yaml ...
# First the run's folder, on a disk that all machines share, then the layers and overrides of `irpo train`. Where a run
# lies in the folder it goes on, so the same line serves again after the job's time was over or a machine failed.
# LAUNCH=fsdp2 sbatch ... takes another way of sharing the work (ddp, fsdp2, fsdp2_qlora, zero2, zero3, or a file).
#SBATCH --job-name=irpo
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
set -euo pipefail

out=${1:?first the folder of the run, then the layers and overrides of irpo train}
shift
set -- "$@" --out "$out"
if [ -s "$out/config.yaml" ]; then
    set -- "$@" --resume
fi

# One task a machine starts one process a GPU; where one of them dies srun ends the others.
each=${SLURM_GPUS_ON_NODE:-1}
config=$(python -c 'import sys; from irpo.launching import launch_file; print(launch_file(sys.argv[1]))' "${LAUNCH:-ddp}")
hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((${SLURM_CPUS_PER_TASK:-1} / each > 0 ? ${SLURM_CPUS_PER_TASK:-1} / each : 1))}
srun --kill-on-bad-exit=1 bash -c 'exec accelerate launch --machine_rank "$SLURM_NODEID" "$@"' irpo \
    --config_file "$config" --num_machines "$SLURM_NNODES" --num_processes "$((SLURM_NNODES * each))" \
    --main_process_ip "${hosts%%$'\n'*}" --main_process_port "$((20000 + SLURM_JOB_ID % 20000))" --same_network \
    -m irpo train "$@"
