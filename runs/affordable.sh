#!/usr/bin/env bash
# For one, two, four or eight GPUs of 80 GB: trains the track slice and LoRA, not all weights, and starts from a public
# causal student. See wan2.1-1.3b.sh for everything else.
#   STUDENT=self_forcing_dmd.pt FUN=Wan2.1-Fun-1.3B-Control OPENVID=OpenVid SYNTHETIC=wan-videos GPUS=1 \
#     runs/affordable.sh
set -euo pipefail
GPUS=${GPUS:-1} RECIPE=${RECIPE:-wan2.1-1.3b-lora} exec "$(dirname "$0")/wan2.1-1.3b.sh" "$@"
