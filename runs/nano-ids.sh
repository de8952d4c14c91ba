#!/usr/bin/env bash
# Trains a model of 32x32 pixels without carried content through all stages, and compares teacher, causal and
# Self-Forcing student. MINUTES bounds the wall clock of all stages together (one CPU core and a rendering process).
#   MINUTES=60 RECIPE=nano-ids FOLDER=work/nano-ids runs/nano-ids.sh
# RECIPE: nano-ids (the paper's track ids alone) or nano-along (latents brought along the tracks as well).
set -euo pipefail
cd "$(dirname "$0")/.."
BIN=${BIN:-.venv/bin}
MINUTES=${MINUTES:-60}
RECIPE=${RECIPE:-nano-ids}
FOLDER=${FOLDER:-work/$RECIPE}
RESULTS=${RESULTS:-benchmarks/results}
CLIPS=${CLIPS:-24}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} OMP_WAIT_POLICY=passive

for stage in autoencoder teacher causal decoder self-forcing; do
  "$BIN"/python -m motionstream train "$stage" --recipe "$RECIPE" --folder "$FOLDER" --minutes "$MINUTES"
done
for stage in teacher causal; do
  "$BIN"/python -m motionstream train export --recipe "$RECIPE" --folder "$FOLDER" --through "$stage" -o "$FOLDER/models/$stage"
done
"$BIN"/python -m motionstream train export --recipe "$RECIPE" --folder "$FOLDER" -o "$FOLDER/models/student"
# 33 frames, as trained; slower than at 128x128, since the pictures are a quarter as wide
"$BIN"/python -m motionstream evaluate compare --clips "$CLIPS" --frames 33 --speed 4 --model "$FOLDER/models/teacher" \
  --model "$FOLDER/models/causal" --model "$FOLDER/models/student" --output "$RESULTS/$RECIPE.json"
