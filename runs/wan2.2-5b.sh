#!/usr/bin/env bash
# The paper's large model, 1280×704 at 24 fps: the same steps as for the 1.3B, with its own recipe and base.
#   FUN=Wan2.2-Fun-5B-Control OPENVID=OpenVid SYNTHETIC=wan22-videos GPUS=8 runs/wan2.2-5b.sh
set -euo pipefail
RECIPE=wan2.2-5b exec "$(dirname "$0")/wan2.1-1.3b.sh"
