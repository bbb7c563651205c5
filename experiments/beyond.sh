#!/usr/bin/env bash
# What an adversary and labels bring to a vivid U-Net of width 48: two seeds, then quality.py on all.
#
#   experiments/beyond.sh PHOTOGRAPHS VALIDATION WEIGHTS OUT
#
# From the same weights, a U-Net's with bins, as many more steps each: `on`, and `labels`, where the folders of the first
# level are the labels. From each of `on`: `gan`, 160 adversarial steps (1.00 GFLOP a sample at 64²,
# padding not counted), and `more`, as much arithmetic without: 235 steps (0.68). By Muon. All of it
# takes about three quarters of an hour on two CPU cores; interrupted, it goes on where it was.
set -euo pipefail
[ $# -eq 4 ] || { echo "usage: experiments/beyond.sh PHOTOGRAPHS VALIDATION WEIGHTS OUT" >&2; exit 2; }
photographs=$1 validation=$2 weights=$3 out=$4
python=${PYTHON:-python}
mkdir -p "$out"
networks=("$weights")

row() { # name, options
  local name=$1
  shift
  networks+=("$out/$name/weights.safetensors")
  if [ -d "$out/$name" ]; then
    "$python" train.py --out "$out/$name" --resume
  else
    "$python" train.py --data "$photographs" --out "$out/$name" \
      --network unet --width 48 --size 64 --schedule cosine --matched 0 "$@"
  fi
}

for seed in 1 2; do
  start=(--init "$weights" --lr 1e-3 --steps 1000 --validate-every 100 --seed 2$seed)
  row on-$seed "${start[@]}"
  row labels-$seed "${start[@]}" --labels
done
for seed in 1 2; do
  start=(--init "$out/on-$seed/weights.safetensors" --seed 3$seed)
  row more-$seed "${start[@]}" --lr 2e-4 --steps 235 --validate-every 23
  row gan-$seed "${start[@]}" --preset gan --steps 160 --validate-every 20 --patience 0
done

"$python" benchmarks/quality.py --data "$validation" --weights "${networks[@]}" \
  --temperatures 1 --shares 0.6 0.8 1 --json "$out/quality.json" --gallery "$out/gallery.png"
