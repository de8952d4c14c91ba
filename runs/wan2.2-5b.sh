#!/usr/bin/env bash
# The paper's large model, 1280×704 at 24 fps: the same steps as for the 1.3B, with its own recipe and base. By the dry
# run 8 GPUs of 80 GB hold it with 8 GiB to spare; NODES is 4 here for room and speed (NODES=1 takes 8 GPUs): see
# wan2.1-1.3b.sh.
#   FUN=Wan2.2-Fun-5B-Control OPENVID=OpenVid SYNTHETIC=wan22-videos ONLY=prepare runs/wan2.2-5b.sh
#   RENDEZVOUS=first-machine:29500 runs/wan2.2-5b.sh           # on every machine
#   SYNTHETIC=wan22-videos ONLY="tiny-decoder export" runs/wan2.2-5b.sh
set -euo pipefail
RECIPE=wan2.2-5b NODES=${NODES:-4} exec "$(dirname "$0")/wan2.1-1.3b.sh" "$@"
