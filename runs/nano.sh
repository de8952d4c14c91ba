#!/usr/bin/env bash
# Trains the embedded model from its seed to its files. MINUTES bounds the wall clock of all stages together (two CPU
# cores).
#   MINUTES=60 FOLDER=work/nano runs/nano.sh
set -euo pipefail
cd "$(dirname "$0")/.."
MINUTES=${MINUTES:-60}
FOLDER=${FOLDER:-work/nano}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} OMP_WAIT_POLICY=passive

# 1. autoencoder: principal components, residual decoder
# 2. mixer: which carried picture shows at each pixel
# 3. teacher: the prior of the carried content, flow matching, then flow matching with mid-frame masking
# 4. causal: the teacher's ODE trajectories, regression under sink and window masks
# 5. decoder: the residual decoder again, on latents that the teacher made
# 6. self-forcing: the student's own rollouts, regressed to the carried picture in the light a sentence asks for
for stage in autoencoder mixer teacher causal decoder self-forcing; do
  .venv/bin/motionstream train "$stage" --recipe nano --folder "$FOLDER" --minutes "$MINUTES"
done
.venv/bin/motionstream train export --recipe nano --folder "$FOLDER" -o src/motionstream/weights/nano
.venv/bin/motionstream evaluate rendered --clips 8 --seed 3 --output benchmarks/results/nano-rendered.json
