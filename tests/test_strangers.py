"""Runs and portraits that someone else made: names, links and figures in them lead nowhere else, and pages show what they say as text."""
import json
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
from toys import speech_of

from dnerf.core import DnerfError, InputError, read_json, sha256, write_json
from dnerf.evaluation.metrics import empty_metrics
from dnerf.evaluation.page import PAGE_SCRIPT, html_report
from dnerf.nerf.kept import KeptSubject, fingerprint, keep_subject
from dnerf.subject import Subject, toy_subject
from dnerf.talk.paste import Paster
from dnerf.video.media import write_video

SECRET = "the content of another file"
EVIL = "<img src=x onerror=alert(1)>'\"><script>alert(2)</script>"
PROTOCOL = dict(
    run="toy/first", subject=dict(name="toy", n_frames=44, size=32, fps=25), split=dict(name="test", frames=4, frames_without_face=0),
    driven_by=["speech"], measures={"lmd": "pixels"}, audio="mel", seed=0)


@pytest.fixture
def run(tmp_path):
    "What an evaluation leaves, without the pictures."
    folder = tmp_path / "runs" / "toy" / "first"
    (folder / "figures").mkdir(parents=True)
    (tmp_path / "secret.png").write_text(SECRET)
    (folder / "figures" / "loss.png").write_text("a figure")
    write(folder)
    return folder


def write(folder, **entries):
    metrics = empty_metrics("not measured here") | dict(protocol=PROTOCOL, figures={"loss.png": "the loss"}) | entries
    (folder / "metrics.json").write_text(json.dumps(metrics))


def page(folder):
    "The text of the page; nothing of another file is in it."
    import base64

    text = html_report(folder).read_text()
    assert SECRET not in text and base64.b64encode(SECRET.encode()).decode() not in text
    return text


OUTSIDE = ("../../../../secret.png", "../figures/loss.png", "..", "", "~/secret.png", "..\\..\\secret.png", "C:secret.png", "a\0.png",
           "/etc/hostname", "{tmp}/secret.png", "x" * 300)


@pytest.mark.parametrize("name", OUTSIDE, ids=ascii)
def test_a_figure_outside_the_run_is_not_embedded(run, tmp_path, name):
    assert page(run).count("<img") == 1
    write(run, figures={name.format(tmp=tmp_path): "caption"})
    with pytest.raises(InputError, match="not the name of a file inside") as e:
        html_report(run)
    assert str(e.value).isprintable()


@pytest.mark.parametrize("name", ["figures/loss.png", "figures", "compare.mp4", "metrics.json"])
def test_a_link_out_of_the_run_is_not_embedded(run, tmp_path, name):
    path = run / name
    if path.is_dir():
        path.rename(tmp_path / "moved")
        (tmp_path / "moved" / "loss.png").write_text(SECRET)
        path.symlink_to(tmp_path / "moved")
    else:
        path.unlink(missing_ok=True)
        path.symlink_to(tmp_path / "secret.png")
    with pytest.raises(InputError, match="not the name of a file inside"):
        html_report(run)


FRAMES = ("", "second,mse.face", "second,mse.face\n0,x\n0.04,\n", "second,mse.face\n1,1\n0,1\n", "a\n" * 9, "second\n0\n1\n",
          "second,mse.face\n0,1e99\n1,-4\n", "second,mse.face,<b>\n0,.1,1\n.04,.2,1\n", "second,mse.face\n0,1\nnan,2\n3,inf\n")


@pytest.mark.parametrize("content", FRAMES, ids=repr)
def test_any_table_of_frames_has_a_page(run, content):
    (run / "frames.csv").write_text(content)
    text = page(run).split("<body>")[1].split("<script>")[0]
    assert ("<path" in text) == ("<b>" in content) and not any(word in text for word in ("NaN", "nan", "inf", "<b>"))


def test_names_and_texts_are_text_in_the_page(run):
    (run / "figures" / "a'onerror='x.png").write_text("")
    subject = dict(name=EVIL, n_frames=EVIL, size=[EVIL])
    protocol = PROTOCOL | dict(run=EVIL, driven_by=[EVIL], measures={EVIL: EVIL}, audio=EVIL, subject=subject)
    write(run, protocol=protocol, figures={"a'onerror='x.png": EVIL, "loss.png": EVIL}, **{EVIL: {EVIL: EVIL}, "lmd": {"x": EVIL}})
    text = page(run)
    assert text.count(f"<script>{PAGE_SCRIPT}</script>") == 1
    text = text.replace(f"<script>{PAGE_SCRIPT}</script>", "")
    assert "<script" not in text and "<img src=x" not in text and text.count("<img") == 2
    assert "onerror='" not in text.replace("&#39;", "").replace("&#x27;", "")


WRONG = [[], 3, None, "x", {}, {"protocol": {}}, dict(protocol=[], reasons={}), dict(protocol={}, reasons=[])]
WRONG += [dict(protocol={}, reasons={"a": 3})] + [dict(protocol={}, reasons={}, figures=wrong) for wrong in (["loss.png"], {"loss.png": 3})]
WRONG += [dict(protocol=wrong, reasons={}) for wrong in (
    dict(split="test"), dict(split=dict(frames="4")), dict(subject=[]), dict(driven_by="x"), dict(measures=[]))]


TEXTS = *map(json.dumps, WRONG), "", "{", "\xff", '{"a":' * 999 + "1" + "}" * 999, "[" * 5000


@pytest.mark.parametrize("content", TEXTS, ids=lambda c: c[:40])
def test_metrics_that_are_none(run, content):
    (run / "metrics.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(DnerfError) as e:
        html_report(run)
    assert "metrics.json" in str(e.value) and str(e.value).isprintable() and not (run / "report.html").exists()


def test_a_page_needs_few_entries(run):
    (run / "metrics.json").write_text(json.dumps(dict(protocol={}, reasons={}, psnr={"frame": 31.5}, new=[1, None, {"a": True}])))
    assert "31.5" in page(run)


@pytest.fixture
def parts(run, dnerf_home):
    "A run's folder with all of its parts, none of which is read in these tests."
    from dnerf.nerf.run import PARTS_OF_A_RUN

    assert run.is_relative_to(dnerf_home)
    (run / "checkpoints").mkdir()
    for part in PARTS_OF_A_RUN:
        (run / part).write_text("not read")
    return run


@pytest.mark.parametrize("name", ["checkpoints", "figures", "video.mp4", "config.yaml", "speech", "metrics.csv", "tensorboard"])
def test_a_run_with_a_link_out_of_it_is_not_opened_and_not_trained_on(parts, tmp_path, name):
    from dnerf.nerf.config import compose_config
    from dnerf.nerf.run import load_run, run_folder

    path, target = parts / name, tmp_path / "moved"
    if path.exists():
        path.rename(target)
    path.symlink_to(target)
    config = compose_config("tiny", subject="toy", name="first")
    for use in (lambda: load_run("toy/first"), lambda: load_run(parts), lambda: run_folder(config, {})):
        with pytest.raises(InputError, match=f"{name} in .* is a link that leads out"):
            use()


ENTRIES = "subject: ../../toy", "subject: /tmp", "audio: ../../../secret", "name: ..", "name: 'a/b'", "subject: 'a\\b'"


@pytest.mark.parametrize("entry", ENTRIES)
def test_names_in_a_stored_configuration(parts, entry):
    from omegaconf import OmegaConf

    from dnerf.nerf.config import compose_config
    from dnerf.nerf.run import load_run

    config = compose_config("tiny", subject="toy", name="first", audio="mel")
    OmegaConf.save(config, parts / "config.yaml")
    text = (parts / "config.yaml").read_text()
    key = entry.split(":")[0]
    (parts / "config.yaml").write_text("\n".join(entry if line.startswith(f"{key}:") else line for line in text.splitlines()))
    with pytest.raises(InputError, match="name"):
        load_run("toy/first")


@pytest.fixture
def copy(dnerf_home):
    "What a run keeps of a subject that was cut out of a film of 48x40 pixels, and the film."
    film = write_video(dnerf_home / "data" / "toy.mp4", np.zeros((44, 40, 48, 3), np.uint8))
    toy = toy_subject(dnerf_home / "data" / "toy")
    source = dict(file=film.name, sha256=sha256(film), width=48, height=40)
    write_json(toy.folder / "subject.json", toy.protocol | dict(source=source, prepare=dict(crop=[4, 2, 36])))
    toy, config = Subject(toy.folder), SimpleNamespace(audio="mel", portrait=SimpleNamespace(gaze=False))
    return keep_subject(dnerf_home / "run", toy, speech_of(toy), config, fingerprint(toy, speech_of(toy)))


def sign(folder):
    "The hashes of a copy that somebody changed, as somebody can write them."
    kept = read_json(folder / "kept.json")
    files = {name: sha256(folder / name) for name in kept["files"] if (folder / name).is_file()}
    write_json(folder / "kept.json", kept | dict(files=files))


def long_block(path):
    "The numbers of a block end before its header says."
    with zipfile.ZipFile(path) as z:
        data = z.read("0.npy")
    with zipfile.ZipFile(path, "w") as z:
        z.writestr("0.npy", data[:-9])


def pickled(path):
    np.savez(path, **{"0": np.array([print] * 44, dtype=object)})


@pytest.mark.parametrize("spoil", [
    lambda p: np.savez_compressed(p, **{"0": np.zeros((44, 8, 8), np.uint8)}), lambda p: p.unlink(),
    lambda p: np.savez_compressed(p, **{"7": np.zeros((44, 32, 32), np.uint8)}), lambda p: p.write_bytes(b"no zip"),
    lambda p: np.savez_compressed(p, **{"0": np.zeros((44, 32, 32))}), long_block, pickled,
    lambda p: p.write_bytes(p.read_bytes()[:-40])], ids=range(8))
def test_masks_of_a_stranger_are_compared_with_the_protocol(copy, spoil):
    assert KeptSubject(copy, "toy/run").masks[43].shape == (32, 32)
    spoil(copy / "masks.npz")
    sign(copy)
    with pytest.raises(DnerfError, match="masks.npz .*; copy the run again"):
        KeptSubject(copy, "toy/run")


def test_masks_whose_numbers_are_damaged_end_in_one_sentence(copy):
    "What only decompression finds."
    path = copy / "masks.npz"
    with zipfile.ZipFile(path) as z:
        at, packed = z.getinfo("0.npy").header_offset + 60, bytearray(path.read_bytes())
    packed[at + 60:at + 80] = bytes(20)
    path.write_bytes(packed)
    sign(copy)
    with pytest.raises(InputError, match="masks.npz is not an archive .*; copy the run again"):
        KeptSubject(copy, "toy/run").masks[0]


@pytest.mark.parametrize("source, sentence", [
    (dict(width=64), "48x40 pixels, but 64x40 by subject.json"), (dict(width=None), "source.width is None"),
    (dict(width=20), "prepare.crop is .4, 2, 36."), (dict(width=...), "was not cut out of a video")])
def test_a_source_that_the_protocol_does_not_fit(copy, source, sentence):
    motion = SimpleNamespace(source=lambda i: i, own=True)
    assert Paster(KeptSubject(copy, "toy/run"), motion)(3, np.zeros((32, 32, 3), np.uint8)).shape == (40, 48, 3)
    made = read_json(copy / "subject.json")
    made["source"] = {k: v for k, v in (made["source"] | source).items() if v is not ...}
    write_json(copy / "subject.json", made)
    sign(copy)
    with pytest.raises(DnerfError, match=sentence):
        Paster(KeptSubject(copy, "toy/run"), motion)
