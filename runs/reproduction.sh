#!/usr/bin/env bash
# Runs the paper's ablations on the embedded model and writes docs/reproduction.md from the results. Takes some hours of
# one core with the defaults, minutes with CLIPS=4 SECONDS_LONG=20.
#   for stage in teacher causal self-forcing; do motionstream train $stage --base nano --folder work/chain --minutes 120; done
#   motionstream train export --base nano --folder work/chain --through teacher -o work/chain/models/teacher
#   motionstream train export --base nano --folder work/chain --through causal -o work/chain/models/causal
#   motionstream train export --base nano --folder work/chain -o work/chain/models/self-forcing
#   TEACHER=work/chain/models/teacher CAUSAL=work/chain/models/causal STUDENT=work/chain/models/self-forcing \
#     runs/reproduction.sh
# TEACHER and CAUSAL: models of the earlier stages.
# STUDENT: the student trained from them, if that is not MODEL. Evaluations whose models are not given are left out.
# ONLY="steps release": run these alone; "ablations" (hours) runs only when named. EXTRA: options added to every evaluation.
set -euo pipefail
cd "$(dirname "$0")/.."
BIN=${BIN:-.venv/bin}
MODEL=${MODEL:-nano}
CLIPS=${CLIPS:-16}
SECONDS_LONG=${SECONDS_LONG:-60}
RESULTS=${RESULTS:-benchmarks/results/reproduction}
PAGE=${PAGE:-docs/reproduction.md}
ONLY=${ONLY:-sink-window chunks steps guidance guidance-light stages stages-light release captions encoding}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} OMP_WAIT_POLICY=passive
mkdir -p "$RESULTS"

evaluate() {  # evaluate NAME KIND OPTION...: if ONLY has NAME, writes NAME.json
  case " $ONLY " in *" $1 "*) ;; *) return 0 ;; esac
  "$BIN"/python -m motionstream evaluate "$2" --clips "$CLIPS" --output "$RESULTS/$1.json" ${EXTRA:-} "${@:3}"
}

evaluate sink-window drift --model "$MODEL" --seconds "$SECONDS_LONG" --causal c3s1w1 --causal c3s0w1 --causal c3s2w1 \
  --causal c3s1w2 --causal c3s1w3
evaluate chunks drift --model "$MODEL" --seconds 10 --held --causal c3s1w1 --causal c1s1w1 --causal c7s1w1
evaluate steps compare --model "$MODEL" --steps 3 --steps 1 --steps 2 --steps 4
if [ -n "${TEACHER:-}" ]; then
  evaluate guidance compare --model "$TEACHER" --guidance motion --guidance joint --guidance plain --guidance text
  evaluate guidance-light compare --model "$TEACHER" --effect dark --guidance plain --guidance text --guidance motion \
    --guidance joint
  evaluate stages compare --model "$TEACHER" ${CAUSAL:+--model "$CAUSAL"} --model "${STUDENT:-$MODEL}"
  evaluate stages-light compare --model "$TEACHER" ${CAUSAL:+--model "$CAUSAL"} --model "${STUDENT:-$MODEL}" --effect dark
fi
evaluate release release --model "$MODEL"
evaluate captions captions --model "$MODEL"
case " $ONLY " in *" encoding "*) "$BIN"/python benchmarks/track_encoding.py --output "$RESULTS/track-encoding.json" ;; esac
case " $ONLY " in
  *" ablations "*) # some ten minutes of one core for each of the two models, after a few for their autoencoder
    "$BIN"/python -m motionstream train autoencoder --recipe nano-ids --folder work/ablations --minutes 60
    "$BIN"/python benchmarks/ablations.py --clips 30000 --held-out 64 --threads 1 --folder work/ablations \
      --variant rgb --output "$RESULTS/ablations.json"
    ;;
esac
"$BIN"/python benchmarks/reproduction.py --results "$RESULTS" --output "$PAGE"
