#!/usr/bin/env bash
# For one to eight GPUs: the track slice and LoRA instead of all weights, and a public causal student to begin with.
#   STUDENT=self_forcing_dmd.pt FUN=Wan2.1-Fun-1.3B-Control OPENVID=OpenVid SYNTHETIC=wan-videos GPUS=1 \
#     runs/affordable.sh
set -euo pipefail
GPUS=${GPUS:-1} RECIPE=${RECIPE:-wan2.1-1.3b-lora} exec "$(dirname "$0")/wan2.1-1.3b.sh"
