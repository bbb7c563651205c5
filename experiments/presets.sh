#!/usr/bin/env bash
# The presets against each other: equal data, equal operations, two seeds; then quality.py on all.
#
#   experiments/presets.sh PHOTOGRAPHS VALIDATION OUT
#
# Samples × FLOP of the training step at 64² are equal within 9 %, in favour of the paper's network:
# 1,600 steps of 64 for the unet of width 48 (0.66 GFLOP a sample, 0.68 with bins, padding not
# counted) and 1,791 steps of 16 for the paper's network (2.58). `ancestor` is the recipe the paper
# grew from, Wallner's tutorial: RMSprop at its usual 0.001, batch 10, the paper's network. The
# others train by AdamW. `vivid` is the U-Net that the preset had before the pretrained encoder.
#
# A long row takes about a quarter of an hour on two CPU cores; an interrupted one is resumed.
set -euo pipefail
[ $# -eq 3 ] || { echo "usage: experiments/presets.sh PHOTOGRAPHS VALIDATION OUT" >&2; exit 2; }
photographs=$1 validation=$2 out=$3
mkdir -p "$out"
networks=()

row() { # name, options
  local name=$1
  shift
  networks+=("$out/$name/weights.safetensors")
  if [ -d "$out/$name" ]; then
    python train.py --out "$out/$name" --resume
  else
    python train.py --data "$photographs" --out "$out/$name" --optimizer adamw "$@"
  fi
}

for seed in 1 2; do
  row paper-$seed --preset paper --batch 16 --steps 1791 --validate-every 179 --seed $seed
  row unet-$seed --preset unet --width 48 --steps 1600 --validate-every 160 --seed $seed
  row vivid-$seed --preset vivid --network unet --init none --size 64 --schedule cosine --lr 1e-3 \
    --width 48 --steps 1600 --validate-every 160 --seed $seed
done
row ancestor-1 --preset paper --optimizer rmsprop --lr 1e-3 --batch 10 --steps 2865 \
  --validate-every 286 --seed 1

python benchmarks/quality.py --data "$validation" --weights "${networks[@]}" \
  --json "$out/quality.json" --gallery "$out/gallery.png"

python - "$out" <<'EOF'
import json, sys
from pathlib import Path

def curve(name):
    lines = (Path(sys.argv[1]) / name / "log.jsonl").read_text().splitlines()
    return [(x["step"], x["psnr"]) for x in map(json.loads, lines) if "psnr" in x]

step, end = curve("ancestor-1")[-1]
print(f"the ancestor's recipe ends at {end:.2f} dB after {10 * step:,} samples")
for seed in (1, 2):
    first = next((step for step, psnr in curve(f"unet-{seed}") if psnr >= end), None)
    print(f"the unet of seed {seed} is there after {f'{64 * first:,}' if first else 'more'} samples")
EOF
