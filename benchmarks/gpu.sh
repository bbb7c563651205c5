#!/usr/bin/env bash
# Everything that needs a GPU, within 8 minutes: versions, whether training works there, images a
# second with their share of the device, the loop beside the bare step, the peers.
#
#   benchmarks/gpu.sh OUT
#
# Install before: pip install -e '.[cuda13,bench,test]' -c constraints.txt (a driver of 580 or later)
# OUT receives a log of all and a JSON file from each part that measures. A part that runs out of its
# time leaves what it had measured. Ends with a short table, and exit status 1 if a part failed.
# PYTHON names another interpreter; QUICK=1 tries it all at a tiny size, on a CPU too.
set -uo pipefail
mkdir -p "${1:?usage: benchmarks/gpu.sh OUT}" && out=$(cd "$1" && pwd) || exit 1
python=${PYTHON:-python3} failed=()
rm -f "$out"/{throughput-*,beside,peers}.json "$out/log.txt"
cd "$(dirname "$0")/.." || exit 1
export PYTHONUNBUFFERED=1 CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES:-0} # one, whatever is there

part() { # name, seconds, command…
  local name=$1 limit=$2 start=$SECONDS
  [ -z "${QUICK:-}" ] || limit=$((8 * limit)) # a CPU compiles slowly
  shift 2
  echo "== $name"
  timeout --kill-after=5 "$limit" "$@" 2>&1 | tee -a "$out/log.txt"
  local status=${PIPESTATUS[0]}
  [ "$status" -eq 0 ] || failed+=("$name ($status)")
  echo "== $name: exit status $status after $((SECONDS - start)) s"
}

if [ "${QUICK:-}" ]; then
  platforms=cpu width=(--width 16) size=(--size 32) sizes=(--sizes 32) batches=(2) large=(2) loop=(2)
  short=(--seconds 0.2) only=(-k unet) dtype=float32 # a CPU emulates bfloat16
else
  platforms=cuda width=() size=(--size 128) sizes=(--sizes 128) batches=(64 256 1024)
  large=(64 256) loop=(64 4) short=(--seconds 1) only=() dtype=bfloat16
fi

part versions 60 "$python" -c "
import sys, importlib.metadata as m
print('python', sys.version.split()[0])
for name in ('jax', 'jaxlib', 'flax', 'optax', 'numpy', 'torch'):
    try: print(name, m.version(name))
    except m.PackageNotFoundError: print(name, 'missing')
import jax; print(jax.devices())
sys.exit(0 if '${QUICK:-}' or jax.default_backend() == 'gpu' else 'jax sees no GPU here')"
[ ${#failed[@]} -eq 0 ] || exit 1
part training 90 env JAX_PLATFORMS=$platforms "$python" -m pytest -m gpu -n 0 -q \
  tests/test_gpu.py "${only[@]}"
for batch in "${batches[@]}"; do # each by itself: what the time does not reach is the preset named last
  part "throughput at $batch" 50 "$python" benchmarks/throughput.py "${width[@]}" "${sizes[@]}" \
    "${short[@]}" --dtypes "$dtype" --presets lite vivid paper --batches "$batch" \
    --json "$out/throughput-$batch.json"
done
part loop 60 "$python" benchmarks/throughput.py "${width[@]}" "${sizes[@]}" "${short[@]}" \
  --dtypes "$dtype" --presets paper --modes --beside "${loop[@]}" --json "$out/beside.json"
part peers 120 "$python" benchmarks/peers/compare.py "${width[@]}" "${size[@]}" "${short[@]}" \
  --networks unet paper --batches "${large[@]}" --json "$out/peers.json"

"$python" - "$out" <<'END'
import json, sys
from pathlib import Path

def read(name, kind="rows"):
    path = Path(sys.argv[1]) / f"{name}.json"
    return json.loads(path.read_text())[kind] if path.exists() else []

print("\n== in short")
for row in [row for file in sorted(Path(sys.argv[1]).glob("throughput-*.json"))
            for row in read(file.stem)]:
    pace = row.get("images_per_second")
    rest = f"{pace:>10.0f} images/s {row['share_of_matrix']:>7.1%}" if pace else row["failed"]
    print(f"{row['preset']:6} {row['mode']:6} {row['size']}² batch {row['batch']:<5} {rest}")
for row in read("peers"):
    ratios = ", ".join(f"{k[7:]} {v['median']:.2f}" for k, v in row.items() if k.startswith("ours /"))
    print(f"{row['network']:6} {row['mode']:6} batch {row['batch']:<5} times as fast as {ratios}")
for row in read("beside", "beside"):
    found = f"{row['loop_to_step']['median']:.3f}" if "loop_to_step" in row else row["failed"]
    print(f"the loop's images/s over the bare step's at batch {row['batch']}: {found}")
END
[ ${#failed[@]} -eq 0 ] || { echo "failed, with their exit status: ${failed[*]}"; exit 1; }
