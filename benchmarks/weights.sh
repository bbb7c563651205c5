#!/usr/bin/env bash
# The weights that come with colorjax, or better ones: what more time makes of a folder of photographs.
#
#   benchmarks/weights.sh PHOTOGRAPHS OUT MINUTES [OPTION OF train.py…]
#
# Most passes small, then larger, where photographs are large enough; last, beside a critic. FROM=FILE
# goes on from weights. Interrupted, the same command goes on where it was. The result is
# OUT/gan/weights.safetensors, as float32; OUT/128/weights.safetensors is without a critic.
# On a GPU: benchmarks/weights.sh PHOTOGRAPHS OUT 15 --width 64 --batch 256
set -euo pipefail
mkdir -p "${2:?usage: benchmarks/weights.sh PHOTOGRAPHS OUT MINUTES [OPTION of train.py…]}"
photographs=$(realpath "$1") out=$(realpath "$2") minutes=$3 from=${FROM:+$(realpath "$FROM")}
shift 3
cd "$(dirname "$0")/.."
python=${PYTHON:-python}

stage() { # name, percent of the minutes, options
  local name=$1 share=$2 begin=()
  shift 2
  if [ -e "$out/$name/config.json" ]; then
    "$python" train.py --out "$out/$name" --resume
  else
    [ -z "$from" ] || begin=(--init "$from")
    "$python" train.py --data "$photographs" --out "$out/$name" --minutes $((minutes * share))e-2 \
      --colorfulness 0 "${begin[@]}" "$@"
  fi
  from=$out/$name/weights.safetensors
}

stage 64 50 --width 48 --size 64 --batch 128 --lr 2e-3 "$@"
stage 96 20 --width 48 --size 96 --batch 64 --lr 1.5e-3 "$@"
stage 128 25 --width 48 --size 128 --batch 32 --lr 1e-3 "$@"
stage gan 5 --width 48 --size 128 --batch 32 "$@" --preset gan --patience 0
