"""The page: who may ask, what a session does, and all of it in a real browser."""

import base64
import dataclasses
import io
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zipfile
import zlib
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote

import anyio
import numpy as np
import pytest
from conftest import picture, refused
from PIL import Image

if "COLORJAX_BROWSER_REQUIRED" not in os.environ:
    pytest.importorskip("starlette")
    pytest.importorskip("uvicorn")
import uvicorn
from starlette.testclient import TestClient

from colorjax import Colorizer, checkpoint, cli, model
from colorjax.palette import Decoding
from colorjax.web import server, start
from colorjax.web.edit import Edit, RequestError
from colorjax.web.session import Session

TOKEN = "a-token-of-the-tests"
HOST = "127.0.0.1:8000"
OWN = {"sec-fetch-site": "same-origin"}
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A fast network of random weights, large enough that colours differ."""
    network = model.NetworkConfig(kind="unet", width=16, head="bins")
    params = model.init(0, network)
    random = np.random.default_rng(0)
    params["head"]["kernel"] = random.normal(0, 0.3, params["head"]["kernel"].shape)
    decoding = Decoding(working_size=64, bin_weights=np.linspace(0.5, 2, 261, dtype=np.float32))
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    checkpoint.save_weights(path, params, dataclasses.asdict(network), {}, decoding=decoding)
    return path


@pytest.fixture(scope="module")
def tiny(weights):
    return Colorizer.load(weights)


@pytest.fixture
def session(tiny):
    with Session(tiny, max_megapixels=5, max_bytes=2_000_000) as session:
        yield session


def client_of(session, host=HOST, opened=True):
    client = TestClient(
        server.application(session, TOKEN, {HOST}),
        base_url=f"http://{host}",
        follow_redirects=False,
    )
    client.headers.update(OWN)
    if opened:
        client.get("/", params={"token": TOKEN})
    return client


@pytest.fixture
def client(session):
    return client_of(session)


def encoded(pixels, kind="PNG", **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def huge_header():
    """A PNG that says it has 25,000 × 20,000 pixels."""
    png = bytearray(encoded(np.zeros((8, 8), np.uint8)))
    png[16:24] = struct.pack(">II", 25_000, 20_000)
    png[29:33] = struct.pack(">I", zlib.crc32(png[12:29]))
    return bytes(png)


def add(client, data=None, name="a.png"):
    data = encoded(picture(1)) if data is None else data
    return client.put("/api/photographs", params={"name": name}, content=data)


# Who may ask.


def test_without_the_token_nothing_is_shown(session):
    client = client_of(session, opened=False)
    for path in ("/", "/page.js", "/api/state", "/?token=", "/?token=wrong"):
        assert client.get(path).status_code == 403
    assert add(client).status_code == 403 and not session.items


def test_the_token_becomes_a_cookie_that_other_sites_do_not_send(session):
    client = client_of(session, opened=False)
    answer = client.get("/", params={"token": TOKEN})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"].lower()
    assert "samesite=strict" in cookie and "httponly" in cookie
    assert client.get("/").status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example:8000", "127.0.0.1", "127.0.0.1:8001", "127.0.0.1:8000.evil.example", ""]
)
def test_another_host_is_refused_before_anything_else(client, host):
    assert client.get("/", headers={"host": host}).status_code == 421
    assert client.get("/nowhere", headers={"host": host}).status_code == 421


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site", "origin": f"http://{HOST}"},  # a page on another port
        {"sec-fetch-site": "none"},
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {},
    ],
)
def test_only_our_own_page_may_change_anything(client, session, headers):
    del client.headers["sec-fetch-site"]
    png = encoded(picture(1))
    answer = client.put("/api/photographs?name=a.png", content=png, headers=headers)
    assert answer.status_code == 403 and not session.items
    assert client.post("/api/zip", json={"ids": []}, headers=headers).status_code == 403


def test_a_browser_that_names_only_the_origin_may_change_things(client):
    del client.headers["sec-fetch-site"]
    png = encoded(picture(1))
    headers = {"origin": f"http://{HOST}"}
    assert client.put("/api/photographs?name=a.png", content=png, headers=headers).is_success


def test_every_answer_forbids_what_the_page_does_not_need(client):
    for path in ("/", "/page.css", "/nowhere", "/api/state"):
        headers = client.get(path, headers={"origin": "http://evil.example"}).headers
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'self';") and "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"  # the first address holds the token
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert not any(name.startswith("access-control") for name in headers)


@pytest.mark.parametrize(
    "path",
    ["/../server.py", "/%2e%2e/server.py", "/page/../../cli.py", "//etc/passwd", "/example.jpg"],
)
def test_no_path_of_a_request_reaches_a_file(client, path):
    assert client.get(path).status_code == 404


def test_the_names_of_this_machine_alone_are_allowed_unless_it_is_told_otherwise():
    local = {"127.0.0.1:80", "localhost:80", "[::1]:80"}
    assert start.allowed_hosts("127.0.0.1", 80) == local
    assert start.allowed_hosts("192.168.1.5", 80) == {"192.168.1.5:80"}
    assert local | {f"{socket.gethostname()}:80"} <= start.allowed_hosts("0.0.0.0", 80)


# What comes in.


@pytest.mark.parametrize(("says", "pieces"), [({}, 5), ({"content-length": "2000001"}, 0)])
def test_an_upload_is_counted_as_it_comes_or_not_read_at_all(session, says, pieces):
    app = server.application(session, TOKEN, {HOST})
    taken, answers = 0, []

    async def receive():
        nonlocal taken
        taken += 1
        return {"type": "http.request", "body": bytes(500_000), "more_body": True}  # endless

    async def send(message):
        answers.append(message)

    headers = {"host": HOST, "cookie": f"colorjax-8000={TOKEN}", **OWN, **says}
    scope = {
        "type": "http",
        "method": "PUT",
        "path": "/api/photographs",
        "query_string": b"name=a.png",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    anyio.run(app, scope, receive, send)
    assert answers[0]["status"] == 413 and taken == pieces
    assert b"a.png is larger than 2 MiB" in answers[1]["body"]
    assert not list(session.directory.iterdir())


def test_pixels_are_counted_from_the_header_before_they_are_decoded(client, session):
    start = time.perf_counter()
    answer = add(client, huge_header(), "huge.png")
    assert answer.status_code == 400 and time.perf_counter() - start < 2
    assert "huge.png has 500 megapixels" in answer.json()["error"]
    assert str(session.directory) not in answer.json()["error"]
    assert not list(session.directory.iterdir())


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "a.svg"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "a.png"),
        (b"", "empty.png"),
        (encoded(picture(1))[:200], "cut.png"),
        (b"%PDF-1.4", "a.pdf"),
    ],
)
def test_what_is_no_photograph_is_refused_by_its_name(client, session, data, name):
    answer = add(client, data, name)
    assert answer.status_code == 400 and name in answer.json()["error"]
    assert str(session.directory) not in answer.text
    assert not session.items and not list(session.directory.iterdir())


def test_uploads_lie_under_names_of_our_own_where_only_the_owner_may_enter(client, session):
    assert add(client, name="../../evil.png").json()["name"] == "evil.png"
    assert add(client, name="..\\..\\evil.png").json()["name"] == "evil.png"
    assert session.directory.stat().st_mode & 0o777 == 0o700
    names = [path.name for path in session.directory.iterdir()]
    assert len(names) == 2 and all(re.fullmatch(r"[0-9a-f]{32}\.png", name) for name in names)


def test_a_closed_session_leaves_nothing(tiny):
    with Session(tiny) as session:
        (session.directory / "upload").write_bytes(b"x")
    assert not session.directory.exists()


def test_one_job_runs_at_a_time(client, session, monkeypatch):
    running, most = 0, 0

    def slow(path, name):
        nonlocal running, most
        running += 1
        most = max(most, running)
        time.sleep(0.05)
        running -= 1
        raise RequestError("enough")

    monkeypatch.setattr(session, "add", slow)
    with client:  # one event loop for all
        threads = [threading.Thread(target=add, args=(client,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert most == 1


@pytest.mark.parametrize(
    "edit",
    [
        [],
        {"hints": {}},
        {"hints": [{"x": 1, "y": 1, "color": "red"}]},
        {"hints": [{"x": 1, "y": 1, "color": "#12345g"}]},
        {"hints": [{"x": 52, "y": 1, "color": "#123456"}]},
        {"hints": [{"x": -1, "y": 1, "color": "#123456"}]},
        {"hints": [{"x": "1", "y": 1, "color": "#123456"}]},
        {"hints": [{"x": 1, "y": 1, "color": "#123456", "reach": 0}]},
        {"hints": [{"x": 1, "y": 1, "color": "#123456"}] * 501},
        {"saturation": -1},
        {"saturation": float("nan")},
        {"warmth": 1e9},
        {"rarity": True},
    ],
)
def test_an_edit_that_makes_no_sense_is_refused(client, edit):
    id = add(client).json()["id"]
    answer = client.post(f"/api/photographs/{id}/color", content=json.dumps(edit))
    assert answer.status_code == 400 and answer.json()["error"].endswith(".")


def test_requests_without_sense_get_a_sentence(client):
    id = add(client).json()["id"]
    for answer in (
        client.post("/api/photographs/nothing/color", json={}),
        client.post(f"/api/photographs/{id}/color", content=b"{"),
        client.post(f"/api/photographs/{id}/suggest", json={"x": 1e9, "y": 0}),
        client.post(f"/api/photographs/{id}/save", json={"format": ".svg"}),
        client.post(f"/api/photographs/{id}/save", json={"format": "/etc/x.png"}),
        client.post(f"/api/photographs/{id}/keep", json={"keep": True}),
        client.post(f"/api/photographs/{id}/hints", content=b"[]"),
        client.post("/api/given", json={"number": 0}),
        client.get(f"/api/photographs/{id}/preview?side=x"),
        client.get(f"/api/photographs/{id}/detail?left=99&top=0&width=9&height=9"),
    ):
        assert answer.status_code == 400 and answer.json()["error"].endswith(".")
    for format in (".svg", "/../../x.png"):
        answer = client.post(f"/api/photographs/{id}/save", json={"format": format})
        assert answer.json()["error"] == f"{format} is no format to save in."
    big = client.post(f"/api/photographs/{id}/color", content=bytes(2**20 + 1))
    assert big.status_code == 413


# What a session does.


def test_the_preview_is_the_lightness_of_the_photograph(session, tmp_path):
    rgb = picture(3, 50, 70)
    Image.fromarray(rgb).save(tmp_path / "a.png")
    item = session.add(tmp_path / "a.png", "a.png")
    grey = session.preview(item.id, 1600)
    assert grey.shape == (50, 70) and grey.dtype == np.uint8
    luminance = Image.fromarray(rgb).convert("L")
    assert np.abs(grey.astype(int) - np.asarray(luminance)).mean() < 6
    assert session.preview(item.id, 35).shape == (25, 35)
    np.testing.assert_array_equal(session.detail(item.id, 10, 5, 20, 30), grey[5:35, 10:30])


def test_a_hint_changes_the_colour_and_no_hint_is_the_automatic_one(session, tmp_path, tiny):
    Image.fromarray(picture(3)).save(tmp_path / "a.png")
    item = session.add(tmp_path / "a.png", "a.png")
    plain = session.color(item.id, Edit())
    lightness, _ = tiny.to_network_input(picture(3))
    np.testing.assert_allclose(plain, tiny.predict(lightness[None])[0][0], atol=1e-2)
    hinted = Edit.from_json({"hints": [{"x": 20, "y": 20, "color": "#2040c0"}]}, item.size)
    assert np.abs(session.color(item.id, hinted) - plain).max() > 10
    bolder = session.color(item.id, Edit(rarity=1.0))
    assert np.abs(bolder - plain).max() > 0.5


def test_photographs_forgotten_meanwhile_come_back(session, tmp_path):
    ids, first = [], None
    for number in range(6):
        Image.fromarray(picture(number)).save(tmp_path / f"{number}.png")
        ids.append(session.add(tmp_path / f"{number}.png", f"{number}.png").id)
        first = session.color(ids[0], Edit()) if first is None else first
    np.testing.assert_allclose(session.color(ids[0], Edit()), first, atol=1e-4)


def test_hints_are_kept_beside_the_photograph_if_the_person_says_so(tiny, tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(picture(3)).save(path)
    hints = {"hints": [{"x": 20, "y": 20, "color": "#2040c0"}], "warmth": 3}
    with Session(tiny, [path]) as session:
        item = session.add_given(0)
        edit = Edit.from_json(hints, item.size)
        session.color(item.id, edit)
        assert not list(tmp_path.glob("*.json"))
        item.set_keep(True, tiny.decoding)
        session.color(item.id, warmer := Edit(edit.hints, warmth=5))
    with Session(tiny, [path]) as session:
        item = session.add_given(0)
        assert item.edit == warmer and item.keep
    (tmp_path / "a.png.hints.json").write_text("something else")
    with Session(tiny, [path]) as session:
        item = session.add_given(0)
        assert not item.keep and "hints" in item.notes[-1]
        with pytest.raises(RequestError, match="holds something else"):
            item.set_keep(True, tiny.decoding)
    assert (tmp_path / "a.png.hints.json").read_text() == "something else"


def test_hints_kept_with_other_weights_open_where_no_color_is_known_to_be_rare(tiny, tmp_path):
    Image.fromarray(picture(3)).save(tmp_path / "a.png")
    kept = {"points": [{"x": 2, "y": 3, "color": "#2040c0"}], "edit": {"rarity": 0.5, "warmth": 4}}
    (tmp_path / "a.png.hints.json").write_text(json.dumps(kept))
    plain = Colorizer(tiny.params, tiny.network, Decoding(working_size=64))
    with Session(plain, [tmp_path / "a.png"]) as session:
        edit = session.add_given(0).edit
    assert (len(edit.hints), edit.warmth, edit.rarity) == (1, 4, None)


def test_save_all_is_a_zip_of_names_that_do_not_clash(client):
    ids = [add(client, name="a.png").json()["id"] for _ in range(2)]
    ids.append(add(client, encoded(picture(2), "GIF"), "b.gif").json()["id"])
    answer = client.post("/api/zip", json={"ids": ids})
    names = zipfile.ZipFile(io.BytesIO(answer.content)).namelist()
    assert names == ["a-coloured.png", "a-coloured-2.png", "b-coloured.png"]


def test_save_all_says_what_of_each_photograph_is_not_kept(client):
    clear = np.dstack([picture(1), np.full((40, 52), 90, np.uint8)])
    ids = [add(client, encoded(clear), name).json()["id"] for name in ("a.png", "b.png")]
    answer = client.post("/api/zip", json={"ids": ids, "format": ".jpg"})
    notes = json.loads(unquote(answer.headers["x-notes"]))
    note = "JPEG holds no transparency: all of it is opaque"
    assert notes == [f"{note} (2 photographs)"]


def write_film(path):
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as film:
        stream = film.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(30):
            film.mux(stream.encode(av.VideoFrame.from_ndarray(picture(number, 48, 64))))
        film.mux(stream.encode())


def test_a_film_shows_a_frame_and_the_command(client, tmp_path):
    write_film(tmp_path / "f.mp4")
    item = add(client, (tmp_path / "f.mp4").read_bytes(), "my film.mp4").json()
    assert 0.9 <= item["film"]["time"] <= 1.1 and 2.9 <= item["film"]["duration"] <= 3.1
    id = item["id"]
    other = client.post(f"/api/photographs/{id}/frame", json={"time": 2}).json()
    assert 1.9 <= other["film"]["time"] <= 2.1
    edit = {"hints": [{"x": 9, "y": 9, "color": "#2040c0", "time": 2.0}], "saturation": 1.5}
    assert client.post(f"/api/photographs/{id}/color?remember=1", json=edit).is_success
    command = client.get(f"/api/photographs/{id}/command").json()["command"]
    assert command == (
        "colorjax 'my film.mp4' 'my film-coloured.mp4' --hints 'my film.mp4.hints.json' "
        "--saturation=1.5"
    )
    assert client.post(f"/api/photographs/{id}/save", json={}).status_code == 400


def test_a_frames_time_is_counted_from_the_first_picture_as_hints_are(tmp_path):
    av = pytest.importorskip("av")
    from colorjax.web import frame

    path = tmp_path / "late.mkv"
    with av.open(str(path), "w") as film:
        stream, sound = film.add_stream("libx264", rate=10), film.add_stream("pcm_s16le", rate=8000)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), "s16", "mono")
        silence.sample_rate, silence.pts = 8000, 0
        film.mux(sound.encode(silence))
        for number in range(10):  # a second after the sound
            shown = av.VideoFrame.from_ndarray(picture(number, 48, 64))
            shown.pts = 10 + number
            film.mux(stream.encode(shown))
        film.mux(stream.encode())
        film.mux(sound.encode())
    assert [frame.read(path, time).time for time in (0, 0.5)] == pytest.approx([0, 0.5], abs=0.01)


def test_the_command_names_the_weights_that_the_page_shows(tiny, tmp_path):
    Image.fromarray(picture(3)).save(tmp_path / "a.png")
    with Session(tiny, [tmp_path / "a.png"], weights="my weights.safetensors") as session:
        words = session.add_given(0).command(tiny.decoding, session.weights)
    assert words.endswith("--weights 'my weights.safetensors'")


def test_hints_at_the_photographs_very_border_are_read_as_the_command_line_reads_them(client):
    id = add(client).json()["id"]
    points = {"points": [{"x": 51.5, "y": 0, "color": "#123456"}]}
    answer = client.post(f"/api/photographs/{id}/hints", json=points)
    assert answer.json()["hints"] == [{"x": 51.5, "y": 0.0, "color": "#123456", "radius": 0.0}]


# How it is started and ended.


@contextmanager
def started(*arguments):
    command = [sys.executable, "-m", "colorjax.web", "--no-browser", *arguments]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_ended_by_a_signal_it_leaves_no_upload(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with started() as process:
        assert process.stdout
        address = re.search(r"http://127\.0\.0\.1:\d+/\?token=[\w-]{32}", process.stdout.readline())
        assert address
        assert len(list(tmp_path.iterdir())) == 1
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 128 + signal.SIGTERM
    assert not list(tmp_path.iterdir())


def test_another_host_is_warned_of(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with started("--host", "0.0.0.0") as process:
        assert process.stdout and process.stderr
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert "warning: with --host 0.0.0.0 others on the network reach this page" in errors
    assert process.returncode == 0 and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--port", "70000"], "--port 70000"),
        (["nowhere.png"], "nowhere.png"),
        (["--x"], "--x"),
        (["--weights", "nowhere.safetensors"], "nowhere.safetensors"),
        (["--host", "192.0.2.1"], "--host 192.0.2.1"),
    ],
)
def test_the_command_line_names_what_is_wrong(capsys, arguments, word):
    refused(capsys, cli.main, ["web", "--no-browser", *arguments], word)


# In a real browser.

BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
if BROWSER is None and "COLORJAX_BROWSER_REQUIRED" in os.environ:
    raise RuntimeError(f"the page cannot be tested: none of {BROWSERS} is here")
in_browser = pytest.mark.skipif(BROWSER is None, reason=f"no browser: none of {BROWSERS} is here")
FLAGS = (
    "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update "
    "--disable-sync --no-first-run"
).split()


class Running:
    """A server of the tests, in a thread, with photographs named on its command line."""

    def __init__(self, session):
        self.session = session
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        hosts = start.allowed_hosts("127.0.0.1", self.port)
        app = server.application(session, TOKEN, hosts)
        config = uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=1)
        self.server = uvicorn.Server(config)
        self.address = f"http://127.0.0.1:{self.port}/?token={TOKEN}"
        self.thread = threading.Thread(target=self.server.run, args=([self.listener],), daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.end()

    def end(self):
        self.server.should_exit = True
        self.thread.join(10)


@pytest.fixture(scope="module")
def running(tiny):
    with Session(tiny) as session, Running(session) as server:
        yield server


@pytest.fixture(scope="module")
def chromium():
    if "COLORJAX_BROWSER_REQUIRED" not in os.environ:
        pytest.importorskip("playwright.sync_api")
    from playwright import sync_api as api

    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def page_of(chromium, address, width=1280, height=800, **options):
    """A page that has begun; what the browser complained of fails the test."""
    context = chromium.new_context(viewport={"width": width, "height": height}, **options)
    page, complaints = context.new_page(), []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("requestfinished", lambda request: page.hosts.add(request.url.split("/")[2]))
    page.hosts = set()
    page.set_default_timeout(20_000)
    page.goto(address)
    page.wait_for_selector("html[data-ready]")
    try:
        yield page
        assert not complaints
    finally:
        context.close()


DROP = """async ([name, bytes]) => {
  const transfer = new DataTransfer();
  transfer.items.add(new File([new Uint8Array(bytes)], name));
  for (const kind of ['dragover', 'drop']) {
    document.getElementById('stage').dispatchEvent(
      new DragEvent(kind, {bubbles: true, cancelable: true, dataTransfer: transfer}));
  }
}"""


def drop(page, name, data):
    page.evaluate(DROP, [name, list(data)])


def dropped(page, name, data):
    drop(page, name, data)
    page.wait_for_selector(f"html[data-opened='{name}']")


def painted(page):
    return int(page.locator("#surface").get_attribute("data-painted"))


def wait_for_paint(page, after):
    page.wait_for_function("n => Number(surface.dataset.painted) > n", arg=after)


def pixels_of(page):
    """What the canvas in colour shows, `H W 3`."""
    width, height, data = page.evaluate(
        """() => { const canvas = document.getElementById('after');
        const {width, height} = canvas;
        const {data} = canvas.getContext('2d').getImageData(0, 0, width, height);
        let text = '';
        for (let i = 0; i < data.length; i += 8192)
          text += String.fromCharCode(...data.subarray(i, i + 8192));
        return [width, height, btoa(text)]; }"""
    )
    return np.frombuffer(base64.b64decode(data), np.uint8).reshape(height, width, 4)[..., :3]


def click_at(page, x, y):
    """Click at shares of the picture."""
    box = page.locator("#surface").bounding_box()
    page.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])


def saved(page):
    with page.expect_download() as download:
        page.click("#save")
    return Path(download.value.path()).read_bytes(), download.value.suggested_filename


@in_browser
def test_a_photograph_is_dropped_coloured_hinted_and_saved(chromium, running, weights, tmp_path):
    data = encoded(picture(5, 300, 400), dpi=(300, 300))
    (tmp_path / "in.png").write_bytes(data)
    with page_of(chromium, running.address) as page:
        assert page.locator("#invitation").is_visible()  # beneath the example
        assert len(np.unique(np.ptp(pixels_of(page), axis=2))) > 1  # which has colour
        dropped(page, "in.png", data)
        assert not page.locator("#invitation").is_visible()
        automatic = pixels_of(page)

        click_at(page, 0.5, 0.5)
        page.wait_for_selector(".hint[aria-pressed=true]")
        count = painted(page)
        page.click("#common button[title='deep blue']")
        wait_for_paint(page, count)
        hinted = pixels_of(page)
        height, width = hinted.shape[:2]
        centre = np.s_[height // 2 - 3 : height // 2 + 3, width // 2 - 3 : width // 2 + 3]
        assert hinted[centre].mean((0, 1)).argmax() == 2  # blue
        assert np.abs(hinted.astype(int) - automatic).max() > 20

        count = painted(page)
        page.locator("#saturation").fill("0.6")
        page.locator("#warmth").fill("4")
        page.locator("#rarity").fill("0.5")
        wait_for_paint(page, count)
        page.wait_for_timeout(300)
        with page.expect_download() as download:
            page.click("#save-hints")
        hints = tmp_path / "hints.json"
        hints.write_bytes(Path(download.value.path()).read_bytes())
        result, name = saved(page)
        assert name == "in-coloured.png"

        shown = pixels_of(page)
        whole = Image.open(io.BytesIO(result)).convert("RGB")
        assert shown.shape[1::-1] == whole.size
        assert np.abs(shown.astype(int) - np.asarray(whole)).max() <= 2

        options = ["--hints", hints, "--saturation", "0.6", "--warmth", "4", "--rarity", "0.5"]
        argv = [tmp_path / "in.png", tmp_path / "out.png", "--weights", weights, *options]
        assert cli.main([str(word) for word in argv]) == 0
        assert (tmp_path / "out.png").read_bytes() == result
        assert page.hosts == {f"127.0.0.1:{running.port}"}


@in_browser
def test_undo_redo_dragging_and_removing(chromium, running):
    with page_of(chromium, running.address) as page:
        dropped(page, "undo.png", encoded(picture(6, 300, 400)))
        for x in (0.3, 0.7):
            click_at(page, x, 0.4)
            page.wait_for_selector(f".hint >> nth={int(x > 0.5)}")
        hints = page.locator(".hint")
        before = hints.nth(1).get_attribute("aria-label")
        box = hints.nth(1).bounding_box()
        page.mouse.move(box["x"] + 8, box["y"] + 8)
        page.mouse.down()
        page.mouse.move(box["x"] - 60, box["y"] + 60, steps=4)
        page.mouse.up()
        moved = hints.nth(1).get_attribute("aria-label")
        assert moved != before
        page.keyboard.press("Control+z")
        assert hints.nth(1).get_attribute("aria-label") == before  # all of the drag at once
        page.click("#redo")
        assert hints.nth(1).get_attribute("aria-label") == moved
        hints.nth(0).click(button="right")
        assert hints.count() == 1
        hints.nth(0).focus()
        page.keyboard.press("Delete")
        assert hints.count() == 0
        page.click("#undo")
        page.click("#undo")
        assert hints.count() == 2
        page.wait_for_timeout(200)
        page.reload()
        page.wait_for_selector("html[data-ready]")
        page.click("#items button[title='undo.png']")
        page.wait_for_selector("html[data-opened='undo.png']")
        assert hints.count() == 2  # the server remembers


@in_browser
def test_versions_neutral_the_eyedropper_and_hints_from_a_file(chromium, running):
    with page_of(chromium, running.address) as page:
        dropped(page, "choices.png", encoded(picture(14, 300, 400)))
        spread = []
        for name in ("Faithful", "Default", "Bold"):
            count = painted(page)
            page.get_by_role("button", name=name).click()
            wait_for_paint(page, count)
            page.wait_for_timeout(200)
            assert page.locator("#versions [aria-pressed=true]").inner_text() == name
            spread.append(np.ptp(pixels_of(page).astype(int), axis=2).mean())
        assert spread[0] < spread[1] < spread[2]
        click_at(page, 0.5, 0.5)
        page.wait_for_selector(".hint[aria-pressed=true]")
        assert page.locator("#likely button").count() == 5
        page.click("#neutral")
        color = page.locator(".hint").get_attribute("aria-label").split()[2]
        assert color[1:3] == color[3:5] == color[5:7]
        page.wait_for_timeout(200)
        shown = pixels_of(page)
        page.click("#eyedropper")
        click_at(page, 0.2, 0.2)
        there = shown[round(0.2 * shown.shape[0]), round(0.2 * shown.shape[1])].astype(int)
        page.wait_for_function(
            "color => !document.querySelector('.hint').ariaLabel.includes(color)", arg=color
        )
        color = page.locator(".hint").get_attribute("aria-label").split()[2]
        picked = [int(color[place : place + 2], 16) for place in (1, 3, 5)]
        assert np.abs(picked - there).max() < 40  # its texture
        assert page.locator(".hint").count() == 1
        points = [{"x": 10 * number, "y": 50, "color": "#3a5f9a"} for number in range(1, 4)]
        drop(page, "any.json", json.dumps({"points": points}).encode())
        page.wait_for_selector(".hint >> nth=2")
        drop(page, "bad.json", b"{")
        page.get_by_text("these hints cannot be read").wait_for()


@in_browser
def test_photographs_and_films_named_on_the_command_line(chromium, tiny, tmp_path):
    Image.fromarray(picture(15, 60, 80)).save(tmp_path / "a.png")
    write_film(tmp_path / "f.mp4")
    given = [tmp_path / "a.png", tmp_path / "f.mp4"]
    with Session(tiny, given) as session, Running(session) as server:
        with page_of(chromium, server.address) as page:
            assert not page.locator("#invitation").is_visible()
            page.get_by_label("Keep the hints beside").check()
            click_at(page, 0.6, 0.5)
            page.wait_for_selector(".hint")
            page.wait_for_timeout(300)
            kept = json.loads((tmp_path / "a.png.hints.json").read_text())
            assert len(kept["points"]) == 1
            page.click("#items button[title='f.mp4']")
            page.wait_for_selector("html[data-opened='f.mp4']")
            assert page.locator("#save").is_disabled()
            command = page.locator("#command:not(:empty)").inner_text()
            assert command == f"colorjax {tmp_path}/f.mp4 f-coloured.mp4"


@in_browser
def test_the_slider_shows_before_and_after(chromium, running):
    with page_of(chromium, running.address) as page:
        dropped(page, "slider.png", encoded(picture(7, 300, 400)))
        slider = page.get_by_label("Before and after")
        colourful = []
        for key in ("Home", "End"):
            slider.press(key)
            shot = page.locator("#surface").screenshot()
            part = np.asarray(Image.open(io.BytesIO(shot)).convert("RGB"))[60:200, 100:-100]
            colourful.append(np.ptp(part.astype(int), axis=2).mean())
        assert colourful[0] > 2 and colourful[1] < 0.5
        value = float(slider.input_value())
        slider.press("ArrowLeft")
        assert float(slider.input_value()) < value


@in_browser
def test_all_of_it_by_keyboard(chromium, running):
    with page_of(chromium, running.address) as page:
        dropped(page, "keys.png", encoded(picture(8, 300, 400)))
        reached = set()
        for _ in range(60):
            page.keyboard.press("Tab")
            reached.add(page.evaluate("document.activeElement.id || document.activeElement.title"))
            outlined = page.evaluate(
                "['outlineStyle', 'boxShadow'].some(name => !['none', ''].includes("
                "getComputedStyle(document.activeElement)[name]))"
                " || document.activeElement === document.body || "
                "document.activeElement.id === 'compare'"
            )
            assert outlined, "the focus is not to be seen"
        assert {
            "add",
            "add-folder",
            "fit",
            "full",
            "surface",
            "compare",
            "saturation",
            "warmth",
            "tint",
            "rarity",
            "reset",
            "save",
            "format",
            "save-hints",
            "keys.png",
        } <= reached
        page.focus("#surface")
        for key in ("ArrowRight", "ArrowRight", "Shift+ArrowDown", "Enter"):
            page.keyboard.press(key)
        page.wait_for_selector(".hint")
        assert "208, 170" in page.locator(".hint").get_attribute("aria-label")
        page.wait_for_function("() => document.activeElement.className === 'hint'")
        count = painted(page)
        page.keyboard.press("ArrowLeft")
        wait_for_paint(page, count)
        assert "204, 170" in page.locator(".hint").get_attribute("aria-label")
        page.focus("#hue")
        count = painted(page)
        page.keyboard.press("ArrowRight")
        wait_for_paint(page, count)
        page.keyboard.press("Control+z")
        page.keyboard.press("Control+z")
        page.keyboard.press("Control+z")
        assert page.locator(".hint").count() == 0


@in_browser
def test_bad_files_get_a_sentence_and_the_rest_goes_on(chromium, running):
    with page_of(chromium, running.address) as page:
        drop(page, "damaged.png", b"\x89PNG\r\n\x1a\n" + bytes(300))
        page.get_by_text("damaged.png is").wait_for()
        drop(page, "huge.png", huge_header())
        page.get_by_text("huge.png").first.wait_for()
        dropped(page, "good.png", encoded(picture(9, 60, 80)))


@in_browser
def test_two_tabs_keep_apart_what_they_open(chromium, running):
    with page_of(chromium, running.address) as one, page_of(chromium, running.address) as other:
        dropped(one, "one.png", encoded(picture(10, 60, 80)))
        dropped(other, "other.png", encoded(picture(11, 80, 60)))
        for page, name, size in ((one, "one.png", (60, 80)), (other, "other.png", (80, 60))):
            result, saved_name = saved(page)
            assert saved_name == name.replace(".", "-coloured.")
            assert Image.open(io.BytesIO(result)).size == size[::-1]


@in_browser
def test_when_the_server_has_ended_the_hints_can_be_saved(chromium, tiny):
    with Session(tiny) as session, Running(session) as server:
        with page_of(chromium, server.address) as page:
            dropped(page, "a.png", encoded(picture(12, 60, 80)))
            click_at(page, 0.5, 0.5)
            page.wait_for_selector(".hint")
            page.wait_for_timeout(200)
            server.end()
            page.locator("#warmth").fill("5")
            page.locator("#rarity").fill("0.4")
            page.get_by_text("The server has ended").wait_for()
            with page.expect_download() as download:
                page.click("#save-hints")
            points = json.loads(Path(download.value.path()).read_text())["points"]
            assert len(points) == 1 and points[0]["color"].startswith("#")


@in_browser
def test_from_click_to_pixels_on_12_megapixels(chromium, running):
    large = Image.fromarray(picture(13, 300, 400)).resize((4000, 3000))
    file = io.BytesIO()
    large.convert("L").save(file, "JPEG", quality=90)
    with page_of(chromium, running.address) as page:
        page.set_input_files(
            "#files", [{"name": "large.jpg", "mimeType": "", "buffer": file.getvalue()}]
        )
        page.wait_for_selector("html[data-opened='large.jpg']")
        page.evaluate(
            """() => { window.times = [];
            new MutationObserver(() => times.push(performance.now() - window.clicked))
              .observe(surface, {attributeFilter: ['data-painted']});
            const start = () => { window.clicked = performance.now(); };
            addEventListener('pointerdown', start, true); }"""
        )
        taken = []
        for x in (0.3, 0.45, 0.6, 0.75, 0.9):
            count = painted(page)
            click_at(page, x, 0.5)
            wait_for_paint(page, count)
            page.wait_for_timeout(150)
            taken.append(page.evaluate("times.splice(0)[0]"))
        print("ms from click to pixels:", [round(ms) for ms in taken])
        # 100 ms is the aim, and met on a machine with nothing else to do.
        assert sorted(taken)[2] < 400
        page.click("#full")
        page.wait_for_selector("#detail-after:not([hidden])")
        assert page.evaluate("document.getElementById('detail-after').width") >= 900


@in_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_legible_greys_are_grey_and_a_phone_is_wide_enough(chromium, running, scheme):
    with page_of(chromium, running.address, 390, 844, color_scheme=scheme) as page:
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        colours = page.evaluate(
            """() => [...document.querySelectorAll('body *')].flatMap(element => {
            const box = element.getBoundingClientRect();
            const text = [...element.childNodes].some(n => n.nodeType === 3 && n.data.trim());
            if (!text || !box.width || element.closest('.side, .visually-hidden, :disabled'))
              return [];
            let behind = element;
            while (getComputedStyle(behind).backgroundColor === 'rgba(0, 0, 0, 0)')
              behind = behind.parentElement;
            return [[getComputedStyle(element).color, getComputedStyle(behind).backgroundColor,
              element.textContent.trim().slice(0, 30)]]; })"""
        )
        assert len(colours) > 15
        for front, back, text in colours:
            levels = [[int(v) for v in re.findall(r"\d+", colour)[:3]] for colour in (front, back)]
            assert all(len(set(level)) == 1 for level in levels), f"{text} has a hue"
            light, dark = sorted((_luminance(level[0]) for level in levels), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, text


def _luminance(level):
    value = level / 255
    return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
