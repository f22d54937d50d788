"""`dnerf live` in Chromium with a fake microphone, for minutes: delay from sound to picture, their offset, lost frames, memory.

    make delay RUN=me MINUTES=10 SIZE=192

The microphone gives a click every 1.48 s. A square in the middle of each picture is white if the sound of its own frame is a click, and
black otherwise.
"""
import argparse
import contextlib
import tempfile
from pathlib import Path

import numpy as np
import psutil
import torch

import dnerf.talk.live as page_of
from dnerf.nerf.run import load_run
from dnerf.subject import write_wav
from dnerf.talk.stream import real_time_run
from test_live import WATCH, clicks, serving
from test_viewer_browser import CHROMIUM, QUIET, wait_for

LOUD = 0.1  # of a click; the silence between them is digital


def marked(pack):
    "The function `pack` with the square."
    def packed(i, picture, sound):
        if picture is not None:
            picture, n = picture.copy(), len(picture)
            picture[n * 3 // 8 : n * 5 // 8, n * 3 // 8 : n * 5 // 8] = 255 * (np.abs(sound).max() > LOUD)
        return pack(i, picture, sound)
    return packed


@contextlib.contextmanager
def page(address, sound):
    "The page in Chromium, after its button was pressed."
    from playwright.sync_api import sync_playwright
    fake = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream", f"--use-file-for-fake-audio-capture={sound}"]
    with sync_playwright() as p, tempfile.TemporaryDirectory() as profile:
        browser = p.chromium.launch_persistent_context(profile, executable_path=CHROMIUM, args=[*QUIET, *fake])
        opened = browser.pages[0]
        opened.goto(address)
        opened.click("#start")
        yield opened
        browser.close()


def edges(seen):
    "Offset of picture and sound, and delay from the microphone to the picture, ms; of clicks whose frame had a picture."
    white, loud = seen["white"], seen["loud"]
    offsets = [min(white - t, key=abs, default=np.inf) for t in loud]
    delays = [min(white[white > t] - t, default=np.inf) for t in seen["input"]]
    return (np.array([x for x in found if abs(x) < most]) for found, most in ((offsets, 500), (delays, 1400)))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True)
    parser.add_argument("--size", type=int, default=192)
    parser.add_argument("--minutes", type=float, default=10)
    asked = parser.parse_args()
    run, size, speed = real_time_run(load_run(asked.run), asked.size)
    patience = page_of.patience_for(speed, torch.get_num_threads())
    page_of.pack = marked(page_of.pack)
    with tempfile.TemporaryDirectory() as folder:
        sound = write_wav(Path(folder) / "clicks.wav", clicks(30, every=1.48).astype(np.float32) / 32768)
        with serving(run, size=size, patience=patience, fixed=True) as address, page(address, sound) as opened:
            wait_for(lambda: opened.evaluate("live.shown") > 10, 60, "a picture")
            opened.evaluate(WATCH)
            memory, texts = [], set()
            for _ in range(max(1, round(60 * asked.minutes))):
                opened.wait_for_timeout(1000)
                memory.append(psutil.Process().memory_info().rss / 1e6)
                texts.add(opened.inner_text("#said"))
            latency = 1000 * opened.evaluate("live.sound.outputLatency || 0")
            seen = {k: np.array(v[:-1]) for k, v in opened.evaluate("({...watched})").items()}
            shown = opened.evaluate("live.shown / (live.drawn + 1)")
    offsets, delays = edges(seen)
    if not len(offsets) or not len(delays):
        raise SystemExit(f"no click was seen; the page said: {sorted(texts)}")
    part = max(1, len(memory) // 10)
    print(f"{asked.run} at {size} px, {speed:.0f} frames a second can be rendered, patience {patience:.2f} s")
    print(f"delay {np.median(delays):.0f} ms (95 %: {np.percentile(delays, 95):.0f}), {len(delays)} of {len(seen['input'])} clicks seen")
    print(f"picture after sound {np.median(offsets) - latency:.0f} ms; first and last third "
          f"{np.median(offsets[: len(offsets) // 3]) - latency:.0f}, {np.median(offsets[-len(offsets) // 3 :]) - latency:.0f} ms")
    print(f"frames with a picture {shown:.0%}; memory {memory[0]:.0f} -> {max(memory[-part:]):.0f} MB, "
          f"grown by {max(memory[-part:]) - max(memory[part : 2 * part] or memory[:1]):.0f} MB since the first tenth")
    print("said:", *sorted(texts), sep="\n  ")


if __name__ == "__main__":
    main()
