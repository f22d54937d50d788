"""Kinds of damage for `fuzz.py`: a function takes a generator and a box, damages something in it, and returns what to call then."""

import contextlib
import json
import os
import struct
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
import yaml
from fuzz import Box, Call
from fuzz_base import HALF, TINY

KINDS = {}
ODD = [
    None,
    True,
    -1,
    0,
    1,
    0.5,
    10**9,
    2**63,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x",
    "12",
    [],
    [0],
    [[1, 2], [3]],
    {},
    {"a": 1},
    "a\0b",
    "\u202e",
]


def kind(f):
    "Register a kind of damage under the name of its function."
    KINDS[f.__name__.replace("_", " ")] = f
    return f


def write(path: Path, data: bytes) -> None:
    "A new file in the place of an old one, which may be linked to the small home."
    path.unlink(missing_ok=True)
    path.write_bytes(data)


class Payload:
    "Pickled, it creates a file when it is loaded."

    def __init__(self, box: Box):
        self.box = box

    def __reduce__(self):
        return os.mkdir, (str(self.box.canary),)


def new_run(name: str = "new") -> list:
    return ["train", "toy", "--audio", "mel", *TINY, "1", "--name", name]


def ask_subject(rng) -> list:
    "A verb that reads the subject."
    return rng.choice(
        [
            ["open", "toy"],
            new_run(),
            ["drive", "toy/mel", "hello.wav"],
            ["evaluate", "toy/mel", "--measures", "pixels"],
            new_run("mel"),
            HALF,
            ["drive", "toy/codes", "hello.wav", "--pitch", "1.2"],
        ]
    )


def ask_run(rng, name: str) -> list:
    "A verb that reads a run."
    if name == "half":
        return HALF
    again = ["train", "toy", "--audio", {"mel": "mel", "codes": "speechsplit"}[name], *TINY, "1", "--name", name]
    return rng.choice(
        [
            ["open", f"toy/{name}"],
            ["drive", f"toy/{name}", "hello.wav"],
            ["evaluate", f"toy/{name}", "--measures", "pixels"],
            again,
            ["drive", "toy", "hello.wav"],
        ]
    )


def ask_media(rng, path: Path) -> list:
    "A verb that reads a film or sound."
    if path.suffix == ".wav":
        return rng.choice([["drive", "toy/mel", str(path)], ["drive", "toy/codes", "hello.wav", "--content", str(path)]])
    return rng.choice(
        [
            ["prepare", str(path), "--subject", "new", "--size", "64"],
            ["prepare", str(path), "--subject", "new", "--size", "64"],
            ["drive", "toy/mel", str(path)],
            ["drive", "toy/mel", str(path)],
            ["drive", "me/mel", "hello.wav", "--motion", str(path)],
            *([["drive", "me/mel", "hello.wav", "--paste", str(path)]] if rng.random() < 0.3 else []),
        ]
    )


def any_file(rng, box: Box) -> tuple:
    "A file of a subject, a run, or media, and a verb that reads it."
    place = rng.choice(["subject", "run", "media"])
    if place == "media":
        path = box.files / rng.choice(["hello.wav", "face.mp4", "film.mp4"])
        return path, ask_media(rng, path)
    if place == "subject":
        path = rng.choice(sorted(p for p in box.toy.rglob("*") if p.is_file() and p.stat().st_size))
        return path, ask_about(rng, box, path)
    name = rng.choice(["mel", "codes", "half"])
    files = [p for p in box.run(name).rglob("*") if p.is_file() and p.stat().st_size and "figures" not in p.parts]
    return rng.choice(sorted(files)), ask_run(rng, name)


def ask_about(rng, box: Box, path: Path) -> list:
    "A verb that reads this file of a subject or a run."
    if box.toy not in path.parents:
        return ask_run(rng, path.parent.name)
    if path.name.startswith("speechsplit") or path.parent.name == "f0":
        return ask_run(rng, "codes")
    return rng.choice([ask_run(rng, "mel"), HALF]) if path.parent.name == "embeddings" else ask_subject(rng)


def within(box: Box, path: Path) -> str:
    return str(path.relative_to(box.folder))


@kind
def bits(rng, box):
    path, words = any_file(rng, box)
    data, n = bytearray(path.read_bytes()), rng.choice([1, 4, 32, 200])
    for _ in range(n):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    write(path, bytes(data))
    return Call(words, f"{n} bits of {within(box, path)}")


@kind
def cuts(rng, box):
    path, words = any_file(rng, box)
    data = path.read_bytes()
    how = rng.choice(["empty", "one byte", "cut", "hole", "longer", "twice"])
    at, upto = sorted(rng.randrange(len(data)) for _ in range(2))
    new = {
        "empty": b"",
        "one byte": data[:1],
        "cut": data[:at],
        "hole": data[:at] + data[upto:],
        "longer": data + os.urandom(99),
        "twice": data * 2,
    }[how]
    write(path, new)
    return Call(words, f"{within(box, path)} {how}")


@kind
def headers(rng, box):
    path, words = any_file(rng, box)
    data, n = path.read_bytes(), rng.choice([2, 8, 32, 64])
    start = rng.choice(
        [b"\0" * n, b"\xff" * n, rng.randbytes(n), b"\x93NUMPY\x01\0v\0", b"PK\x03\x04", b"RIFF", b"{", b"\x80\x04", b"\x1f\x8b"]
    )
    write(path, start + data[len(start) :])
    return Call(words, f"{start[:8]!r} at the start of {within(box, path)}")


@kind
def swapped(rng, box):
    path, words = any_file(rng, box)
    other, _ = any_file(rng, box)
    write(path, other.read_bytes())
    return Call(words, f"{within(box, other)} in the place of {within(box, path)}")


@kind
def missing(rng, box):
    path, words = any_file(rng, box)
    path.unlink()
    if rng.random() < 0.3:
        path.mkdir()
    return Call(
        words if path.exists() or path.parts[-2] != "files" else words, f"{within(box, path)} {'a folder' if path.exists() else 'missing'}"
    )


ATOMS = [
    b"mvhd",
    b"mdhd",
    b"tkhd",
    b"stts",
    b"elst",
    b"ctts",
    b"stsz",
    b"stco",
    b"stsc",
    b"stsd",
    b"avc1",
    b"mp4a",
    b"esds",
    b"avcC",
    b"moov",
    b"trak",
]
SIZES = [0, 1, 2, 7, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 600 * 25, 2**24]


@kind
def atoms(rng, box):
    path = box.files / rng.choice(["face.mp4", "film.mp4"])
    data, notes = bytearray(path.read_bytes()), []
    for atom in rng.sample(ATOMS, rng.choice([1, 1, 2])):
        at = data.find(atom, data.find(atom) + 1 if rng.random() < 0.5 and data.count(atom) > 1 else 0)
        if at > 0:
            where, value = at + rng.choice([-4, 4, 8, 12, 16, 20, 24, 28]), rng.choice(SIZES)
            data[where : where + 4] = struct.pack(">I", value)
            notes.append(f"{atom.decode()}{where - at:+d}={value:#x}")
    write(path, bytes(data))
    return Call(ask_media(rng, path), f"{path.name} {' '.join(notes)}")


@kind
def timescales(rng, box):
    path = box.files / rng.choice(["face.mp4", "film.mp4"])
    data, notes = bytearray(path.read_bytes()), []
    which, value = (
        rng.choice([(b"mdhd", 16), (b"mvhd", 16), (b"stts", 16), (b"stts", 12), (b"elst", 12), (b"elst", 16), (b"mdhd", 20)]),
        rng.choice(SIZES),
    )
    at = data.find(which[0]) if rng.random() < 0.5 else data.rfind(which[0])
    if at > 0:
        data[at + which[1] : at + which[1] + 4] = struct.pack(">I", value)
        notes.append(f"{which[0].decode()}{which[1]:+d}={value:#x}")
    write(path, bytes(data))
    return Call(ask_media(rng, path), f"{path.name} {' '.join(notes)}")


@kind
def wav_headers(rng, box):
    path = rng.choice([box.files / "hello.wav", box.toy / "audio.wav"])
    data = bytearray(path.read_bytes())
    name, at, form, values = rng.choice(
        [
            ("rate", 24, "<I", [0, 1, 7, 8000, 44100, 2**31, 2**32 - 1]),
            ("channels", 22, "<H", [0, 2, 255, 65535]),
            ("bits", 34, "<H", [0, 1, 8, 24, 32, 64, 65535]),
            ("format", 20, "<H", [0, 2, 3, 6, 85, 65534]),
            ("data size", 40, "<I", [0, 1, 2**31, 2**32 - 1]),
            ("block", 32, "<H", [0, 1, 3, 65535]),
            ("riff size", 4, "<I", [0, 2**32 - 1]),
            ("fmt size", 16, "<I", [0, 15, 2**31]),
        ]
    )
    value = rng.choice(values)
    data[at : at + struct.calcsize(form)] = struct.pack(form, value)
    write(path, bytes(data))
    return Call(ask_media(rng, path) if path.parent == box.files else ask_subject(rng), f"{within(box, path)} {name}={value}")


@kind
def sounds(rng, box):
    path = box.files / "hello.wav"
    how = rng.choice(["nan", "inf", "huge", "zeros", "one sample", "int16 range", "dc", "stereo antiphase", "long silence", "1 Hz"])
    x = np.random.default_rng(rng.randrange(99)).normal(0, 0.1, 12000).astype("<f4")
    rate = 1 if how == "1 Hz" else 16000
    x = {
        "nan": x * np.nan,
        "inf": x / 0 if False else np.where(x > 0.2, np.inf, x),
        "huge": x * 1e38,
        "zeros": x * 0,
        "one sample": x[:1],
        "int16 range": x * 32767,
        "dc": x * 0.01 + 0.5,
        "stereo antiphase": np.stack([x, -x], 1),
        "long silence": np.pad(x, (0, 16000 * 60)),
        "1 Hz": x[:4000],
    }[how].astype("<f4")
    channels = x.shape[1] if x.ndim == 2 else 1
    head = struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        b"RIFF",
        36 + x.nbytes,
        b"WAVE",
        b"fmt ",
        16,
        3,
        channels,
        rate,
        rate * 4 * channels,
        4 * channels,
        32,
        b"data",
        x.nbytes,
    )
    write(path, head + x.tobytes())
    words = ask_media(rng, path)
    return Call(words if how != "long silence" else ["drive", "toy/codes", "film.mp4", "--content", str(path)], f"hello.wav: {how}")


@kind
def films(rng, box):
    "Films that are whole and odd: sizes, rates, times that jump, sound that starts late, one frame, no sound."
    import av

    path = box.files / rng.choice(["odd.mkv", "odd.mp4", "odd.avi", "odd.ts"])
    how = rng.choice(
        [
            "tiny",
            "wide",
            "one frame",
            "jump 600 s",
            "jump back",
            "sound 100 h late",
            "picture 50 s late",
            "1 fps",
            "1000 fps",
            "no sound",
            "no picture",
            "equal times",
            "gap 3 s",
        ]
    )
    times = list(range(55)) if how != "one frame" else [0]
    if "jump" in how or "gap" in how:
        shift = {"jump 600 s": 15000, "jump back": -400, "gap 3 s": 75}[how]
        times = [t + 500 + (shift if t > 27 else 0) for t in times]
    times = [7] * 55 if how == "equal times" else [t + 1250 for t in times] if how == "picture 50 s late" else times
    rate = {"1 fps": 1, "1000 fps": 1000}.get(how, 25)
    width, height = {"tiny": (2, 2), "wide": (2000, 16)}.get(how, (96, 96))
    with av.open(str(path), "w") as out, contextlib.suppress(Exception):
        video = out.add_stream("mpeg4", rate=rate) if how != "no picture" else None
        sound = out.add_stream("mp2", rate=16000, layout="mono") if how != "no sound" else None
        if video:
            video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        for i, t in enumerate(times):
            if video:
                frame = av.VideoFrame.from_ndarray(np.full((height, width, 3), i * 4 % 256, np.uint8), "rgb24")
                frame.pts, frame.time_base = t, Fraction(1, rate)
                for packet in video.encode(frame):
                    out.mux(packet)
            if sound:
                block = av.AudioFrame.from_ndarray(np.zeros((1, 640), np.int16), "s16", "mono")
                block.sample_rate, block.time_base = 16000, Fraction(1, 16000)
                block.pts = 640 * i + (360_000 * 16000 if "100 h" in how else 0)
                for packet in sound.encode(block):
                    out.mux(packet)
        for stream in (video, sound):
            for packet in stream.encode(None) if stream else ():
                out.mux(packet)
    return Call(ask_media(rng, path), f"{path.name}: {how}")


NAMES = [
    "take:2",
    "caf\udce9",
    "x" * 246,
    "a\nb",
    "-v",
    "a b",
    "100%d",
    "*",
    "\u5f20\u4e09",
    "\U0001f600",
    "quote'\"",
    "CON",
    ".hidden",
    "a.b.c",
    "\u202eabc",
    "\t",
    "$(touch x)",
    "a\\b",
    "x" * 251,
    "IMG_1",
    "\u00e9",
    "e\u0301",
]


@kind
def names(rng, box):
    name, which = rng.choice(NAMES), rng.choice(["speech", "content", "video", "out", "subject", "run", "data", "seed"])
    for folder, source, target in ((box.files, "hello.wav", f"{name}.wav"), (box.files, "face.mp4", f"{name}.mp4")):
        with contextlib.suppress(OSError, ValueError):
            (folder / target).write_bytes((folder / source).read_bytes())
    words = {
        "speech": ["drive", "toy/mel", f"{name}.wav"],
        "content": ["drive", "toy/codes", "hello.wav", "--content", f"{name}.wav"],
        "video": ["prepare", f"{name}.mp4", "--size", "64"],
        "out": ["drive", "toy/mel", "hello.wav", "--out", f"out/{name}.mp4"],
        "subject": ["prepare", "face.mp4", "--subject", name, "--size", "64"],
        "run": new_run(name),
        "seed": ["drive", name, "hello.wav"],
        "data": ["train", name, *TINY, "1"],
    }[which]
    if which == "data":
        with contextlib.suppress(OSError, ValueError):
            ending = rng.choice([".MOV", ".mts", ".mp4", ".webm"])
            (box.home / "data" / f"{name}{ending}").write_bytes((box.files / "film.mp4").read_bytes())
    return Call(words, f"{which} named {name[:20]!r}")


@kind
def links(rng, box):
    target = rng.choice(
        [box.outside / "letter.txt", box.outside, box.folder / "nowhere", None, box.outside / "toy", box.outside / "film.mp4"]
    )
    places = [
        box.toy,
        box.toy / "audio.wav",
        box.toy / "embeddings",
        box.toy / "frames.npy",
        box.toy / "subject.json",
        box.toy / ".embeddings.lock",
        box.home / "data" / ".toy.lock",
        box.home / "data" / ".new.lock",
        box.home / "data" / "new",
        box.home / "data" / ".new.partial",
        box.home / "runs" / "toy",
        box.run("new"),
        box.run("mel"),
        box.run("half") / "metrics.csv",
        box.run(".new.lock"),
        box.run("mel") / "video.mp4",
        box.run("mel") / "speech",
        box.run("mel") / "report.html",
        box.run("mel") / "figures",
        box.run("half") / "checkpoints",
        box.run("mel") / "tensorboard",
        box.run("half") / "checkpoints/last.ckpt",
        box.run("mel") / ".speech.pieces",
    ]
    path = rng.choice(places)
    remove(path)
    path.symlink_to(target or path)
    words = (
        ["prepare", "face.mp4", "--subject", "new", "--size", "64"]
        if "new" in path.name and "data" in path.parts
        else rng.choice(
            [new_run(), HALF, ["drive", "toy/mel", "hello.wav"], ["evaluate", "toy/mel", "--measures", "pixels"], ["open", "toy"]]
        )
    )
    return Call(words, f"{within(box, path)} a link to {within(box, target) if target else 'itself'}")


def remove(path: Path) -> None:
    "Remove a file, a link or a folder, if it is there."
    import shutil

    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


def odd_tree(rng, tree):
    "A change of one place in nested dictionaries and lists; the tree and what was done."
    path, here, parent = [], tree, None
    while isinstance(here, (dict, list)) and here and (not path or rng.random() < 0.6):
        parent, key = here, rng.choice(sorted(here) if isinstance(here, dict) else range(len(here)))
        path.append(key)
        here = here[key]
    if parent is None or rng.random() < 0.05:
        return rng.choice([x for x in ODD if x is not None]), "another thing altogether"
    how = rng.choice(["gone", "odd", "odd", "odd", "type", "nested"])
    if how == "gone":
        del parent[path[-1]]
    else:
        value = [here] if how == "type" else rng.choice(ODD)
        for _ in range(2000 if how == "nested" else 0):
            value = [value]
        parent[path[-1]] = value
    shown = repr(value)[:20] if how not in ("gone", "nested") else ""
    return tree, f"{'.'.join(map(str, path))} {how} {shown}"


def dumps(value) -> str:
    "JSON of anything, however deep."
    depth = 0
    while isinstance(value, list) and len(value) == 1:
        value, depth = value[0], depth + 1
    return (
        "[" * depth + json.dumps(value, default=str) + "]" * depth if depth > 100 else json.dumps([value] if depth else value, default=str)
    )


def json_text(rng, path: Path) -> tuple:
    "The text of a damaged JSON file, and what was done."
    text = path.read_text(encoding="utf-8")
    how = rng.choice(["tree"] * 8 + ["text"])
    if how == "tree":
        tree, note = odd_tree(rng, json.loads(text))
        try:
            return json.dumps(tree, default=str), note
        except (RecursionError, ValueError):
            return "[" * 100_000 + "]" * 100_000, "100 000 brackets"
    note, new = rng.choice(
        [
            ("list", "[]"),
            ("null", "null"),
            ("nan", "NaN"),
            ("brackets", "[" * 100_000),
            ("bom", "\ufeff" + text),
            ("number", "9" * 5000),
            ("twice", text + text),
            ("keys twice", text.rstrip()[:-1] + ', "name": "other"}'),
            ("binary", "\0" * 50),
        ]
    )
    return new, note


def json_files(box: Box) -> list:
    runs = [box.run(run) / name for run in ("mel", "codes", "half") for name in ("state.json", "inputs.json", "metrics.json")]
    return [p for p in [box.toy / "subject.json"] * 6 + sorted((box.toy / "embeddings").glob("*.json")) + runs if p.is_file()]


@kind
def json_keys(rng, box):
    path = rng.choice(json_files(box))
    text, note = json_text(rng, path)
    write(path, text.encode("utf-8", "surrogateescape"))
    return Call(ask_about(rng, box, path), f"{within(box, path)}: {note}")


@kind
def subject_json(rng, box):
    path = box.toy / "subject.json"
    tree = json.loads(path.read_text())
    key = rng.choice(sorted(tree))
    if rng.random() < 0.25:
        del tree[key]
        note = f"no {key}"
    else:
        value = rng.choice(
            [
                *ODD,
                *(
                    {"n_frames": [43, 45, 4], "size": [16, 31, 64], "focal": [1e-9, 1e9, -64], "fps": [24, 30], "sample_rate": [44100]}.get(
                        key, []
                    )
                    * 4
                ),
            ]
        )
        if key == "splits":
            value = rng.choice(
                [
                    {},
                    {**tree["splits"], "test": [0, 4]},
                    {**tree["splits"], "train": [5, 5]},
                    {**tree["splits"], "test": [40, 99]},
                    {**tree["splits"], "val": [-3, 2]},
                    {**tree["splits"], "test": "x"},
                    {"train": [0, 38]},
                ]
            )
        if key == "lost":
            value = rng.choice([[[0, 44]], [[-5, 3]], [[10, 5]], [[40, 400]], [1], "x", [["a", "b"]], [[0, 38]], None])
        tree[key], note = value, f"{key}={value!r}"[:60]
    write(path, json.dumps(tree).encode("utf-8", "surrogateescape"))
    return Call(ask_subject(rng), f"subject.json: {note}")


def bomb() -> str:
    "Aliases of aliases: a few hundred bytes that mean ten to the ninth."
    return "\n".join([f"a0: &a0 [{', '.join('x' * 9)}]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10))]) + "\n"


@kind
def yaml_keys(rng, box):
    name = rng.choice(["mel", "codes", "half"])
    path = box.run(name) / "config.yaml"
    text = path.read_text()
    how = rng.choice(["tree"] * 6 + ["list", "text", "binary", "tag", "bomb", "interpolation", "deep", "twice", "empty", "target"])
    new = {
        "list": "[1, 2]",
        "text": "hello",
        "binary": "\0\1\2",
        "tag": f"subject: !!python/object/apply:os.mkdir ['{box.canary}']\n" + text,
        "bomb": bomb() + text,
        "interpolation": text.replace("audio: mel", "audio: ${subject}").replace("seed: 0", "seed: ${oc.env:HOME}"),
        "deep": "a: " + "[" * 3000 + "]" * 3000 + "\n" + text,
        "twice": text + text,
        "empty": "",
        "target": text + f"_target_: os.mkdir\n_args_: ['{box.canary}']\n",
    }.get(how)
    note = how
    if how == "tree":
        tree, note = odd_tree(rng, yaml.safe_load(text))
        try:
            new = yaml.safe_dump(tree)
        except (RecursionError, yaml.YAMLError):
            new, note = "a: " + "[" * 1000 + "]" * 1000, "1000 brackets"
    write(path, new.encode())
    return Call(ask_run(rng, name), f"{name}/config.yaml: {note}")


def odd_array(rng, a, box: Box) -> tuple:
    "An array damaged in one way, and what was done."
    hostile = np.empty(1, object)
    hostile[0] = Payload(box)
    ways = {
        "empty": lambda: a[:0],
        "short": lambda: a[:-1],
        "long": lambda: np.concatenate([a, a[:1]]),
        "float64": lambda: a.astype(np.float64),
        "int64": lambda: a.astype(np.int64),
        "bool": lambda: a.astype(bool),
        "complex": lambda: a.astype(np.complex64),
        "object": lambda: a.astype(object)[:2],
        "payload": lambda: hostile,
        "flat": lambda: a.ravel(),
        "extra axis": lambda: a[None],
        "transposed": lambda: a.T,
        "nan": lambda: np.where(np.arange(len(a)).reshape(-1, *[1] * (a.ndim - 1)) == len(a) // 2, np.nan, a.astype(np.float32)),
        "huge numbers": lambda: a.astype(np.float32) * 1e30,
        "negative": lambda: -a.astype(np.float32),
        "scalar": lambda: np.float32(1),
        "fortran": lambda: np.asfortranarray(a),
        "strings": lambda: np.array(["x"] * len(a)),
        "half width": lambda: a[..., : max(1, a.shape[-1] // 2)],
    }
    how = rng.choice(list(ways))
    with np.errstate(all="ignore"):
        return ways[how](), how


@kind
def arrays(rng, box):
    path = rng.choice(sorted([*box.toy.glob("*.npy"), *box.toy.glob("embeddings/*.npy"), *box.toy.glob("f0/*.npy")]))
    a = np.load(path)
    if rng.random() < 0.15:
        data = path.read_bytes()
        new, note = rng.choice(
            [
                (data.replace(str(a.shape[0]).encode(), b"9" * len(str(a.shape[0])), 1), "more rows said than there are"),
                (data[:8] + b"\xff\xff" + data[10:], "header of 65535 bytes"),
                (data.replace(b"'descr'", b"'dexcr'"), "no descr"),
                (
                    b"\x93NUMPY\x01\0"
                    + struct.pack("<H", 72)
                    + b"{'descr': '|u1', 'fortran_order': False, 'shape': (1099511627776,)}    \n",
                    "10^12 rows",
                ),
                (data.replace(b"False", b"__imp"), "code in the header"),
            ]
        )
        write(path, new)
    else:
        new, note = odd_array(rng, a, box)
        path.unlink()
        with open(path, "wb") as f:
            np.save(f, new, allow_pickle=True)
    return Call(ask_about(rng, box, path), f"{within(box, path)} {note}")


@kind
def more_arrays(rng, box):
    "What a subject may have besides: motion of the torso; it fits or it does not."
    name = rng.choice(["torso", "torso_modes", "torso_shape"])
    shape = {"torso": (44, 2, 3), "torso_modes": (2, 16, 16, 2), "torso_shape": (44, 2)}[name]
    new, note = odd_array(rng, np.zeros(shape, np.float32), box)
    np.save(box.toy / f"{name}.npy", new, allow_pickle=True)
    return Call(rng.choice([["open", "toy"], new_run(), ["drive", "toy/mel", "hello.wav"]]), f"{name}.npy {note}")


def odd_checkpoint(rng, saved, box: Box) -> tuple:
    "What a checkpoint holds instead, and in words."
    how = rng.choice(
        [
            "text",
            "list",
            "tensor",
            "empty dict",
            "key gone",
            "key gone",
            "odd value",
            "odd value",
            "odd value",
            "payload",
            "nan",
            "other shape",
        ]
    )
    if how in ("key gone", "odd value"):
        key = rng.choice(sorted(saved))
        value = rng.choice([*ODD, torch.zeros(3)])
        return {
            k: value if k == key else v for k, v in saved.items() if how == "odd value" or k != key
        }, f"{key} {how} {value if how == 'odd value' else ''}"

    def changed(x):
        if isinstance(x, dict):
            return {k: changed(v) for k, v in x.items()}
        floats = isinstance(x, torch.Tensor) and x.is_floating_point()
        return x if not floats else x * float("nan") if how == "nan" else x.reshape(-1)[:1]

    return {
        "text": lambda: "text",
        "list": lambda: [1, 2],
        "tensor": lambda: torch.zeros(3),
        "empty dict": dict,
        "payload": lambda: Payload(box),
        "nan": lambda: changed(saved),
        "other shape": lambda: changed(saved),
    }[how](), how


@kind
def checkpoints(rng, box):
    path, words = rng.choice(
        [
            (box.run("mel") / "checkpoints/best.ckpt", ask_run(rng, "mel")),
            (box.run("half") / "checkpoints/last.ckpt", HALF),
            (box.run("half") / "checkpoints/last.ckpt", HALF),
            (box.toy / "speechsplit.ckpt", ask_run(rng, "codes")),
            (box.toy / "speechsplit.ckpt", ["train", "toy", "--audio", "content", *TINY, "1", "--name", "content"]),
        ]
    )
    saved, note = odd_checkpoint(rng, torch.load(path, map_location="cpu", weights_only=True), box)
    path.unlink()
    torch.save(saved, path)
    return Call(words, f"{within(box, path)}: {note}")


@kind
def places(rng, box):
    "A file where a folder should be, or a folder where a file should."
    path, words = rng.choice(
        [
            (box.home / "runs", new_run()),
            (box.home / "data", ["open", "toy"]),
            (box.home / "runs/toy", new_run()),
            (box.run("new"), new_run()),
            (box.run("half") / "checkpoints", HALF),
            (box.run("half") / "metrics.csv", HALF),
            (box.toy / "embeddings", ask_subject(rng)),
            (box.toy / "f0", ["drive", "toy/codes", "hello.wav"]),
            (box.run("mel") / "speech", ["drive", "toy/mel", "hello.wav"]),
            (box.run("mel") / "speech/hello.mp4", ["drive", "toy/mel", "hello.wav"]),
            (box.run("mel") / "video.mp4", ask_run(rng, "mel")),
            (box.run("mel") / "report.html", ask_run(rng, "mel")),
            (box.run("mel") / "figures", ask_run(rng, "mel")),
            (box.run(".new.lock"), new_run()),
            (box.run("mel") / "metrics.json", ask_run(rng, "mel")),
            (box.home / "data/.new.lock", ["prepare", "face.mp4", "--subject", "new", "--size", "64"]),
            (box.home / "data/new", ["prepare", "face.mp4", "--subject", "new", "--size", "64"]),
            (box.toy / "subject.json", ask_subject(rng)),
            (box.home / "data/.new.partial", ["prepare", "face.mp4", "--subject", "new", "--size", "64"]),
            (box.run("mel") / "tensorboard", ask_run(rng, "mel")),
            (box.run("mel") / "frames.csv", ask_run(rng, "mel")),
            (box.run("mel") / "compare.mp4", ask_run(rng, "mel")),
            (box.toy / "audio.wav", ask_subject(rng)),
            (box.run("mel") / "speech/.hello.pieces", ["drive", "toy/mel", "hello.wav"]),
            (box.toy / ".embeddings.lock", new_run()),
            (box.run("half") / "tensorboard", HALF),
            (box.tmp, ["evaluate", "toy/mel"]),
            (box.toy / "background.png", ask_subject(rng)),
        ]
    )
    was_folder = path.is_dir() or path.suffix == "" and not path.name.endswith(("lock", "pieces", "partial"))
    remove(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x") if was_folder or rng.random() < 0.3 else path.mkdir()
    return Call(words, f"{within(box, path)} a {'file' if path.is_file() else 'folder'}")


@kind
def permission(rng, box):
    "What may not be read, or not be written."
    path = rng.choice(
        [
            box.home,
            box.home / "data",
            box.toy,
            box.toy / "embeddings",
            box.toy / "frames.npy",
            box.toy / "subject.json",
            box.toy / "audio.wav",
            box.toy / "embeddings/mel.npy",
            box.toy / "speechsplit.ckpt",
            box.home / "runs",
            box.home / "runs/toy",
            box.run("mel"),
            box.run("mel") / "config.yaml",
            box.run("mel") / "checkpoints",
            box.run("mel") / "checkpoints/best.ckpt",
            box.run("mel") / "state.json",
            box.run("half"),
            box.run("half") / "metrics.csv",
            box.run("half") / "checkpoints",
            box.run("mel") / "video.mp4",
            box.tmp,
            box.run("mel") / "figures",
            box.run("mel") / "metrics.json",
            box.files / "hello.wav",
            box.files / "face.mp4",
            box.files,
            box.folder / "user",
            box.run("mel") / "tensorboard",
        ]
    )
    if path.is_file():
        write(path, path.read_bytes())
    mode = rng.choice([0, 0o400, 0o500, 0o200] if path.is_file() else [0, 0o500, 0o500, 0o400])
    words = rng.choice(
        [
            ask_subject(rng),
            ask_run(rng, "mel"),
            HALF,
            ["prepare", "face.mp4", "--subject", "new", "--size", "64"],
            ["drive", "toy/mel", "hello.wav", "--out", "said.mp4"],
        ]
    )
    path.chmod(mode)
    return Call(words, f"{within(box, path)} with mode {mode:o}", weak=True)


def leaves(tree, before: str = "") -> list:
    found = []
    for key, value in tree.items():
        found += leaves(value, f"{before}{key}.") if isinstance(value, dict) else [f"{before}{key}"]
    return found


@kind
def overrides(rng, box):
    "Settings that cannot be."
    keys = leaves(yaml.safe_load((box.run("mel") / "config.yaml").read_text()))
    key = rng.choice(keys)
    value = rng.choice(
        [
            "-1",
            "0",
            "999999999999",
            "1e308",
            "nan",
            "inf",
            "-inf",
            "''",
            "evil",
            "[]",
            "[0]",
            "[-1,2]",
            "null",
            "true",
            "{a:1}",
            "1e-30",
            "2.5",
            "[1000000]",
            "'../../x'",
            "${subject}",
        ]
    )
    word = rng.choice(
        [f"{key}={value}"] * 9 + [f"~{key}", f"+{key}x={value}", f"{key.split('.')[0]}={value}", f"{key}={value},1", f"++{key}={value}"]
    )
    return Call([*new_run()[:-2], "--", word], f"override {word}")


@kind
def options(rng, box):
    "Options that cannot be."
    number = rng.choice(["-1", "0", "nan", "inf", "1e30", "-1e30", "1e-30", "999999999999", "x", "", "0x10"])
    words = rng.choice(
        [
            [
                "drive",
                "toy/codes",
                "hello.wav",
                "--"
                + rng.choice(
                    ["pitch", "rhythm", "blinks", "articulation", "size", "seed", "device", "motion", "weights", "content", "paste", "out"]
                ),
                number,
            ],
            ["drive", "toy/mel", "hello.wav", "--device", rng.choice(["meta", "cuda", "cpu:1", "cpu:0", "mps", "xla", "0", "cuda:99"])],
            [
                "drive",
                "toy/codes",
                "hello.wav",
                "--weights",
                rng.choice(["content=nan", "content=1e30", "a=1", "content", "content=1 content=2", "=1", "content=-1"]),
            ],
            ["drive", "toy/mel", "hello.wav", "--motion", rng.choice(["still", "nothing", "toy", "toy/mel", "..", "letter.txt", "guo"])],
            [
                "evaluate",
                "toy/mel",
                "--" + rng.choice(["split", "measures"]),
                rng.choice(["train", "", "x", "test+val", "pixels+pixels", "+", "sync", number]),
            ],
            [
                "evaluate",
                rng.choice(
                    ["", "/", ".", "..", "toy", "toy/", "/toy", "toy/mel/checkpoints", "toy/half", "toy/mel/", "*", "~", "toy/../toy/mel"]
                ),
            ],
            ["drive", rng.choice(["", "/", ".", "toy/half", "toy/nobody", "TOY/mel"]), "hello.wav"],
            [
                "prepare",
                rng.choice(["face.mp4", "", "/", ".", "guo", "hello.wav", "/dev/null", "/dev/zero", "-", "http://localhost/x.mp4"]),
                "--subject",
                "new",
                "--size",
                number,
            ],
            ["train", "toy", "--audio", rng.choice(["mel+mel", "+", "x", "deepspeech", "phones", ""]), *TINY, "1"],
            [*new_run(), "--" + rng.choice(["minutes", "seed", "steps", "size", "preset"]), number],
            ["table1", "toy", "--seeds", number, "--rows", "mel", "--preset", "tiny", "--steps", "1"],
            [
                "table1",
                "toy",
                "--seeds",
                "1",
                "--rows",
                rng.choice(["mel mel", "x", "+", " "]),
                "--preset",
                "tiny",
                "--steps",
                "1",
                "--jobs",
                number,
            ],
        ]
    )
    return Call(words, "options")


@kind
def adnerf_folders(rng, box):
    guo = box.files / "guo"
    how = rng.choice(["json", "json", "json", "field", "field", "field", "features", "lms", "sound", "csv", "picture"])
    path, note = guo / rng.choice(["transforms_train.json", "transforms_val.json"]), how
    if how == "json":
        text, note = json_text(rng, path)
        write(path, text.encode("utf-8", "surrogateescape"))
    elif how == "field":
        tree = json.loads(path.read_text())
        key, value = (
            rng.choice(["focal_len", "cx", "cy", "frames", "img_id", "aud_id", "transform_matrix"]),
            rng.choice([*ODD, -3.5, 10**400, "nan"]),
        )
        (tree if key in tree else tree["frames"][rng.randrange(len(tree["frames"]))])[key] = value
        write(path, json.dumps(tree).encode("utf-8", "surrogateescape"))
        note = f"{key}={value!r}"[:50]
    elif how == "features":
        path = guo / "aud.npy"
        new, note = odd_array(rng, np.zeros((40, 16, 29), np.float32), box)
        np.save(path, new, allow_pickle=True)
    else:
        files = {"lms": "ori_imgs/*.lms", "sound": "aud.wav", "csv": "*.csv", "picture": "*_imgs/*.jpg"}
        path = rng.choice(sorted(guo.glob(files[how])) or [guo / "au.csv"])
        write(
            path,
            rng.choice(
                [b"", b"x", b"nan nan\n" * 68, b"1e308 1\n" * 68, b"frame, AU45_r\n" + b"1, nan\n" * 40, b"\0" * 400, b"1 2\n" * 69]
            ),
        )
    return Call(["adnerf", str(guo)], f"{path.name}: {note}")


@kind
def outputs(rng, box):
    "Where the film goes: to a file that is there, an input, a folder, a device."
    import shutil

    out = rng.choice(
        [
            "film.mp4",
            "face.mp4",
            str(box.outside / "film.mp4"),
            "hello.wav",
            "guo",
            "/dev/full",
            "/dev/null",
            "no/such/folder/x.mp4",
            "x.avi",
            "",
            ".",
            "link.mp4",
            "hard.mp4",
            str(box.toy / "audio.mp4"),
            str(box.run("mel") / "video.mp4"),
            "FILM.MP4",
            "./guo/../film.mp4",
            "hello.mp4",
        ]
    )
    with contextlib.suppress(OSError):
        (box.files / "link.mp4").symlink_to("film.mp4")
        os.link(box.files / "film.mp4", box.files / "hard.mp4")
    shutil.copy(box.files / "film.mp4", box.files / "hello.mp4")
    more = rng.choice([[], ["--motion", "film.mp4"], ["--paste", "face.mp4"], ["--content", "hello.mp4"]])
    run = "toy/codes" if "--content" in more else "toy/mel"
    speech = rng.choice(["hello.wav", "film.mp4"])
    return Call(["drive", run, speech, "--out", out, *more], f"out={out!r} {' '.join(more)}", may_change=("/dev/null",))


@kind
def surroundings(rng, box):
    "The home, the temporary folder, the encoding, who reads what is printed."
    words = rng.choice(
        [
            new_run(),
            ["drive", "toy/mel", "hello.wav"],
            ["evaluate", "toy/mel", "--measures", "pixels"],
            ["doctor"],
            ["open", "toy"],
            ["prepare", "face.mp4", "--subject", "new", "--size", "64"],
        ]
    )
    how = rng.choice(
        ["home name", "home name", "nowhere", "a file", "no HOME", "ascii", "closed", "full", "relative", "read-only"]
    )
    if how == "home name":
        name = rng.choice(
            ["a::b", "it's", '"q"', "100%", "a b", "\u5f20", "caf\udce9", "x\ny", "a=b", "${HOME}", "{a}", "[b]*", "-h", "a;b", "#c"]
        )
        box.home.rename(box.folder / name)
        (box.folder / name).rename(box.folder / name) if False else None
        return Call(words, f"DNERF_HOME named {name!r}", env={"DNERF_HOME": str(box.folder / name)})
    env = {
        "nowhere": {"DNERF_HOME": str(box.folder / "new" / "home")},
        "a file": {"DNERF_HOME": str(box.files / "hello.wav")},
        "relative": {"DNERF_HOME": "../home"},
        "no HOME": {"HOME": rng.choice([None, "/nonexistent", ""])},
    }.get(how, {})
    if how == "read-only":
        for folder in (box.home, *(p for p in box.home.rglob("*") if p.is_dir())):
            folder.chmod(0o555)
    return Call(
        words,
        f"surroundings: {how}",
        env=env,
        encoding="ascii" if how == "ascii" else "",
        stdout={"closed": "closed", "full": "/dev/full"}.get(how, ""),
        weak=how == "read-only",
    )


@kind
def strangers(rng, box):
    "Names in a stranger's files that lead out of their folder."
    name = rng.choice(["../../escaped", str(box.outside / "evil"), "..", "a/b", "", "toy/../..", "~", "\0"])
    which = rng.choice(["subject", "config", "figures", "embedding", "run name", "source"])
    path, words = box.toy / "subject.json", ask_subject(rng)
    if which in ("subject", "source"):
        tree = json.loads(path.read_text())
        tree |= {"name": name} if which == "subject" else {"source": {"file": str(box.outside / "film.mp4"), "sha256": "0"}}
    elif which == "figures":
        path, words = box.run("mel") / "metrics.json", ["evaluate", "toy/mel", "--measures", "pixels"]
        tree = json.loads(path.read_text())
        tree["figures"] = {str(box.outside / "letter.txt"): "a letter", "../../../../outside/letter.txt": "again"}
    elif which == "embedding":
        path = box.toy / "embeddings/mel.json"
        tree = json.loads(path.read_text()) | {"name": name, "model": name}
    else:
        path, words = box.run("mel") / "config.yaml", ask_run(rng, "mel")
        tree = yaml.safe_load(path.read_text()) | ({"name": name} if which == "run name" else {rng.choice(["subject", "audio"]): name})
    write(path, (yaml.safe_dump(tree) if path.suffix == ".yaml" else json.dumps(tree)).encode())
    return Call(words, f"{within(box, path)}: {which} {name!r}")


@kind
def curves(rng, box):
    path = box.run("half") / rng.choice(["metrics.csv", "metrics.csv", "state.json", "frames.csv"])
    text = path.read_bytes() if path.is_file() else b"step,loss\n1,2\n"
    lines = text.splitlines(True)
    new = rng.choice(
        [
            b"",
            b"\n",
            lines[0],
            lines[0] + b"1",
            text[:-3],
            text + b"9,9,9,9,9,9,9,9,9,9,9,9\n",
            text.replace(b",", b";"),
            text + b"\0\0\0",
            b"\xff\xfe" + text,
            text + b"nan,nan\n",
            text.replace(b"\n", b"\r\n"),
            b'"' + text,
            lines[0] + b"x,y,z\n",
            lines[0] * 3,
        ]
    )
    path.unlink(missing_ok=True)
    path.write_bytes(new)
    return Call(HALF, f"half/{path.name}: {new[-24:]!r}")


@kind
def subjects(rng, box):
    "A subject in the place of another: a film of somebody else under a name that is taken, a subject made again, one of another size."
    from dnerf.subject import toy_subject

    how = rng.choice(["prepare over it", "made again", "other size", "no data", "other length", "film beside it"])
    if how in ("made again", "other size", "other length"):
        remove(box.toy)
        toy_subject(box.toy, **{"made again": {}, "other size": {"size": 48}, "other length": {"n": 60}}[how], seed=5)
    if how == "no data":
        remove(box.home / "data")
    if how == "film beside it":
        (box.home / "data/toy.mp4").write_bytes((box.files / "face.mp4").read_bytes())
    words = (
        ["prepare", "face.mp4", "--subject", "toy", "--size", "64"]
        if how == "prepare over it"
        else rng.choice([ask_run(rng, "mel"), ask_run(rng, "codes"), HALF, new_run()])
    )
    return Call(words, how)


@kind
def full_disk(rng, box):
    "No file may grow beyond a random size, as on a disk that is full from there on."
    words = rng.choice([new_run(), HALF, ["drive", "toy/mel", "film.mp4"], ["evaluate", "toy/mel", "--measures", "pixels"],
                        ["prepare", "face.mp4", "--subject", "new", "--size", "64"], ["adnerf", str(box.files / "guo")]])
    size = int(10 ** rng.uniform(1, 7))
    return Call(words, f"files end at {size} bytes", disk=size)


@kind
def little_memory(rng, box):
    "Too little address space."
    words = rng.choice([new_run(), HALF, ["drive", "toy/mel", "film.mp4"], ["evaluate", "toy/mel", "--measures", "pixels"],
                        ["prepare", "face.mp4", "--subject", "new", "--size", "64"], ["open", "toy/mel"]])
    size = int(10 ** rng.uniform(2, 3.3))
    return Call(words, f"{size} MB more than the libraries", memory=size << 20)
