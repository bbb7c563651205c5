import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import picture
from PIL import Image

from colorjax import data
from colorjax.media import files


def pack(folder, tmp_path, **options):
    said = []
    pool = data.load_pool(
        folder, options.pop("side", 24), tmp_path / "pools", say=said.append, **options
    )
    return pool, said


def test_every_format_and_depth_of_folder_is_packed(photographs, tmp_path):
    pool, said = pack(photographs, tmp_path)
    assert pool.images.shape == (40, 24, 24, 3) and pool.images.dtype == np.uint8
    suffixes = {os.path.splitext(path)[1] for path in pool.paths}
    assert suffixes == {".jpg", ".png", ".webp", ".tif", ".bmp"}
    assert len(set(pool.hashes.tolist())) == 40 and not pool.left_out
    # Row k is the photograph of path k: its mean colour is the centre square's.
    for row in (3, 20):
        source = np.asarray(Image.open(photographs / pool.paths[row]).convert("RGB"))
        inset = (source.shape[1] - source.shape[0]) // 2
        square = source[:, inset:-inset] if inset > 0 else source[-inset:inset]
        # within 3 of 255: scaling weighs borders otherwise, and JPEG is decoded at half size
        np.testing.assert_allclose(pool.images[row].mean((0, 1)), square.mean((0, 1)), atol=3)


def test_unchanged_folder_is_not_packed_again(photographs, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(photographs, folder)
    first, _ = pack(folder, tmp_path)
    again, said = pack(folder, tmp_path)
    assert "packed before" in said[0] and again.fingerprint == first.fingerprint
    Image.fromarray(picture(99)).save(folder / "new.png")
    changed, said = pack(folder, tmp_path)
    assert "packing 41" in said[0] and changed.fingerprint != first.fingerprint
    assert pack(folder, tmp_path, side=32)[0].images.shape[1] == 32


def test_what_is_left_out_is_counted_and_listed(photographs, tmp_path):
    folder = tmp_path / "mixed"
    shutil.copytree(photographs, folder)
    shutil.copy(folder / "flowers/001.png", folder / "again.png")
    Image.fromarray(picture(0)).convert("L").save(folder / "grey.png")
    (folder / "text.jpg").write_text("no picture")
    (folder / "empty.jpg").touch()
    content = (folder / "flowers/005.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(content[: len(content) // 2])
    Image.fromarray(picture(1, 8, 8)).save(folder / "tiny.png")
    pool, said = pack(folder, tmp_path)
    assert len(pool) == 40
    assert pool.left_out == {"duplicates": 1, "nearly grey": 1, "too small": 1, "unreadable": 3}
    listed = (pool.directory / "left-out.txt").read_text()
    for name in ("001.png", "grey.png", "text.jpg", "empty.jpg", "cut.jpg", "tiny.png"):
        assert name in listed
    assert any("left out: " in line for line in said)
    assert len(pack(folder, tmp_path, min_colorfulness=0)[0]) == 41


def test_interrupted_packing_leaves_no_pool(photographs, tmp_path):
    def interrupt(done, total):
        if done == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(photographs, tmp_path, progress=interrupt)
    assert not list((tmp_path / "pools").iterdir())
    assert len(pack(photographs, tmp_path)[0]) == 40


def test_one_new_photograph_is_all_that_is_decoded(photographs, tmp_path, monkeypatch):
    folder = tmp_path / "copy"
    shutil.copytree(photographs, folder)
    (folder / "text.jpg").write_text("no picture")
    shutil.copy(folder / "flowers/001.png", folder / "again.png")
    first, _ = pack(folder, tmp_path)
    Image.fromarray(picture(99)).save(folder / "a.png")
    os.utime(folder / "flowers/003.tif", (1, 1))  # changed, for all that is known
    read, decoded = files.read_small, []
    monkeypatch.setattr(
        files, "read_small", lambda c, path, s: decoded.append(path.name) or read(c, path, s)
    )
    second, said = pack(folder, tmp_path)
    # Of two that are the same, the one left out is looked at again: the other may have gone.
    assert sorted(decoded) == ["001.png", "003.tif", "a.png"]
    assert len(second) == 41 and second.left_out == first.left_out
    for row, path in enumerate(first.paths):
        place = second.paths.index(path)
        np.testing.assert_array_equal(first.images[row], second.images[place])
        assert first.hashes[row] == second.hashes[place]
    assert any("no longer used" in line and f"rm -r {first.directory}" in line for line in said)


def test_pools_that_others_use_are_not_named(photographs, tmp_path):
    pack(photographs, tmp_path, side=32)
    folder, namesake = tmp_path / "copy", tmp_path / "elsewhere/copy"
    shutil.copytree(photographs, folder)
    shutil.copytree(photographs / "flowers", namesake)
    others = [pack(namesake, tmp_path)[0], pack(folder, tmp_path, min_colorfulness=1)[0]]
    directory = tmp_path / "pools" / f"{folder.name}-24px-0123456789abcdef.tmp-x"
    directory.mkdir()  # of a packing that goes on right now
    assert not any("no longer" in line for line in pack(folder, tmp_path)[1])
    os.utime(directory, (0, 0))  # of one that was killed
    Image.fromarray(picture(99)).save(folder / "a.png")
    *_, said = pack(folder, tmp_path)[1]
    assert str(directory) in said and not any(str(pool.directory) in said for pool in others)


def test_a_default_given_explicitly_or_another_name_of_the_folder_packs_nothing_anew(
    photographs, tmp_path
):
    folder = tmp_path / "copy"
    shutil.copytree(photographs, folder)
    first, _ = pack(folder, tmp_path)
    again, said = pack(folder, tmp_path, min_colorfulness=15.0)
    assert "packed before" in said[0] and again.directory == first.directory
    folder.rename(tmp_path / "moved")
    moved, said = pack(tmp_path / "moved", tmp_path)
    assert "packed before" in said[0] and moved.fingerprint == first.fingerprint


def test_a_damaged_pool_is_named(photographs, tmp_path):
    directory = pack(photographs, tmp_path)[0].directory
    os.truncate(directory / "images", 5000)
    with pytest.raises(data.DataError, match="damaged") as error:
        pack(photographs, tmp_path)
    assert str(directory) in str(error.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "does not exist"),
        (lambda folder: folder.write_text("x"), "is a file"),
        (lambda folder: folder.mkdir(), "holds no photographs"),
        (lambda folder: (folder.mkdir(), (folder / "a.jpg").write_text("x")), "can be used"),
    ],
)
def test_folders_without_photographs(tmp_path, make, message):
    make(tmp_path / "folder")
    with pytest.raises(data.DataError, match=message) as error:
        pack(tmp_path / "folder", tmp_path)
    assert "folder" in str(error.value)


def test_full_disk_is_foreseen(photographs, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 100))
    with pytest.raises(data.DataError, match="GB free"):
        pack(photographs, tmp_path)


def test_split_is_by_content(photographs, tmp_path):
    pool, _ = pack(photographs, tmp_path)
    rows, held_out = data.split(pool, pool, 0.2, 8)
    assert sorted([*rows, *held_out]) == list(range(40)) and 1 <= len(held_out) < 20
    assert len(data.split(pool, pool, 1e-9, 8)[1]) == 1  # at least one
    folder = tmp_path / "more"
    shutil.copytree(photographs, folder)
    Image.fromarray(picture(99)).save(folder / "000-first.png")
    more, _ = pack(folder, tmp_path, side=32)
    names = {pool.paths[row] for row in held_out}
    assert names <= {more.paths[row] for row in data.split(more, more, 0.2, 8)[1]}
    with pytest.raises(data.DataError, match="fewer than one batch of 40"):
        data.split(pool, pool, 0.2, 40)


def test_photographs_of_the_validation_folder_are_not_trained_on(photographs, tmp_path):
    folder = tmp_path / "val"
    shutil.copytree(photographs / "flowers", folder)
    pool, val_pool = pack(photographs, tmp_path)[0], pack(folder, tmp_path)[0]
    rows, held_out = data.split(pool, val_pool, 0.2, 8)
    assert len(held_out) == 20 and len(rows) == 20
    assert not any("flowers" in pool.paths[row] for row in rows)


def test_two_may_pack_one_folder_at_once(photographs, tmp_path):
    def other_run(done, total):
        if done == 20 and not list(tmp_path.glob("pools/*px-*/index.json")):
            pack(photographs, tmp_path)

    pool, _ = pack(photographs, tmp_path, progress=other_run)
    assert len(pool) == 40 and (pool.images.reshape(40, -1).max(1) > 0).all()
    assert len(list((tmp_path / "pools").iterdir())) == 1  # nothing is left of either


def test_another_packing_may_end_meanwhile(photographs, tmp_path):
    directory = tmp_path / "pools" / f"{photographs.name}-24px-0123456789abcdef.tmp-x"
    directory.mkdir(parents=True)

    def ends(done, total):
        if done == 20:
            directory.rmdir()

    assert len(pack(photographs, tmp_path, progress=ends)[0]) == 40


def test_all_photographs_train_or_validate():
    """Of a large folder 256 validate, and all others train."""
    count = 30_000
    hashes = np.random.default_rng(0).integers(0, 2**64, count, np.uint64)
    pool = data.Pool(np.zeros((count, 0, 0, 3), np.uint8), hashes, [], {}, "", Path())
    rows, held_out = data.split(pool, pool, 0.02, 64)
    assert len(held_out) == 256 and len(rows) + len(held_out) == count


def test_batches_are_a_function_of_seed_and_step(photographs, tmp_path):
    pool, _ = pack(photographs, tmp_path)
    rows, labels = np.arange(3, 40), np.zeros(40, np.int32)

    def take(first, last, seed=0):
        batches = data.batches(pool, labels, rows, 8, seed, first, last)
        return [np.asarray(images) for images, _ in batches]

    whole = take(0, 12)
    assert len(whole) == 12 and whole[0].shape == (8, 24, 24, 3)
    np.testing.assert_array_equal(whole[7:], take(7, 12))
    assert (np.array(take(0, 12, seed=1)) != np.array(whole)).any()
    # An epoch is four batches of 8 out of 37 photographs, none twice, none held out.
    seen = [image.tobytes() for batch in whole[4:8] for image in batch]
    assert len(set(seen)) == 32
    assert not {pool.images[row].tobytes() for row in range(3)} & set(seen)
    assert any((a != b).any() for a, b in zip(whole[:4], whole[4:8], strict=True))
    assert take(5, 5) == []
