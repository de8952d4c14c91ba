#!/usr/bin/env bash
# The paper's main model (appendix D), from checkpoints and videos on disk to a streaming student. The paper's training
# took four days on 32 A100s. This script trains on one machine; for several, start its stages with torchrun yourself.
#   FUN=Wan2.1-Fun-1.3B-Control OPENVID=OpenVid SYNTHETIC=wan-videos GPUS=8 runs/wan2.1-1.3b.sh
# None of this was ever run at full size: see docs/training.md. --dry-run prints what a stage would take.
set -euo pipefail
cd "$(dirname "$0")/.."
RECIPE=${RECIPE:-wan2.1-1.3b}
FOLDER=${FOLDER:-work/$RECIPE}
GPUS=${GPUS:-8}
BIN=${BIN:-.venv/bin}
: "${FUN:?the folder of VideoX-Fun\'s Control checkpoint}"
: "${OPENVID:?the folder of OpenVid-1M, video/ and OpenVid-1M.csv inside}"
: "${SYNTHETIC:?a folder of clean generated videos with captions beside them, made by: motionstream prepare --generate}"

# 1. the base: a partly initialised model with its autoencoder and encoders
[ -d "$FOLDER/base" ] || "$BIN/motionstream" convert motionstream "$FUN" "$FOLDER/base"

# 2. shards: 50×50 tracks (CoTracker3 needs its files; TRACKER=lucas-kanade does not), latents, text and image tokens
TRACKER=${TRACKER:-cotracker}
"$BIN/motionstream" prepare "$OPENVID/video" "$FOLDER/real" --csv "$OPENVID/OpenVid-1M.csv" --model "$FOLDER/base" \
  --tracker "$TRACKER" --workers "$GPUS"
"$BIN/motionstream" prepare "$SYNTHETIC" "$FOLDER/synthetic" --model "$FOLDER/base" --tracker "$TRACKER" \
  --workers "$GPUS"

# 3. teacher: 4,800 steps on the real set, then on the synthetic one with masking and a frozen track head
# 4. causal: 4,000 trajectories under joint guidance, 2,000 steps of regression
# 5. self-forcing: 400 updates of the student, five of the critic before each
DATA=(--shards "$FOLDER/real" "$FOLDER/synthetic" --base "$FOLDER/base" --folder "$FOLDER/run" --recipe "$RECIPE")
for stage in teacher causal self-forcing; do
  "$BIN/torchrun" --standalone --nproc-per-node "$GPUS" -m motionstream train "$stage" "${DATA[@]}" \
    ${STUDENT:+--student "$STUDENT"}
done

# 6. tiny-decoder: on 144×144 clips of the synthetic videos
"$BIN/torchrun" --standalone --nproc-per-node "$GPUS" -m motionstream train tiny-decoder "${DATA[@]}" \
  --videos "$SYNTHETIC" ${LPIPS:+--lpips "$LPIPS"}

"$BIN/motionstream" train export "${DATA[@]}" -o "$FOLDER/model"
echo "$BIN/motionstream demo --model $FOLDER/model"
