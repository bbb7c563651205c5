import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import picture, refused
from PIL import Image

import colorize
from colorjax import Colorizer, Hint, color, hints, model, palette
from colorjax.hints import HintError
from colorjax.media import hint_files
from colorjax.media.film_hints import FilmHints
from colorjax.model import NetworkConfig
from colorjax.palette import Decoding

SIZE = 96, 130
RED, BLUE = "#b04040", "#4060b0"


@pytest.fixture(scope="module")
def colorizer():
    return Colorizer.load()


@pytest.fixture(scope="module")
def image():
    """A grey photograph of light and dark shapes."""
    return picture(3, *SIZE)[..., 1]


@pytest.fixture(scope="module")
def analysis(colorizer, image):
    return colorizer.analyze(image)


@pytest.fixture
def grey(tmp_path, image):
    path = tmp_path / "in.png"
    Image.fromarray(image).save(path)
    return path


def run(*argv):
    return colorize.main([str(word) for word in argv])


def ab_at(rgb, hint):
    lab = color.rgb_to_lab(rgb[int(hint.y), int(hint.x)] / np.float32(255))
    return np.asarray(lab)[1:]


def wanted(image, hint):
    """The ab of a hint at its pixel's own lightness, as far as the gamut allows."""
    lightness = color.grey_lightness(image[int(hint.y), int(hint.x)] / np.float32(255))
    ab = np.asarray(
        color.rgb_to_lab(np.float32([int(hint.color[i : i + 2], 16) / 255 for i in (1, 3, 5)]))
    )
    lab = np.float32([float(lightness), *ab[1:]])
    return np.asarray(color.rgb_to_lab(color.fit_gamut(lab)))[1:]


def miss(rgb, image, hint):
    return np.linalg.norm(ab_at(rgb, hint) - wanted(image, hint))


@pytest.mark.parametrize("seed", range(4))
def test_each_hint_is_met_at_full_resolution(colorizer, image, analysis, seed):
    random = np.random.default_rng(seed)
    given = [
        Hint(20.0 + 30 * column, 15.0 + 30 * row, f"#{random.integers(1 << 24):06x}")
        for row in range(3)
        for column in range(4)
    ]
    out = colorizer(image, given, analysis=analysis)
    assert max(miss(out, image, hint) for hint in given) < 3


def test_two_colors_near_to_each_other_are_both_met(colorizer, image, analysis):
    given = [Hint(60, 50, RED), Hint(66, 50, BLUE)]  # three cells apart
    out = colorizer(image, given, analysis=analysis)
    assert max(miss(out, image, hint) for hint in given) < 3


@pytest.mark.parametrize("name", ["keller-chaplin-1919", "saratoga-1900s", "detroit-1915"])
def test_hints_are_met_on_photographs_at_full_resolution(colorizer, name):
    path = Path(colorize.__file__).parent / "examples" / f"{name}.jpg"
    image = np.asarray(Image.open(path).convert("L"))
    height, width = image.shape
    random, given = np.random.default_rng(0), []
    for row in range(3):
        for column in range(4):
            x, y = (2 * column + 1) * width // 8, (2 * row + 1) * height // 6
            given.append(Hint(x, y, f"#{random.integers(1 << 24):06x}"))
    given.append(Hint(given[0].x + width // 24, given[0].y, BLUE))  # near to another, unlike it
    out = colorizer(image, given)
    assert max(miss(out, image, hint) for hint in given) < 3


@pytest.mark.parametrize("shape", [(31, 47), (300, 90), (700, 520, 3)])
def test_hints_are_met_at_any_size_and_near_the_border(colorizer, shape):
    image = np.ascontiguousarray(picture(5, *shape[:2])[..., :1].repeat(3, 2))
    image = image if len(shape) == 3 else image[..., 0]
    height, width = shape[:2]
    given = [Hint(0, 0, RED), Hint(width - 1, height - 1, BLUE), Hint(width / 2, height / 2, RED)]
    out = colorizer(image, given)
    grey = image if image.ndim == 2 else image[..., 0]
    assert out.shape == (height, width, 3)
    assert max(miss(out, grey, hint) for hint in given) < 3


def test_marks_in_one_place_are_averaged(colorizer, image, analysis):
    given = [Hint(60, 50, RED), Hint(60, 50, BLUE)]
    mean = hints.ab_of([RED, BLUE]).mean(0)
    assert np.linalg.norm(ab_at(colorizer(image, given, analysis=analysis), given[0]) - mean) < 3


def test_only_hue_and_chroma_of_a_hint_count(colorizer, image, analysis):
    lab = np.asarray(color.rgb_to_lab(np.float32([0x80, 0x60, 0x58]) / 255))
    colors = hints.hex_of(np.array([[level, *lab[1:]] for level in (40.0, 70.0)]))
    one, other = (colorizer(image, [Hint(60, 50, name)], analysis=analysis) for name in colors)
    assert np.abs(one.astype(int) - other).max() <= 3


def test_lightness_stays_with_hints(colorizer, image, analysis):
    out = colorizer(image, [Hint(60, 50, "#ff0000"), Hint(10, 10, "#0000ff")], analysis=analysis)
    before = color.grey_lightness(image / np.float32(255))
    assert np.abs(color.lightness(out / np.float32(255)) - before).max() < 0.5


def test_what_looks_alike_takes_the_color_and_what_does_not_keeps_its_own():
    height = width = 32
    lightness = np.full((height, width), 30.0, np.float32)
    features = np.zeros((height, width, 8), np.float32)
    features[..., 0] = 1
    lightness[:, 16:], features[:, 16:] = 80, np.eye(8, dtype=np.float32)[1]
    image = np.full((128, 128), 90, np.uint8)
    ab = np.zeros((height, width, 2), np.float32)
    out = hints.apply(ab, lightness, features, None, [Hint(40, 64, RED)], image)
    given = np.linalg.norm(hints.ab_of([RED])[0])
    chroma = np.linalg.norm(out, axis=-1)
    assert chroma[8:24, 4:14].min() > 0.5 * given > 3 * chroma[:, 20:].max()


def test_a_neutral_hint_protects(colorizer, image, analysis):
    dye, guard = Hint(60, 50, "#c02020"), Hint(90, 50, "#808080")
    free = colorizer(image, [dye], analysis=analysis)
    guarded = colorizer(image, [dye, guard], analysis=analysis)
    assert np.linalg.norm(ab_at(guarded, guard)) < 3 < np.linalg.norm(ab_at(free, guard))


def test_reach_decides_how_far_a_hint_carries(image, analysis):
    def changed(**values):
        given = [Hint(60, 50, "#c02020", **values)]
        return np.abs(analysis.with_hints(image, analysis.ab, given) - analysis.ab).mean()

    assert 4 * changed(reach=0.2) < changed() < changed(reach=3)
    one = analysis.with_hints(image, analysis.ab, [Hint(60, 50, RED)], 0.5)
    other = analysis.with_hints(image, analysis.ab, [Hint(60, 50, RED, reach=0.5)])
    assert np.array_equal(one, other)


def test_a_radius_holds_for_a_disc(colorizer, image, analysis):
    hint = Hint(60, 50, "#a06050", radius=20, reach=0.1)
    out = colorizer(image, [hint], analysis=analysis)
    around = [Hint(60 + x, 50 + y, hint.color) for x, y in ((-12, 0), (12, 0), (0, 12), (0, -12))]
    assert max(miss(out, image, place) for place in around) < 6
    point = colorizer(image, [Hint(60, 50, hint.color, reach=0.1)], analysis=analysis)
    assert max(miss(point, image, place) for place in around) > 6


def test_10000_marks_are_thinned(image, analysis):
    random = np.random.default_rng(0)
    given = [
        Hint(float(x), float(y), RED) for y, x in random.integers(0, SIZE, (10_000, 2)).tolist()
    ]
    cells = analysis.ab.shape[0], analysis.ab.shape[1]
    assert len(hints.to_marks(given, SIZE, cells).rows) <= 1000
    assert np.isfinite(analysis.with_hints(image, analysis.ab, given)).all()


def test_networks_without_bins_take_hints_and_suggest_nothing(image):
    network = NetworkConfig(kind="paper")
    plain = Colorizer(model.init(0, network), network)
    out = plain(image, [Hint(60, 50, RED)])
    assert miss(out, image, Hint(60, 50, RED)) < 3
    with pytest.raises(ValueError, match="no bins"):
        plain.suggest(image, 60, 50)


def test_suggestions_are_five_different_colors_of_the_places_lightness(colorizer, image, analysis):
    found = colorizer.suggest(image, 60, 50, analysis)
    rgb = np.array([[int(name[i : i + 2], 16) for i in (1, 3, 5)] for name in found])
    lab = np.asarray(color.rgb_to_lab(rgb / np.float32(255)))
    own = color.grey_lightness(image[50, 60] / np.float32(255))
    assert len(found) == 5 and np.abs(lab[:, 0] - own).max() < 0.5
    apart = np.linalg.norm(lab[:, None, 1:] - lab[None, :, 1:], axis=-1)
    assert apart[np.triu_indices(5, 1)].min() > 10


def test_the_likeliest_color_is_suggested_first_and_then_the_next_one():
    bins = palette.bins()
    likely = np.zeros(261)
    red, blue = (int(((bins - ab) ** 2).sum(1).argmin()) for ab in ((30, 20), (0, -30)))
    likely[[red, blue]] = 0.6, 0.4
    found = hints.ab_of(hints.suggest(likely, 50.0))
    assert np.linalg.norm(found[0] - bins[red]) < 2 and np.linalg.norm(found[1] - bins[blue]) < 2


def test_corrections_shift_and_scale_the_automatic_color(colorizer, image, analysis):
    from colorjax.colorizer import neutral

    ab, how = np.float32([[[3, 4]]]), Decoding(saturation=2, warmth=5, tint=-1)
    assert np.allclose(palette.decode(ab, "ab", how), [[[5, 13]]])
    warm, cool = (Colorizer.load(warmth=warmth)(image).astype(int) for warmth in (10, -10))
    assert (warm[..., 2].mean() < cool[..., 2].mean()) and (
        warm[..., 0].mean() > cool[..., 0].mean()
    )
    shifted = replace(analysis, ab=analysis.ab + np.float32([7, -9]))
    assert np.allclose(neutral(shifted), neutral(analysis), atol=1e-4)


def test_neutral_highlights_are_those_of_the_photograph_not_of_what_surrounds_it():
    from colorjax.colorizer import Analysis, neutral

    lightness = np.full((32, 32), 50.0, np.float32)
    lightness[:4], lightness[16:] = 80, 100  # the lower half repeats the photograph's border
    ab = np.zeros((8, 8, 2), np.float32)
    ab[0], ab[4:] = (5, 7), (30, 30)
    analysis = Analysis(lightness, (0.5, 1.0), ab, ab, ab, None)
    assert np.allclose(neutral(analysis)[0], 0)


def test_tint_counts_beside_neutral_highlights(grey, tmp_path):
    paths = tmp_path / "plain.png", tmp_path / "tinted.png"
    for path, tint in zip(paths, ("0", "12"), strict=True):
        assert run(grey, path, "--warmth", "auto", "--tint", tint) == 0
    plain, tinted = (np.asarray(Image.open(path)).astype(int) for path in paths)
    assert (tinted[..., 0] - tinted[..., 1]).mean() > (plain[..., 0] - plain[..., 1]).mean() + 5


def scene(lightness=50.0):
    features = np.zeros((8, 8, 4), np.float32)
    features[:, :4, 0] = features[:, 4:, 1] = 1
    return np.full((32, 32), lightness, np.float32), features, np.full((8, 8), 12.0, np.float32)


def seen(ab, lightness, features, spread):
    """In place of an analysis."""
    return SimpleNamespace(
        ab=ab, lightness=lightness, features=features, spread=spread, content_fraction=(1.0, 1.0)
    )


def test_a_films_hint_holds_from_its_time_to_the_next_cut():
    film = FilmHints([Hint(4, 16, RED, time=1.0)])
    ab = np.zeros((8, 8, 2), np.float32)
    changes = []
    for frame in range(40):  # ten a second, with a cut after three seconds
        out = film(seen(ab, *scene()), (32, 32), (frame + 1) / 10, frame == 30)
        changes.append(np.abs(out - ab).max())
    assert not any(changes[:10]) and min(changes[10:30]) > 15 and not any(changes[30:])


def test_a_films_hint_follows_what_it_was_given_to():
    film = FilmHints([Hint(4, 16, RED)])
    ab = np.zeros((8, 8, 2), np.float32)
    lightness, features, spread = scene()
    film(seen(ab, lightness, features, spread), (32, 32), 0.1, False)
    out = film(seen(ab, lightness, features[:, ::-1], spread), (32, 32), 0.2, False)
    chroma = np.linalg.norm(out, axis=-1)
    assert chroma[:, 5:].min() > 2 * chroma[:, :3].max()


def test_json_and_csv_say_the_same(tmp_path, image):
    points = [{"x": 60, "y": 50, "color": RED, "radius": 4}, {"x": 5.5, "y": 6, "color": BLUE}]
    one, other = tmp_path / "hints.txt", tmp_path / "hints.dat"  # content decides
    one.write_text(json.dumps({"points": points}))
    assert hint_files.read(one, image) == [Hint(60, 50, RED, 4), Hint(5.5, 6, BLUE)]
    for text in (f"x,y,color\n60,50,{RED}\n5.5,6,{BLUE}\n", f"\ufeff60;50;{RED}\r\n5.5;6;{BLUE}"):
        other.write_text(text, encoding="utf-8")
        assert hint_files.read(other, image) == [Hint(60, 50, RED), Hint(5.5, 6, BLUE)]


@pytest.mark.parametrize("suffix, options", [("png", {}), ("jpg", {"quality": 75})])
def test_a_marked_copy_is_read_where_it_differs(tmp_path, suffix, options):
    image = picture(1, 240, 320)[..., 1]
    copy = np.stack([image] * 3, -1)
    copy[100:108, 40:120] = 0xB0, 0x40, 0x40
    copy[180:190, 200:260] = 0x40, 0x60, 0xB0
    Image.fromarray(copy).save(tmp_path / f"copy.{suffix}", **options)
    found = hint_files.read(tmp_path / f"copy.{suffix}", image)
    kinds = hints.ab_of([hint.color for hint in found])
    misses = np.linalg.norm(kinds[:, None] - hints.ab_of([RED, BLUE]), axis=-1)
    red = misses.argmin(1) == 0
    inside = [
        (39 <= hint.x <= 120 and 99 <= hint.y <= 108)
        or (199 <= hint.x <= 260 and 179 <= hint.y <= 190)
        for hint in found
    ]
    assert all(inside) and red.sum() > 300 and (~red).sum() > 300
    assert np.median(misses.min(1)) < 5 and misses.min(1).max() < 25  # JPEG smears the edges


def test_jpegs_noise_in_a_copy_is_no_mark(tmp_path):
    image = picture(1, 240, 320)[..., 1]
    Image.fromarray(np.stack([image] * 3, -1)).save(tmp_path / "copy.jpg", quality=50)
    with pytest.raises(HintError, match="no marks"):
        hint_files.read(tmp_path / "copy.jpg", image)


def test_grey_marks_on_a_copy_are_neutral_hints(tmp_path):
    image = picture(1, 240, 320)[..., 1] // 2
    copy = np.stack([image] * 3, -1)
    copy[100:110, 40:120] = 220
    Image.fromarray(copy).save(tmp_path / "copy.png")
    found = hint_files.read(tmp_path / "copy.png", image)
    assert len(found) > 300 and {hint.color for hint in found} == {"#dcdcdc"}


@pytest.mark.parametrize("mode", ["RGBA", "P"])
def test_a_layer_of_strokes_is_read_where_it_is_not_transparent(tmp_path, image, mode):
    layer = np.zeros((*SIZE, 4), np.uint8)
    layer[40:50, 20:60] = 0xB0, 0x40, 0x40, 255
    layer[50:52, 20:60] = 0xB0, 0x40, 0x40, 40  # a soft edge
    picture = Image.fromarray(layer)
    picture = picture if mode == "RGBA" else picture.quantize(8)
    picture.save(tmp_path / "strokes.png")
    found = hint_files.read(tmp_path / "strokes.png", image)
    assert len(found) == 400 and {hint.color for hint in found} == {RED}
    assert all(20 <= hint.x < 60 and 40 <= hint.y < 50 for hint in found)


def test_hints_belong_to_the_upright_photograph(tmp_path, image):
    exif = Image.Exif()
    exif[274] = 6  # turned by a quarter
    Image.fromarray(np.rot90(image)).save(tmp_path / "turned.png", exif=exif)
    (tmp_path / "hints.csv").write_text(f"120,50,{RED}")
    out = tmp_path / "out.png"
    assert run(tmp_path / "turned.png", out, "--hints", tmp_path / "hints.csv") == 0
    rgb = np.asarray(Image.open(out))
    assert rgb.shape == (*SIZE, 3) and miss(rgb, image, Hint(120, 50, RED)) < 3


def test_the_command_line_takes_hints_and_corrections(grey, tmp_path, image):
    path, out, other = tmp_path / "hints.json", tmp_path / "out.png", tmp_path / "other.png"
    path.write_text(json.dumps({"points": [{"x": 60, "y": 50, "color": RED}]}))
    sure = tmp_path / "sure.png"
    assert run(grey, out, "--hints", path, "--warmth", "8", "--tint=-3", "--confidence", sure) == 0
    assert miss(np.asarray(Image.open(out)), image, Hint(60, 50, RED)) < 3
    assert Image.open(sure).size == SIZE[::-1]
    assert run(grey, other, "--hints", path, "--reach", "0.1", "--warmth", "auto") == 0
    assert (np.asarray(Image.open(other)) != np.asarray(Image.open(out))).any()


@pytest.mark.parametrize(
    "text, words",
    [
        ("", ["empty"]),
        ("hello", ["line 1", "x,y,#rrggbb"]),
        (f"1,2,{RED}\n3,4", ["line 2"]),
        ("x,y,color\n", ["no hints"]),
        ("5,5,#12345", ["line 1", "'#12345'"]),
        ("5,5,red", ["line 1", "'red'"]),
        (f"nan,5,{RED}", ["line 1", "x is nan"]),
        (f"130,5,{RED}", ["hint 1", "x = 130", "130 × 96"]),
        (f"5,-1,{RED}", ["hint 1", "y = -1", "130 × 96"]),
        ('{"points": []}', ["list of hints"]),
        ('{"points": [5]}', ["hint 1 is 5"]),
        ('{"points": [{"x": 1, "y": 2}]}', ["hint 1 lacks color"]),
        ('{"points": [{"x": 1, "y": 2, "color": "#111111", "size": 3}]}', ["'size'"]),
        ('{"points": [{"x": "1", "y": 2, "color": "#111111"}]}', ["x is '1'"]),
        (f'{{"points": [{{"x": {10**400}, "y": 2, "color": "#111111"}}]}}', ["x is 1000"]),
        ('{"points": [{"x": true, "y": 2, "color": "#111111"}]}', ["x is True"]),
        ('{"points": [{"x": 1, "y": 2, "color": 5}]}', ["color is 5"]),
        ('{"points": [{"x": 1, "y": 2, "color": "#111111", "radius": -1}]}', ["radius is -1"]),
        ('{"points": [{"x": 1, "y": 2, "color": "#111111", "time": 1}]}', ["no film"]),
        ('{"points": ', ["no JSON"]),
        ("[" * 100_000, ["no JSON"]),
    ],
)
def test_bad_hints_get_a_sentence(grey, tmp_path, capsys, text, words):
    path = tmp_path / "hints.txt"
    path.write_text(text)
    argv = [grey, tmp_path / "out.png", "--hints", path]
    refused(capsys, colorize.main, argv, path, *words)
    assert not (tmp_path / "out.png").exists()


def test_other_bad_input_gets_a_sentence(grey, tmp_path, capsys):
    out, other = tmp_path / "out.png", tmp_path / "other.png"
    Image.new("RGBA", (20, 30), (255, 0, 0, 128)).save(other)
    refused(capsys, colorize.main, [grey, out, "--hints", other], other, "20 × 30", "130 × 96")
    Image.new("RGBA", SIZE[::-1]).save(other)
    refused(capsys, colorize.main, [grey, out, "--hints", other], other, "no marks")
    other.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(50))
    refused(capsys, colorize.main, [grey, out, "--hints", other], other)
    refused(capsys, colorize.main, [grey, out, "--hints", tmp_path / "none"], "none")
    folder = tmp_path / "out"
    refused(capsys, colorize.main, [tmp_path, folder, "--hints", other], other, "folder")
    refused(capsys, colorize.main, [grey, out, "--warmth", "hot"], "--warmth hot")
    refused(capsys, colorize.main, [grey, out, "--warmth", "101"], "--warmth 101")
    refused(capsys, colorize.main, [grey, out, "--tint", "nan"], "--tint nan")
    refused(capsys, colorize.main, [grey, out, "--reach", "0"], "--reach 0")
    refused(capsys, colorize.main, [tmp_path, folder, "--warmth", "auto"], "--warmth auto")


def test_a_hint_outside_the_photograph_is_named(colorizer, image, analysis):
    with pytest.raises(HintError, match="hint 2 is at x = 130, y = 5"):
        colorizer(image, [Hint(5, 5, RED), Hint(130, 5, RED)], analysis=analysis)
    with pytest.raises(HintError, match="x = -1"):
        colorizer.suggest(image, -1, 5, analysis)


def test_the_command_line_takes_a_films_hints(tmp_path, capsys):
    import av

    source, out, path = tmp_path / "in.mp4", tmp_path / "out.mp4", tmp_path / "hints.json"
    still = np.full((64, 96, 3), 60, np.uint8)
    still[:, 48:] = 160
    with av.open(str(source), "w") as film:
        stream = film.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for _ in range(12):
            film.mux(stream.encode(av.VideoFrame.from_ndarray(still, "rgb24")))
        film.mux(stream.encode(None))
    points = [{"x": 20, "y": 30, "color": BLUE, "time": time} for time in (0.5, 7)]
    path.write_text(json.dumps({"points": points}))
    assert run(source, out, "--hints", path) == 0
    assert "not used: 7 s" in capsys.readouterr().out
    with av.open(str(out)) as film:
        frames = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    bluer = [
        float(frame[20:40, 10:30, 2].mean() - frame[20:40, 10:30, 0].mean()) for frame in frames
    ]
    assert len(frames) == 12 and max(bluer[:5]) + 5 < bluer[5] and bluer[11] > bluer[5] + 10
    points[0]["x"] = 96
    path.write_text(json.dumps({"points": points}))
    refused(capsys, colorize.main, [source, tmp_path / "b.mp4", "--hints", path], path, "x = 96")
