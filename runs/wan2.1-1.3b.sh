#!/usr/bin/env bash
# The paper's main model (appendix D), from checkpoints and videos on disk to a streaming student. The paper's training
# took four days on 32 A100s. By the dry run it fits 8 GPUs of 80 GB, one clip at a time, in about four times as long.
#   FUN=Wan2.1-Fun-1.3B-Control OPENVID=OpenVid SYNTHETIC=wan-videos GPUS=8 runs/wan2.1-1.3b.sh
# Options that follow are passed to motionstream train at every stage: --accumulate 4, --minutes 6000.
# Several machines that see the same files, GPUS each: ONLY=prepare on one; then, on every one of them,
#   NODES=4 RENDEZVOUS=first-machine:29500 runs/wan2.1-1.3b.sh
# which trains the teacher and the student; then ONLY="tiny-decoder export" NODES=1 on one.
# TRACKER=lucas-kanade where CoTracker3 is not in torch.hub's cache; LPIPS=lpips.safetensors for the tiny decoder;
# STUDENT=... starts from a public causal student.
# None of this was ever run at full size: see docs/training.md. --dry-run prints what a stage would take.
set -euo pipefail
cd "$(dirname "$0")/.."
RECIPE=${RECIPE:-wan2.1-1.3b}
FOLDER=${FOLDER:-work/$RECIPE}
GPUS=${GPUS:-8}
NODES=${NODES:-1}
BIN=${BIN:-.venv/bin}
TRAINED="teacher causal self-forcing"
EVERY="prepare $TRAINED tiny-decoder export"
[ "$NODES" = 1 ] || EVERY=$TRAINED
ONLY=${ONLY:-$EVERY}

asked() {  # asked STEP: whether it is one of ONLY
  case " $ONLY " in *" $1 "*) ;; *) return 1 ;; esac
}

if asked prepare; then
  : "${FUN:?the folder of VideoX-Fun\'s Control checkpoint}"
  : "${OPENVID:?the folder of OpenVid-1M, video/ and OpenVid-1M.csv inside}"
fi
if asked prepare || asked tiny-decoder; then
  : "${SYNTHETIC:?a folder of clean generated videos with captions beside them, made by: motionstream prepare --generate}"
fi

if asked prepare; then
  # 1. the base: a partly initialised model, its autoencoder and encoders
  [ -d "$FOLDER/base" ] || "$BIN/motionstream" convert motionstream "$FUN" "$FOLDER/base"

  # 2. shards: 50×50 tracks (CoTracker3 where its files are), latents, text and image tokens
  TRACKER=${TRACKER:-cotracker}
  "$BIN/motionstream" prepare "$OPENVID/video" "$FOLDER/real" --csv "$OPENVID/OpenVid-1M.csv" --model "$FOLDER/base" \
    --tracker "$TRACKER" --workers "$GPUS"
  "$BIN/motionstream" prepare "$SYNTHETIC" "$FOLDER/synthetic" --model "$FOLDER/base" --tracker "$TRACKER" \
    --workers "$GPUS"
fi

# 3. teacher: 4,800 steps on the real set, then on the synthetic one with masking and a frozen track head
# 4. causal: 4,000 trajectories under joint guidance, 2,000 steps of regression
# 5. self-forcing: 400 updates of the student, five of the critic before each
DATA=(--shards "$FOLDER/real" "$FOLDER/synthetic" --base "$FOLDER/base" --folder "$FOLDER/run" --recipe "$RECIPE")
for stage in $TRAINED; do
  asked "$stage" || continue
  MACHINES=(--standalone)
  [ "$NODES" = 1 ] || MACHINES=(--nnodes "$NODES" --rdzv-backend c10d --rdzv-id "$RECIPE-$stage" --rdzv-endpoint
    "${RENDEZVOUS:?HOST:PORT of one of the $NODES machines, the same on all}")
  "$BIN/torchrun" "${MACHINES[@]}" --nproc-per-node "$GPUS" -m motionstream train "$stage" "${DATA[@]}" \
    ${STUDENT:+--student "$STUDENT"} "$@"
done

if asked tiny-decoder; then
  # 6. tiny-decoder: 144×144 clips of the synthetic videos, on one machine
  "$BIN/torchrun" --standalone --nproc-per-node "$GPUS" -m motionstream train tiny-decoder "${DATA[@]}" \
    --videos "$SYNTHETIC" ${LPIPS:+--lpips "$LPIPS"} "$@"
fi

if asked export; then
  "$BIN/motionstream" train export "${DATA[@]}" -o "$FOLDER/model"
  echo "$BIN/motionstream demo --model $FOLDER/model"
fi
