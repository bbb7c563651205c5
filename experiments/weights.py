"""Make the default weights from a folder of photographs, or better ones in more time.

    python benchmarks/weights.py --data DIR --out OUT --minutes 120

Two runs of train.py, the second from the weights of the first: small pictures, then some of 96
pixels, where colours come to bear more saturation. Interrupted, the same command goes on where it
was. Minutes are those of training steps: packing the photographs twice, 35 KB each at the larger
size, and compiling come on top. A stage ends early when a third of its validations brought nothing.

OUT then holds a run directory a stage, and `colorjax.safetensors`: the last one's weights as
float16. To go on from finished ones, name them by `--init`, and another OUT. On a GPU, say,
`--minutes 15 --width 64 --batch 512`.
"""

import argparse
import dataclasses
import hashlib
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[level]) for level in (0, 1)]

import train
from colorjax import checkpoint

# Pixels a side, share of the minutes, highest learning rate.
STAGES = ((64, 0.5, 2e-3), (96, 0.5, 1.5e-3))
PATIENCE = 7  # of 20 validations
# Of the truth's, on photographs like those trained on; on others it comes out less, 0.6 perhaps.
COLORFULNESS = 0.75


def commands(options: argparse.Namespace) -> list[list[str]]:
    """What train.py is told, a list of words for each stage."""
    found, start = [], options.init
    for size, share, lr in STAGES:
        batch = max(8, round(options.batch * (64 / size) ** 2 / 8) * 8)  # as many pixels
        argv = [
            "--data",
            options.data,
            "--out",
            str(options.out / str(size)),
            "--size",
            str(size),
            "--batch",
            str(batch),
            "--lr",
            str(lr),
            "--minutes",
            f"{share * options.minutes:g}",
            "--patience",
            str(PATIENCE),
            "--width",
            str(options.width),
            "--seed",
            str(options.seed),
            "--colorfulness",
            str(COLORFULNESS),
        ]
        found.append(argv + (["--init", str(start)] if start else []))
        start = options.out / str(size) / "weights.safetensors"
    return found


def main(argv: list[str] | None = None) -> int:
    """Train stage by stage; the exit status of the first that fails."""
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    parser.add_argument("--data", required=True, metavar="DIR", help="colour photographs")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="run directories")
    parser.add_argument("--minutes", required=True, type=float, help="of training, all together")
    parser.add_argument("--init", default="", metavar="FILE", help="weights to start from")
    parser.add_argument("--width", type=int, default=48, help="of the network (default: 48)")
    parser.add_argument("--batch", type=int, default=128, help="at 64 pixels (default: 128)")
    parser.add_argument("--seed", type=int, default=0, help="(default: 0)")
    options = parser.parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    for command in commands(options):
        run = Path(command[command.index("--out") + 1])
        print(f"== {run}", flush=True)
        if status := train.main(command + ["--resume"] * (run / "config.json").exists()):
            return status
    last = options.out / str(STAGES[-1][0]) / "weights.safetensors"
    path = options.out / "colorjax.safetensors"
    params, network, decoding, summary = checkpoint.load(last)
    header = dataclasses.asdict(network)
    checkpoint.save_weights(path, params, header, summary, "float16", decoding)
    print(f"wrote {path}, sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
