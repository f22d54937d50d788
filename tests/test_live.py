"""The stream and its page: order, delay, pace, memory, one viewer, Ctrl-C, and a browser with a fake microphone."""
import asyncio
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path

import aiohttp
import numpy as np
import pytest
import torch

from dnerf.audio.embedding import embed_subject
from dnerf.cli import parse_command
from dnerf.core import DnerfError, InputError
from dnerf.nerf.config import compose_config
from dnerf.nerf.training import train
from dnerf.subject import toy_subject, write_wav
from dnerf.talk.listening import Listener
from dnerf.talk.live import Live, live, take_address, unpack
from dnerf.talk.options import StreamOptions
from dnerf.talk.stream import open_stream, stream
from dnerf.talk.voice import BLOCK, block_level
from notebooks import execute
from test_viewer_browser import CHROMIUM, QUIET, wait_for
from toys import home_of_a_module

SCREENSHOT = os.environ.get("DNERF_SCREENSHOT")  # where to put a picture of the page, to look at


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    "A toy person whose portrait is driven by mel."
    with home_of_a_module(tmp_path_factory, "live") as home:
        toy = toy_subject(home / "data" / "toy", n=88)
        yield train(toy, embed_subject(toy, "mel", bar=False), compose_config("tiny", subject="toy", audio="mel", name="mel"), show=False)


def clicks(seconds: float, every: float = 1.0) -> np.ndarray:
    "Bursts of noise of 40 ms in silence, each on one frame, the first on frame 12; int16 at 16 kHz."
    wav = np.zeros(int(seconds * 16000), np.int16)
    for second in np.arange(0.48, seconds - 0.1, every):
        at = round(second * 16000)
        wav[at : at + 640] = np.random.default_rng(0).integers(-12000, 12000, 640)
    return wav


def flash(run, cues, frames):
    "A renderer that paints white where the speech features of the frame are louder than 160 ms before."
    for i in frames:
        window = cues.at(i).window
        yield i, np.full((32, 32, 3), 255 if window[8:10].mean(1).max() > window[0].mean() + 0.5 else 0, np.uint8)


@pytest.fixture
def few_features(monkeypatch):
    "Levels in place of features, which take no time; real time is then kept on a busy machine too."
    def features(self, wav, start):
        return np.repeat(block_level(wav)[:, None] / 20, 80, 1).astype(np.float32), start // BLOCK
    monkeypatch.setattr(Listener, "features", features)


def test_chunks_and_rates_change_nothing(run):
    wav, threads = clicks(2).astype(np.float32) / 32768, torch.get_num_threads()
    def frames(chunks, rate=16000):
        return [*stream(run, chunks, rate, known=wav, render=flash, plain=True)]
    whole = frames([wav])
    assert torch.get_num_threads() == threads
    assert len(whole) == 50 and (np.concatenate([sound for _, sound in whole]) == wav).all()
    for size in (160, 592):
        other = frames([wav[a : a + size] for a in range(0, len(wav), size)])
        assert all((a == b).all() and (x == y).all() for (a, x), (b, y) in zip(whole, other, strict=True))
    stereo = np.repeat(np.repeat(wav, 3)[:, None], 2, 1)  # what a microphone at 48 kHz gives
    other = frames([stereo[a : a + 960] for a in range(0, len(stereo), 960)], 48000)
    assert np.mean([(a == b).mean() for (a, _), (b, _) in zip(whole, other, strict=True)]) > 0.95
    lit = [i for i, (picture, _) in enumerate(whole) if picture.mean() > 127]
    assert set(lit) <= {11, 12, 13, 36, 37, 38} and {12, 37} <= set(lit)  # features see 32 ms to both sides


def test_ten_minutes_need_no_memory_and_do_not_drift(run, few_features):
    import psutil
    def nothing(run, cues, frames):
        yield frames[0], np.zeros((8, 8, 3), np.uint8)
    s, heard, sizes = open_stream(run, options=StreamOptions(plain=True), render=nothing), deque(maxlen=1), []
    sound, process = np.arange(16000, dtype=np.int16), psutil.Process()
    with closing(s):
        for second in range(600):
            heard.extend(s.send(sound))
            if second % 100 == 99:
                sizes.append((process.memory_info().rss, len(s.recent), len(s.listener.sound), len(s.listener.meter.all)))
        heard.extend(s.send(None))
    i, _, last = heard[0]
    assert i == 600 * 25 - 1 and np.allclose(last * 32768, sound[-640:])
    assert sizes[-1][0] - sizes[1][0] < 5e6 and sizes[-1][2:] == sizes[1][2:] and max(n for _, n, *_ in sizes) < 10


def test_pictures_leave_no_memory_behind(run):
    "A portrait that renders: 50 MB in ten minutes would be 3.3 kB a frame."
    import psutil
    sizes = []
    with closing(open_stream(run)) as s:
        speech = np.tile(s.run.subject.wav, 3)[:32000]
        for _ in range(8):
            assert sum(picture.shape == (32, 32, 3) for _, picture, _ in s.send(speech)) > 38  # up to 2 a thread wait
            sizes.append(psutil.Process().memory_info().rss)
    assert sizes[-1] - sizes[3] < 200 * 3300 + 5e5, sizes


def test_two_streams_at_once_leave_pytorch_its_threads(run):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        first, second = open_stream(run), open_stream(run)
        for s in (first, second):
            assert s.painter.threads == 2 and s.painter.pool.submit(torch.get_num_threads).result() == 1
            next(s.send(np.zeros(16000, np.float32)))
        first.close()
        assert torch.get_num_threads() == 2
        second.close()
        later = []
        thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert torch.get_num_threads() == 2 and later == [2]
    finally:
        torch.set_num_threads(before)


def test_what_cannot_be_is_said(run):
    wrong = dict(size=64), dict(motion="nowhere"), dict(articulation=9)
    for knobs, part in zip(wrong, ("from 32 to the run's 32", "nowhere", "articulation"), strict=True):
        with pytest.raises(DnerfError, match=part):
            open_stream(run, options=StreamOptions(**knobs))
    for rate in (0, 44099, 7, "16000"):
        with pytest.raises(InputError, match="usual rate"):
            open_stream(run, rate)


@asynccontextmanager
async def served(run, *args, patience=0.3, render=flash, **how):
    "A server in this loop, and its address."
    server = Live(run, StreamOptions(size=32, plain=True), *args, patience=patience, render=render, **how)
    address = asyncio.get_running_loop().create_future()
    with closing(take_address("127.0.0.1", 0)) as taken:
        task = asyncio.create_task(server.serve(taken, address.set_result))
        try:
            yield await address, server
        finally:
            server.over.set()
            await task


async def speak(ws, pcm, rate=16000):
    "Send a microphone's messages in real time."
    start, n = time.monotonic(), rate // 50
    for k in range(len(pcm) // n):
        await asyncio.sleep(max(0, start + (k + 1) * 0.02 - time.monotonic()))
        await ws.send_bytes(pcm[k * n : (k + 1) * n].astype("<i2").tobytes())


async def pairs(ws, n):
    "The next frames, with the time when they came."
    got = []
    while len(got) < n:
        message = await ws.receive(timeout=30)
        if message.type is aiohttp.WSMsgType.BINARY:
            got.append((*unpack(message.data), time.monotonic()))
        elif message.type is aiohttp.WSMsgType.TEXT:
            assert "fault" not in json.loads(message.data), message.data
        else:
            raise AssertionError(f"the connection ended: {message}")
    return got


def test_a_viewer_gets_sound_and_pictures_in_order_and_a_second_one_a_sentence(run, few_features):
    async def scene():
        async with served(run) as (address, server), aiohttp.ClientSession() as http:
            for headers in ({"Origin": "http://evil.example"}, {"Origin": "null"}, {"Host": "evil.example"}):
                async with http.get(address, headers=headers) as answer:
                    assert answer.status == 403
            async with http.get(address) as answer:
                assert answer.status == 200 and "dnerf live" in await answer.text()
                assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
            async with http.ws_connect(f"{address}/sound") as mute, http.ws_connect(f"{address}/sound") as ws:
                assert (await mute.receive_json())["microphone"] and (await ws.receive_json())["microphone"]
                await ws.send_json({"rate": 16000})  # who only connects has no seat
                assert await ws.receive_json() == {"go": "Speak."}
                await mute.send_json({"rate": 16000})
                assert "already" in (await mute.receive_json())["fault"]
                async with http.ws_connect(f"{address}/sound") as second:
                    assert "already" in (await second.receive_json())["fault"]
                pcm, begun = clicks(3), time.monotonic()
                speaking = asyncio.create_task(speak(ws, pcm))
                got = await pairs(ws, 60)
                await speaking
            await wait_until(lambda: server.session is None)
            for first in ("[]", '{"rate": null}', '{"rate": ""}', '{"rate": 0}', '{"rate": false}', "[" * 100000):
                async with http.ws_connect(f"{address}/sound") as ws:  # the place is free again
                    assert "microphone" in await ws.receive_json()
                    await ws.send_str(first)
                    assert "first message" in (await ws.receive_json())["fault"]
            return pcm, begun, got
    pcm, begun, got = asyncio.run(scene())
    assert [i for i, *_ in got] == list(range(60))
    sound = np.concatenate([sound for _, sound, *_ in got])
    assert abs(sound * 32768 - pcm[: len(sound)]).max() <= 2
    delay = np.array([at - begun - 0.04 * i for i, _, _, at in got])
    assert 0.2 < np.median(delay) < 1.0
    bright = [i for i, _, jpeg, _ in got if jpeg and np.frombuffer(jpeg, np.uint8).size and mean_of(jpeg) > 127]
    assert set(bright) <= {12, 37} and bright


async def wait_until(ask, seconds=10.0):
    end = time.monotonic() + seconds
    while not ask():
        assert time.monotonic() < end
        await asyncio.sleep(0.02)


def mean_of(jpeg: bytes) -> float:
    import cv2
    return float(cv2.imdecode(np.frombuffer(jpeg, np.uint8), 1).mean())


def test_a_file_is_played_in_real_time_to_its_end_and_a_slow_machine_is_told(run, few_features):
    def slow(run, cues, frames):
        time.sleep(0.12)
        yield frames[0], np.zeros((8, 8, 3), np.uint8)
    async def scene():
        wav = clicks(9).astype(np.float32) / 32768
        async with served(run, wav, patience=0.1, render=slow, fixed=True) as (address, _), aiohttp.ClientSession() as http:
            async with http.ws_connect(f"{address}/sound") as ws:
                assert not (await ws.receive_json())["microphone"]
                await ws.send_json({"rate": 0})
                texts, frames, begun = [], [], time.monotonic()
                async for message in ws:
                    if message.type is aiohttp.WSMsgType.BINARY:
                        frames.append(unpack(message.data))
                    else:
                        texts.append(json.loads(message.data))
                        if "end" in texts[-1]:
                            return texts, frames, time.monotonic() - begun
    texts, frames, seconds = asyncio.run(scene())
    assert [i for i, *_ in frames] == list(range(225)) and 8.8 < seconds < 13
    assert sum(bool(jpeg) for *_, jpeg in frames) < 162
    said = [text["said"] for text in texts if "said" in text]
    assert len(said) == 2 and "a ray for four pixels" in said[0] and "too slow" in said[1], said


def test_an_address_in_use_and_ctrl_c(run, capsys):
    command = [sys.executable, "-m", "dnerf.cli", "live", "toy/mel", "--size", "32", "--port"]
    with closing(take_address("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"port {port} of 127.0.0.1 is used .* --port {port + 1}"):
            live(run, port=port)
    process = subprocess.Popen([*command, str(port)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)
    try:
        lines = iter(process.stdout.readline, "")
        said = next(line for line in lines if line.startswith("open "))
        assert f"http://127.0.0.1:{port} " in said
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130 and process.stderr.read() == "dnerf: stopped\n"
    finally:
        process.kill()
    take_address("127.0.0.1", port).close()  # free again


def test_ctrl_c_does_not_wait_for_a_viewer_who_does_not_answer(run, few_features):
    async def scene():
        async with served(run) as (address, server), aiohttp.ClientSession() as http:
            async with http.ws_connect(f"{address}/sound", autoclose=False) as ws, http.ws_connect(f"{address}/sound") as mute:
                await ws.receive_json()
                await ws.send_json({"rate": 16000})
                await mute.receive_json()
                await ws.receive_json()
                speaking, begun = asyncio.create_task(speak(ws, clicks(1))), time.monotonic()
                await pairs(ws, 5)
                server.over.set()
                await wait_until(lambda: not server.session)
                took = time.monotonic() - begun
                speaking.cancel()
                closed = await mute.receive()
        return took, closed
    took, closed = asyncio.run(scene())
    assert took < 2 and closed.extra == "dnerf live has ended."


def test_a_microphone_that_stops_leaves_the_seat(run, few_features, monkeypatch):
    monkeypatch.setattr("dnerf.talk.live.ALONE", 0.5)
    monkeypatch.setattr("dnerf.talk.live.FIRST", 0.5)
    async def scene():
        async with served(run) as (address, server), aiohttp.ClientSession() as http:
            async with http.ws_connect(f"{address}/sound") as ws, http.ws_connect(f"{address}/sound") as mute:
                await ws.receive_json()
                await ws.send_json({"rate": 16000})
                texts = [message.json() async for message in ws if message.type is aiohttp.WSMsgType.TEXT]
                assert not server.session
                assert (await mute.receive_json())["microphone"] and "Nothing has come" in (await mute.receive_json())["fault"]
        return texts
    assert "no sound has come from the page" in asyncio.run(scene())[-1]["fault"]


def test_samples_from_a_pipe(run, few_features):
    async def scene():
        inward, outward = os.pipe()
        with open(inward, "rb", buffering=0) as file:
            async with served(run, file) as (address, server), aiohttp.ClientSession() as http:
                async with http.ws_connect(f"{address}/sound") as ws:
                    await ws.receive_json()
                    await ws.send_json({"rate": 0})
                    pcm = clicks(1)
                    os.write(outward, pcm.tobytes())
                    os.close(outward)
                    got = await pairs(ws, 25)
                await wait_until(server.over.is_set)  # a pipe can be read once: the program ends with it
        return pcm, got
    pcm, got = asyncio.run(scene())
    assert abs(np.concatenate([sound for _, sound, *_ in got]) * 32768 - pcm).max() <= 2


def test_the_notebook(run, tmp_path):
    said = "dnerf live toy/mel --port 8001 --host 127.0.0.1 --motion loop --articulation 1.0 --seed 0"
    assert execute("live", run="toy/mel", speech="", port=8001)[-1] == said
    speech = str(tmp_path / "my speech.wav")
    write_wav(Path(speech), np.zeros(16000, np.float32))
    asked = execute("live", run="toy/mel", speech=speech, blinks=0, articulation=1.0, plain=True)[-1]
    verb, words = parse_command(shlex.split(asked)[1:])
    assert (verb, words["speech"], words["blinks"], words["articulation"], words["plain"]) == ("live", speech, 0, 1.0, True)


@contextmanager
def serving(run, size=32, patience=0.3, **how):
    "A server in a thread of its own."
    server, address, loops = Live(run, StreamOptions(size=size, plain=True), patience=patience, **how), [], []
    async def serve(taken):
        loops.append(asyncio.get_running_loop())
        await server.serve(taken, address.append)
    with closing(take_address("127.0.0.1", 0)) as taken:
        thread = threading.Thread(target=lambda: asyncio.run(serve(taken)))
        thread.start()
        wait_for(lambda: address, 20, "the start of the server")
        try:
            yield address[0]
        finally:
            loops[0].call_soon_threadsafe(server.over.set)
            thread.join(20)
        assert not thread.is_alive()


WATCH = """() => {
  const log = window.watched = { white: [], loud: [], input: [] };
  const canvas = document.getElementById('picture'), pen = canvas.getContext('2d');
  const analyser = live.sound.createAnalyser(), part = new Float32Array(analyser.fftSize = 512);
  live.out.connect(analyser);
  const source = live.input.createMediaStreamSource(live.stream), hear = live.input.createAnalyser();
  const mine = new Float32Array(hear.fftSize = 1024);
  source.connect(hear);
  const edge = (list, on) => {
    const t = performance.now();
    if (on && !(t - (list.last || -1e9) < 300)) list.push(t);
    if (on) list.last = t;
  };
  const look = () => {
    edge(log.white, pen.getImageData(canvas.width / 2, canvas.height / 2, 1, 1).data[1] > 127);
    analyser.getFloatTimeDomainData(part);
    edge(log.loud, part.some(x => Math.abs(x) > .03));
    hear.getFloatTimeDomainData(mine);
    edge(log.input, mine.some(x => Math.abs(x) > .03));
    setTimeout(look, 4);
  };
  look();
}"""


def test_the_page_in_a_browser_with_a_fake_microphone(run, few_features, tmp_path):
    sync_api = pytest.importorskip("playwright.sync_api", reason="the browser test needs Playwright: pip install -e '.[browser]'")
    if not CHROMIUM:
        pytest.skip("the browser test needs Chromium, e.g. apt-get install chromium")
    sound = write_wav(tmp_path / "clicks.wav", clicks(30, every=1.48).astype(np.float32) / 32768)
    fake = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream", f"--use-file-for-fake-audio-capture={sound}"]
    with serving(run, render=flash) as address, sync_api.sync_playwright() as p:
        profile, window = str(tmp_path / "profile"), {"width": 800, "height": 900}
        browser = p.chromium.launch_persistent_context(profile, executable_path=CHROMIUM, args=[*QUIET, *fake], viewport=window)
        page, complaints = browser.pages[0], []
        page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda e: complaints.append(str(e)))
        page.goto(address)
        page.click("#start")
        wait_for(lambda: page.evaluate("live.shown") > 10 or page.get_attribute("#said", "class") == "fault", 30, "a picture")
        assert page.get_attribute("#said", "class") != "fault", page.inner_text("#said")
        if SCREENSHOT:
            page.screenshot(path=SCREENSHOT)
        page.evaluate(WATCH)
        wait_for(lambda: min(page.evaluate("[watched.white.length, watched.loud.length, watched.input.length]")) > 3, 40, "clicks")
        latency = 1000 * page.evaluate("live.sound.outputLatency || 0")
        seen = {k: np.array(v[:-1]) for k, v in page.evaluate("({...watched})").items()}
        second = browser.new_page()
        second.goto(address)
        second.click("#start")
        wait_for(lambda: "already" in second.inner_text("#said"), 10, "a sentence for the second viewer")
        page.click("#start")
        assert page.inner_text("#said") == "Stopped."
        for fault, part in (("NotFoundError", "no microphone"), ("NotAllowedError", "Allow it")):
            page.evaluate(f"void (navigator.mediaDevices.getUserMedia = async () => {{ throw new DOMException('', '{fault}') }})")
            page.click("#start")
            wait_for(lambda part=part: part in page.inner_text("#said"), 10, f"a sentence about {fault}")
            wait_for(lambda: page.inner_text("#start") == "Start", 10, "a button to start again")
        browser.close()
    assert not [text for text in complaints if not re.search("favicon", text)]
    nearest = [abs(seen["loud"] - t).argmin() for t in seen["white"]]
    offset = np.median(seen["white"] - seen["loud"][nearest]) - latency
    delays = [min(seen["white"][seen["white"] > t] - t, default=np.nan) for t in seen["input"]]
    print(f"picture after sound: {offset:.0f} ms; delay {np.nanmedian(delays):.0f} ms")
    assert abs(offset) < 90 and np.nanmedian(delays) < 1400
