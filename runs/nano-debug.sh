#!/usr/bin/env bash
# The paper's stages and the tiny decoder once, at a size that takes minutes: videos on disk → shards → teacher → causal student → Self-Forcing →
# tiny decoder → a video. The video means nothing; the script tests that everything runs.
#   FOLDER=work/nano-debug runs/nano-debug.sh
set -euo pipefail
cd "$(dirname "$0")/.."
FOLDER=${FOLDER:-work/nano-debug}
BIN=${BIN:-.venv/bin}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} OMP_WAIT_POLICY=passive

# 1. videos with captions: rendered ones here; any folder of yours works
"$BIN/python" runs/render_videos.py "$FOLDER/videos" --count 4 --frames 46

# 2. prepare: webdataset shards with 50×50 tracks, latents of the embedded model's autoencoder, and text
"$BIN/motionstream" prepare "$FOLDER/videos" "$FOLDER/shards" --model nano

# 3. teacher: flow matching in two phases, the second with mid-frame masking and a frozen track head
# 4. causal: the teacher's ODE trajectories, regression under sink and window masks
# 5. self-forcing: the student's own rollouts, matched to the teacher's distribution (DMD)
# 6. tiny-decoder: latents to pixels at a fraction of the cost
DATA=(--recipe nano-debug --shards "$FOLDER/shards" --base nano --folder "$FOLDER/run")
for stage in teacher causal self-forcing; do
  "$BIN/motionstream" train "$stage" "${DATA[@]}"
done
"$BIN/motionstream" train tiny-decoder "${DATA[@]}" --videos "$FOLDER/videos"
"$BIN/motionstream" train export "${DATA[@]}" -o "$FOLDER/model"

# 7. stream a photograph with the new model and its tiny decoder
"$BIN/motionstream" stream examples/chelsea.png --model "$FOLDER/model" --decoder tiny --drag 0.3,0.5:0.7,0.5 \
  --seconds 2 -o "$FOLDER/video.mp4"
