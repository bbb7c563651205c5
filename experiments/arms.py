"""Short arms from one start: what moves the default weights, at equal arithmetic.

    python experiments/arms.py --data PHOTOGRAPHS --val VAL --arm base everyday --json FILE

Each arm goes on from the default weights with fresh moments and a constant rate, which falls as
1 − √t over the last part (`--cool`). It is measured on photographs that no arm trains on:

- VAL, centre squares of 256², by their true lightness;
- VAL aged: the network sees them as old film and old paper show them;
- every 40th of PHOTOGRAPHS, in two parts: folders that `--everyday` names, and the rest.

Figures are PSNR in RGB and the fraction of the truth's colourfulness, as predicted and with the
chroma of all pictures multiplied by one number until colourfulness is 0.64, 0.8 and 1 of the
truth's. A pass at 128² costs 1: arms at other sizes take as many fewer. FILE gets a line of JSON an
arm, `--save DIR` its weights.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

import jax
import jax.numpy as jnp
import numpy as np

from colorjax import augment, checkpoint, color, data, device, loss, model, palette, step
from colorjax.config import TrainConfig
from colorjax.media import files
from colorjax.validation import upsample_and_merge

SHARES = (0.64, 0.8, 1.0)
SIDE = 112  # of the packed photographs
EVERYDAY = "actions flickr8k houses news places sports streetstyle sun"
SQUASHED = ("places", "flickr8k")  # stored as squares, whatever they were
USUAL = {
    "everyday": 0.0,
    "size": 128,
    "coarse": 0.0,
    "stretch": 1.0,
    "frozen": 5,
    "film": 0.3,
    "degradation": 0.2,
    "matched": 0.0,
}
ARMS: dict[str, dict[str, Any]] = {
    "start": {},
    "base": {},
    "everyday": {"everyday": 0.67},  # fraction of a batch; 0: as many as there are
    "192": {"size": 192},
    "coarse": {"coarse": 1.0},  # weight of a loss on ab averaged over cells
    "stretch": {"stretch": 1.5},  # most, of the squashed ones' width
    "unfrozen": {"frozen": 0},
    "clean": {"film": 0.1, "degradation": 0.05},  # fractions of pictures seen as old ones
    "matched": {"matched": 1.0},  # weight of the error at equal colourfulness
    "matched-more": {"matched": 3.0},
    "clean-matched": {"film": 0.1, "degradation": 0.05, "matched": 1.0},
    "clean-matched-more": {"film": 0.1, "degradation": 0.05, "matched": 3.0},
}


def crops(key: jax.Array, images: jax.Array, size: int, stretch: float, squashed: jax.Array):
    """As `augment.random_crops`, some of the pictures stretched in width: `B size size 3`."""
    source, keys = images.shape[1], jax.random.split(key, 5)
    lengths, tops, lefts, mirror, wide = (jax.random.uniform(k, (len(images),)) for k in keys)
    wide = jnp.where(squashed, 1 + (stretch - 1) * wide, 1)
    scales = size / (source * (0.5 + 0.5 * lengths))
    scales = jnp.stack([scales, scales * wide], axis=1)
    moved = (size - scales * source) * jnp.stack([tops, lefts], axis=1)

    def crop(image: jax.Array, scale: jax.Array, moved: jax.Array) -> jax.Array:
        return jax.image.scale_and_translate(image, (size, size, 3), (0, 1), scale, moved, "linear")

    found = jax.vmap(crop)(jnp.asarray(images) / 255, scales, moved)
    return jnp.where(mirror[:, None, None, None] < 0.5, found, found[:, :, ::-1])


def coarse_loss(ab: jax.Array, target: jax.Array) -> jax.Array:
    """Huber's loss of ab averaged over 2×2 and 4×4 cells and the whole picture, `B`."""

    def pooled(ab: jax.Array, cells: int) -> jax.Array:
        count, height, width, _ = ab.shape
        return ab.reshape(count, height // cells, cells, width // cells, cells, 2).mean((2, 4))

    sizes = (2, 4, ab.shape[1])
    return sum(loss.huber(pooled(ab, n), pooled(target, n)) for n in sizes) / jnp.float32(3)


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
def train_step(config: TrainConfig, arm: tuple, state, images, squashed, rate):
    """As `step.train_step`, with an arm's differences, at the rate given."""
    arms = dict(arm)
    key = jax.random.fold_in(jax.random.key(config.seed), state.step)
    crop_key, film_key, degrade_key = jax.random.split(key, 3)
    rgb = crops(crop_key, images, config.size, arms["stretch"], squashed)
    lightness = augment.film_lightness(film_key, rgb, config.film)
    truth = step.downsampled_lab(config, lightness, rgb)
    lightness = augment.degrade(degrade_key, lightness, config.degradation)
    lightness, truth = jax.lax.stop_gradient((lightness, truth))

    def objective(params):
        output = step.predict(config, step.without_frozen(config, params), lightness).output
        weights = config.huber, config.matched
        value = loss.color_loss(config.head, output, truth, state.bin_weights, *weights)
        if arms["coarse"]:
            ab = palette.decode(output, config.head)
            value += arms["coarse"] * coarse_loss(ab, truth[..., 1:])
        return value.mean()

    value, gradient = jax.value_and_grad(objective)(state.params)
    return step.updated(config, state, gradient, rate), value


@partial(jax.jit, static_argnums=(1, 3))
def predict(params, network, lightness, enlarged):
    """Lightness `B H W` → ab `B h w 2`, as predicted; the network sees it so many times larger."""
    count, height, width = lightness.shape
    seen = jax.image.resize(lightness, (count, enlarged * height, enlarged * width), "cubic")
    return palette.decode(model.predict(params, network, seen).output, network.head)


@jax.jit
def scores(images, lightness, ab, factor):
    """PSNR and absolute colourfulness of each picture with its chroma multiplied."""
    rgb = upsample_and_merge(lightness, factor * ab)
    error = ((rgb - images / 255.0) ** 2).mean((1, 2, 3))
    return -10 * jnp.log10(error + 1e-10), color.colorfulness(rgb, absolute=True)


_lightness = jax.jit(lambda images: color.lightness(images / 255.0))


@jax.jit
def aged(images: jax.Array) -> jax.Array:
    """Lightness `B H W` as old film and paper show it: through a mix of R, G and B, degraded."""
    keys = jax.random.split(jax.random.key(0))
    return augment.degrade(keys[1], augment.film_lightness(keys[0], images / 255.0, 1.0), 0.5)


_colorfulness = jax.jit(lambda images: color.colorfulness(images / 255.0, absolute=True))


class Photographs:
    """Photographs to measure on, uint8 `N S S 3`."""

    def __init__(self, images: np.ndarray, enlarged: int, old: bool = False, batch: int = 20):
        """Take as many as fill batches; the network sees `old` ones aged."""
        whole = len(images) // batch * batch
        self.parts = [images[i : i + batch] for i in range(0, whole, batch)]
        self.light = [np.asarray(_lightness(part)) for part in self.parts]
        self.seen = [np.asarray(aged(part)) for part in self.parts] if old else self.light
        self.truth = np.concatenate([_colorfulness(part) for part in self.parts])
        self.enlarged = enlarged

    def at(self, ab: list[np.ndarray], factor: float) -> tuple[float, float]:
        """PSNR of those of colourfulness 15 or more, and the fraction of the truth's."""
        rows = [scores(*row, factor) for row in zip(self.parts, self.light, ab, strict=True)]
        psnr, colorfulness = (np.concatenate(column) for column in zip(*rows, strict=True))
        counted = psnr[self.truth >= 15]
        return float(counted.mean()), float(colorfulness.mean() / self.truth.mean())

    def measure(self, params, network) -> dict[str, tuple[float, float]]:
        """PSNR and fraction as predicted; PSNR and factor at each share."""
        ab = [np.asarray(predict(params, network, x, self.enlarged)) for x in self.seen]
        found = {"as predicted": self.at(ab, 1.0)}
        for share in SHARES:
            factor = share / found["as predicted"][1]
            for _ in range(4):  # colourfulness is nearly linear in the factor
                psnr, reached = self.at(ab, factor)
                if abs(reached - share) < 5e-4:
                    break
                factor *= share / reached
            found[f"{share:g}"] = psnr, factor
        return found


def batches(groups: list[np.ndarray], shares: list[float], batch: int, seed: int) -> Iterator:
    """Endless rows: each group in orders of its own, groups in the given shares."""
    random, orders = np.random.default_rng(seed), [iter(()) for _ in groups]
    while True:
        rows = []
        for which in random.choice(len(groups), batch, p=shares):
            if (row := next(orders[which], None)) is None:
                orders[which] = iter(random.permutation(groups[which]))
                row = next(orders[which])
            rows.append(row)
        yield np.sort(rows)


def main(argv: list[str] | None = None) -> int:
    """Train and measure the arms; the exit status."""
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    parser.add_argument("--data", required=True, metavar="DIR", help="photographs, in folders")
    parser.add_argument("--val", required=True, metavar="DIR", help="photographs of 256 pixels")
    parser.add_argument("--init", default=str(checkpoint.DEFAULT_WEIGHTS), metavar="FILE")
    parser.add_argument("--arm", nargs="+", choices=ARMS, default=["base"])
    parser.add_argument("--everyday", default=EVERYDAY, help=f"(default: {EVERYDAY})")
    parser.add_argument("--passes", type=int, default=9600, help="(default: 9600)")
    parser.add_argument("--minutes", type=float, default=0, help="instead of --passes")
    parser.add_argument("--batch", type=int, default=32, help="(default: 32)")
    parser.add_argument("--lr", type=float, default=1.5e-4, help="(default: 0.00015)")
    parser.add_argument("--cool", type=float, default=0.5, help="(default: half of it)")
    parser.add_argument("--seed", type=int, default=0, help="(default: 0)")
    parser.add_argument("--json", required=True, type=Path, metavar="FILE", help="to add lines to")
    parser.add_argument("--save", type=Path, metavar="DIR", help="where weights are kept")
    options = parser.parse_args(argv)
    device.use_two_cpu_devices()
    device.keep_memory()
    device.use_compilation_cache()

    pool = data.load_pool(options.data, SIDE, device.cache_directory() / "pools", 15)
    first = np.array([Path(path).parts[0] for path in pool.paths])
    everyday, held = np.isin(first, options.everyday.split()), pool.hashes % 40 == 0
    groups = [np.flatnonzero(~held & everyday), np.flatnonzero(~held & ~everyday)]
    groups = [group for group in groups if len(group)]
    held_out = {
        "everyday": np.flatnonzero(held & everyday),
        "rest": np.flatnonzero(held & ~everyday),
    }
    names = files.list_images(options.val)
    val = np.stack([files.read_small(path.read_bytes(), path, 256) for path in names])
    sets = {"val": Photographs(val, 1), "val aged": Photographs(val, 1, old=True)}
    sets |= {
        name: Photographs(pool.images[rows[:300]], 2)
        for name, rows in held_out.items()
        if len(rows) >= 20
    }
    start, network, decoding = checkpoint.load(options.init)
    _, histogram = data.color_statistics(pool, np.concatenate(groups))
    whole, split = step.placement(min(2, jax.device_count()))
    for name in options.arm:
        arm = USUAL | ARMS[name]
        usual = len(groups[0]) / sum(map(len, groups))
        shares = [arm["everyday"] or usual, 1 - (arm["everyday"] or usual)][: len(groups)]
        config = TrainConfig(
            network=network.kind,
            width=network.width,
            head=network.head,
            size=arm["size"],
            batch=options.batch,
            lr=options.lr,
            encoder_lr=options.lr / 5,
            frozen_blocks=arm["frozen"],
            film=arm["film"],
            degradation=arm["degradation"],
            matched=arm["matched"],
            seed=options.seed,
            dtype="float32",
        )
        total = round(options.passes * (128 / arm["size"]) ** 2) // options.batch
        total = 0 if name == "start" else 2**31 if options.minutes else total
        params = jax.tree.map(jnp.copy, start)
        state = jax.device_put(step.create_state(config, 1, params, histogram), whole)
        extra, began, done = tuple(sorted(arm.items())), time.perf_counter(), 0
        for chosen in batches(groups, shares, options.batch, options.seed):
            minutes = (time.perf_counter() - began) / 60
            progress = minutes / options.minutes if options.minutes else done / max(total, 1)
            if done == total or progress >= 1:
                break
            rate = min((done + 1) / 20, 1) * options.lr
            rate *= 1 - max(0, (progress - 1 + options.cool) / options.cool) ** 0.5
            squashed = np.isin(first[chosen], SQUASHED)
            images = (jax.device_put(x, split) for x in (pool.images[chosen], squashed))
            state, value = train_step(config, extra, state, *images, jnp.float32(rate))
            done += 1
            if done % 100 == 0:
                print(f"{name} {done * options.batch} passes, loss {value:.4f}", flush=True)
        ema = jax.device_get(step.local(state.ema))
        row = {"arm": name, "seed": options.seed, "lr": options.lr, "cool": options.cool}
        row |= {"passes": done * options.batch, "seconds": round(time.perf_counter() - began)}
        row |= {part: photographs.measure(ema, network) for part, photographs in sets.items()}
        with open(options.json, "a") as file:
            print(json.dumps(row), file=file)
        print(name, {part: [round(v[0], 3) for v in row[part].values()] for part in sets})
        if options.save:
            options.save.mkdir(parents=True, exist_ok=True)
            header = {"kind": network.kind, "width": network.width, "head": network.head}
            path = options.save / f"{name}-{options.seed}.safetensors"
            checkpoint.save_weights(path, ema, header, row, decoding=replace(decoding))
    return 0


if __name__ == "__main__":
    sys.exit(main())
