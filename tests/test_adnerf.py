"""AD-NeRF folders: exported and imported again, hand-made ones of AD-NeRF and RAD-NeRF, damaged ones, and a training on one."""
import csv
import json
import os
import re

import cv2
import numpy as np
import pytest
from scipy.io import wavfile
from scipy.spatial.transform import Rotation

from dnerf.adnerf import import_adnerf, read_transforms
from dnerf.adnerf_export import export_adnerf
from dnerf.adnerf_head import BLINKS, move_cameras
from dnerf.core import DnerfError, InputError, MissingError, write_json
from dnerf.face import MESH_OF_68, canonical_face, project
from dnerf.nerf.batches import sampling_boxes
from dnerf.nerf.config import compose_config
from dnerf.nerf.head import head_box
from dnerf.nerf.training import train
from dnerf.subject import HEAD, SAMPLES_PER_FRAME, Subject, toy_subject

N, SIZE, FOCAL = 40, 64, 110.0
MISSING = 7


def cameras(n=N):
    "Camera-to-world in our head space of a head that nods and turns 0.75 m away."
    turn = Rotation.from_euler("yx", np.stack([12 * np.sin(np.arange(n) / 4), 7 * np.cos(np.arange(n) / 3)], 1), degrees=True).as_matrix()
    out = np.tile(np.eye(4), (n, 1, 1))
    out[:, :3, :3] = turn.transpose(0, 2, 1)
    out[:, :3, 3] = np.einsum("nji,j->ni", turn, [0, 0.03, 0.75])
    return out


def their_space():
    "Our head space to one that a face model might have: mean vertex in front of ours, a little smaller and tipped."
    S = np.eye(4)
    S[:3, :3] = 0.96 * Rotation.from_euler("x", 3, degrees=True).as_matrix()
    S[:3, 3] = [0, -0.003, -0.021]
    return S


def write_layout(folder, missing=(MISSING,), renumber=False, stereo=False):
    "What AD-NeRF's process_data leaves of a clip of N frames, drawn by hand; RAD-NeRF's with `renumber`."
    pictures = "gt_imgs" if renumber else "com_imgs"
    for k in ("ori_imgs", pictures, "parsing"):
        (folder / k).mkdir(parents=True)
    plate = np.full((SIZE, SIZE, 3), (90, 120, 150), np.uint8)
    cv2.imwrite(str(folder / "bc.jpg"), plate)
    listed, tracked = [], [i for i in range(N) if i not in missing]
    theirs = move_cameras(their_space(), cameras())
    points = project(canonical_face()[list(MESH_OF_68)], cameras(), FOCAL, SIZE)
    y, x = np.mgrid[:SIZE, :SIZE]
    for i in range(N):
        head = np.hypot(x - points[i, 30, 0], y - points[i, 30, 1]) < 16
        parsing = np.full((SIZE, SIZE, 3), 255, np.uint8)
        parsing[(y > 50) & (abs(x - 32) < 24)] = (0, 0, 255)
        parsing[(y > 44) & (abs(x - 32) < 6)] = (0, 255, 0)
        parsing[head] = (255, 0, 0)
        person = np.where(head[..., None], (100, 140, 200), (30, 60, 90))
        frame = np.where((parsing == 255).all(-1)[..., None], plate, person).astype(np.uint8)
        frame[:4, :4] = 5 * i
        cv2.imwrite(str(folder / f"parsing/{i}.png"), parsing)
        cv2.imwrite(str(folder / f"ori_imgs/{i}.jpg"), frame)
        if i in tracked or renumber:
            cv2.imwrite(str(folder / pictures / f"{i}.jpg"), frame)
        if i in tracked:
            np.savetxt(folder / f"ori_imgs/{i}.lms", points[i], "%f")
            k = len(listed) if renumber else i
            listed.append(dict(img_id=k, aud_id=k, transform_matrix=theirs[i].tolist()))
    cut = len(listed) * 10 // 11
    for name, part in (("train", listed[:cut]), ("val", listed[cut:])):
        (folder / f"transforms_{name}.json").write_text(json.dumps(dict(focal_len=FOCAL, cx=SIZE / 2, cy=SIZE / 2, frames=part)))
    rng = np.random.default_rng(0)
    sound = rng.integers(-9000, 9000, (N * SAMPLES_PER_FRAME - 300, 2) if stereo else N * SAMPLES_PER_FRAME - 300).astype(np.int16)
    wavfile.write(folder / "aud.wav", 16000, sound)
    np.save(folder / "aud.npy", rng.normal(3, 2, (N - 1, 16, 29)))
    return folder


def load(folder, **more):
    return import_adnerf(folder, **(dict(name="guo", show=False) | more))


def test_there_and_back(dnerf_home):
    toy = toy_subject(dnerf_home / "data" / "toy", n=66)
    speech = np.random.default_rng(1).normal(size=(66, 16, 29)).astype(np.float32)
    (toy.folder / "embeddings").mkdir()
    np.save(toy.folder / "embeddings" / "deepspeech.npy", speech)
    write_json(toy.folder / "embeddings" / "deepspeech.json", dict(mean=[2.0] * 29, std=[3.0] * 29))
    folder = export_adnerf(toy, dnerf_home / "layout", show=False)
    assert np.allclose(np.load(folder / "aud.npy"), speech * 3 + 2, atol=1e-5)
    back = import_adnerf(folder, "back", show=False)
    assert (back.n_frames, back.size, back.focal, back.protocol["splits"]) == (66, 32, toy.focal, toy.protocol["splits"])
    assert np.abs(back.poses - toy.poses).max() < 1e-5
    assert np.array_equal(back.masks, toy.masks) and np.array_equal(back.wav, toy.wav) and back.tracked.all()
    error = np.abs(back.frames.astype(int) - toy.frames)
    assert error.mean() < 2 and error.max() < 40
    assert np.abs(back.background.astype(int) - toy.background).max() <= 3
    assert np.abs(back.landmarks[:, MESH_OF_68, :2] - toy.landmarks[:, MESH_OF_68, :2]).max() < 1e-3
    own = back.embedding("deepspeech")
    scale = json.loads((back.folder / "embeddings" / "deepspeech.json").read_text())
    assert np.allclose(own * np.array(scale["std"]) + scale["mean"], speech * 3 + 2, atol=1e-4)


def test_what_an_export_holds(dnerf_home):
    "File names, keys and values that the other programs read."
    toy = toy_subject(dnerf_home / "data" / "toy", n=66)
    meta = json.loads((toy.folder / "subject.json").read_text())
    meta["blendshape_names"][3:5], meta["lost"] = BLINKS, [[5, 7]]
    write_json(toy.folder / "subject.json", meta)
    toy = Subject(toy.folder)
    folder = export_adnerf(toy, dnerf_home / "layout", show=False)
    train_json, val_json = (json.loads((folder / f"transforms_{k}.json").read_text()) for k in ("train", "val"))
    assert [f["img_id"] for f in train_json["frames"]] == [i for i in range(60) if i not in (5, 6)]
    assert [f["aud_id"] for f in val_json["frames"]] == list(toy.split("test"))
    assert (train_json["focal_len"], train_json["cx"], train_json["cy"]) == (64.0, 16.0, 16.0)
    assert all(len(f["face_rect"]) == 4 and min(f["face_rect"]) >= 0 for f in train_json["frames"])
    for name in ("com_imgs/0.jpg", "head_imgs/0.jpg", "gt_imgs/0.jpg", "ori_imgs/5.jpg", "parsing/5.png",
                 "bc.jpg", "aud.wav", "HeadNeRF_config.txt"):
        assert (folder / name).is_file(), name
    assert not (folder / "com_imgs/5.jpg").exists() and not (folder / "ori_imgs/6.lms").exists()
    assert np.loadtxt(folder / "ori_imgs/0.lms").shape == (68, 2)
    torso = cv2.imread(str(folder / "torso_imgs/0.png"), cv2.IMREAD_UNCHANGED)
    assert torso.shape == (32, 32, 4) and np.array_equal(torso[..., 3] > 0, toy.masks[0] == 1)
    rows = list(csv.reader(open(folder / "au.csv")))
    assert rows[0][-1] == " AU45_r" and np.allclose([float(r[-1]) for r in rows[1:]], 2 * toy.blendshapes[:, 3], atol=1e-4)
    back = import_adnerf(folder, "back", show=False)
    assert np.flatnonzero(~back.tracked).tolist() == [5, 6]
    assert np.allclose(back.blendshapes[:, 0], toy.blendshapes[:, 3], atol=1e-4) and back.blendshape_names == list(BLINKS)


def test_a_hand_made_folder(dnerf_home):
    guo = load(write_layout(dnerf_home / "guo", stereo=True))
    assert (guo.n_frames, guo.size, guo.focal) == (N, SIZE, FOCAL)
    assert np.flatnonzero(~guo.tracked).tolist() == [MISSING]
    about = guo.protocol["adnerf"]
    assert about["head_space"] == "fitted to the landmarks" and about["landmarks_rms_px"] < 0.2 and not about["renumbered"]
    assert np.abs(guo.poses - cameras())[np.arange(N) != MISSING].max() < 0.01, "head space is ours again"

    def corner(subject):
        return subject.frames[:, 1, 1, 0].astype(int)

    assert np.abs(corner(guo) - 5 * np.arange(N))[guo.tracked].max() < 8, "every frame kept its number"
    assert corner(guo)[MISSING] == 150, "a frame that com_imgs lacks has the empty room put in"
    assert np.abs(corner(load(dnerf_home / "guo", name="raw", images="ori_imgs")) - 5 * np.arange(N)).max() < 8
    assert np.array_equal(np.unique(guo.masks), [0, 1, 2]) and guo.masks[0, 60, 32] == 1 and guo.masks[0, 2, 40] == 0
    assert len(guo.wav) == N * SAMPLES_PER_FRAME and (guo.wav[-300:] == 0).all()
    assert guo.protocol["splits"]["test"] == [36, N] and about["splits"] == "theirs"
    assert guo.embedding("deepspeech").shape == (N, 16, 29)
    low, high = head_box(guo)
    assert (high - low).min() > 0.1 and high[1] < 0.3
    face = sampling_boxes(guo)[0, 1]
    v, u = np.nonzero(guo.masks[0] == HEAD)
    assert abs(face.mean(0) - [u.mean(), v.mean()]).max() < 10


def test_features_are_scaled_by_the_training_split(dnerf_home):
    folder = write_layout(dnerf_home / "guo")
    guo, theirs = load(folder), np.load(folder / "aud.npy")
    about = json.loads((guo.folder / "embeddings" / "deepspeech.json").read_text())
    steps = theirs[guo.split("train").start : guo.split("train").stop, 8:10].reshape(-1, 29)
    assert np.allclose(about["mean"], steps.mean(0)) and np.allclose(about["std"], steps.std(0)) and about["imported"] == "aud.npy"
    ours = guo.embedding("deepspeech")
    assert np.allclose(ours[:-1], (theirs - steps.mean(0)) / steps.std(0), atol=1e-5)
    assert np.array_equal(ours[-1], ours[-2]), "their rule: the last row serves all later frames"


def test_rad_nerf_numbers_are_undone(dnerf_home):
    guo = load(write_layout(dnerf_home / "guo", missing=(3, 20), renumber=True))
    assert guo.protocol["adnerf"]["renumbered"] and np.flatnonzero(~guo.tracked).tolist() == [3, 20]
    assert np.abs(guo.poses - cameras())[guo.tracked].max() < 0.01
    assert guo.protocol["splits"]["test"][0] == 36, "the 34th tracked frame is number 36 of the video"


def test_without_landmarks(dnerf_home):
    folder = write_layout(dnerf_home / "guo")
    for path in folder.glob("ori_imgs/*.lms"):
        path.unlink()
    guo = load(folder, size=32)
    about = guo.protocol["adnerf"]
    assert about["head_space"].startswith("shifted") and about["landmarks"].endswith("not measured")
    assert not guo.blendshapes.any() and guo.blendshape_names == [] and np.isfinite(guo.landmarks).all()
    assert (guo.size, guo.focal) == (32, FOCAL / 2) and guo.background.shape == (32, 32, 3)
    assert np.abs(guo.poses - cameras())[guo.tracked, :3, 3].max() < 0.06


def test_a_picture_of_an_unlisted_frame_may_be_absent(dnerf_home):
    folder = write_layout(dnerf_home / "guo")
    for k in (f"ori_imgs/{MISSING}.jpg", f"parsing/{MISSING}.png"):
        (folder / k).unlink()
    guo = load(folder)
    assert np.array_equal(guo.frames[MISSING], guo.frames[MISSING - 1]) and not guo.tracked[MISSING]


def change_json(folder, change, name="train"):
    path = folder / f"transforms_{name}.json"
    meta = json.loads(path.read_text())
    change(meta)
    path.write_text(json.dumps(meta))


def no_frames(folder):
    for name in ("train", "val"):
        change_json(folder, lambda meta: meta.update(frames=[]), name)


def change_frame(folder, **more):
    "Other entries for one frame of the training part, frame 2."
    change_json(folder, lambda meta: meta["frames"][2].update(more))


def pose_with_nan(folder):
    change_json(folder, lambda meta: meta["frames"][2]["transform_matrix"][0].__setitem__(3, float("nan")))


def small_picture(path):
    cv2.imwrite(str(path), np.zeros((8, 8, 3), np.uint8))


def write_sound(folder, seconds):
    wavfile.write(folder / "aud.wav", 16000, np.zeros(int(16000 * seconds), np.int16))


@pytest.mark.parametrize("spoil, error, sentence", [
    (lambda f: (f / "transforms_train.json").unlink(), MissingError, "no transforms_train.json"),
    (lambda f: (f / "transforms_val.json").write_text("{"), InputError, "transforms_val.json is damaged"),
    (lambda f: (f / "transforms_train.json").write_text("[1]"), InputError, "not a table of entries"),
    (no_frames, InputError, "lists no frame"),
    (lambda f: change_json(f, lambda m: m["frames"][2].pop("transform_matrix")), InputError, r"frames.2. has no entry 'tr"),
    (lambda f: change_json(f, lambda m: m["frames"].append(m["frames"][0])), InputError, "twice"),
    (lambda f: change_frame(f, transform_matrix=np.diag([1, 1, 0, 1]).tolist()), InputError, "frame 2 .* not a rigid"),
    (pose_with_nan, InputError, "frames.2..transform_matrix.0..3. is nan"),
    (lambda f: change_frame(f, aud_id=9), InputError, "pairs picture 2 with sound 9"),
    (lambda f: change_json(f, lambda m: m.update(cx=99.0)), InputError, "centre"),
    (lambda f: change_json(f, lambda m: m.update(focal_len=0)), InputError, "focal_len is 0, not a number"),
    (lambda f: (f / "com_imgs/4.jpg").unlink(), MissingError, "com_imgs/4.jpg is missing"),
    (lambda f: (f / "com_imgs/4.jpg").write_bytes(b"no picture"), InputError, "4.jpg is not a picture"),
    (lambda f: small_picture(f / "com_imgs/4.jpg"), InputError, "8x8 pixels but the other pictures are 64x64"),
    (lambda f: (f / "parsing/4.png").unlink(), MissingError, "parsing/4.png is missing"),
    (lambda f: (f / "bc.jpg").unlink(), MissingError, "bc.jpg is missing"),
    (lambda f: cv2.imwrite(str(f / "bc.jpg"), np.zeros((64, 48, 3), np.uint8)), InputError, "square"),
    (lambda f: (f / "aud.wav").unlink(), MissingError, "aud.wav is missing; extract it"),
    (lambda f: (f / "aud.wav").write_bytes(b"mp3"), InputError, "not a WAV"),
    (lambda f: write_sound(f, 9), InputError, "another frame rate"),
    (lambda f: np.save(f / "aud.npy", np.zeros((N, 16))), InputError, "of .any, 16, any.; extract"),
    (lambda f: (f / "ori_imgs/4.lms").write_text("1 2 3"), InputError, "68 landmarks"),
    (lambda f: (f / "au.csv").write_text("frame, AU45_r\n1, 0.5\n"), InputError, "1 rows but the video has 40"),
])
def test_spoiled_folders_end_in_one_sentence(dnerf_home, spoil, error, sentence):
    folder = write_layout(dnerf_home / "guo")
    spoil(folder)
    with pytest.raises(error, match=sentence) as caught:
        load(folder)
    assert isinstance(caught.value, DnerfError) and "\n" not in str(caught.value)
    assert not (dnerf_home / "data" / "guo").exists() and not list((dnerf_home / "data").glob(".guo.partial"))


NO_NUMBER = None, "64", [], {}, True, float("nan"), float("inf"), -1, 1e300
JSONS = [(key, v) for key in ("focal_len", "cx", "cy") for v in NO_NUMBER]
JSONS += [("frames", v) for v in (None, 3, "x", {}, [3], [None], [[]], [{}])]
FRAMES = [(key, v) for key in ("img_id", "aud_id") for v in (*NO_NUMBER, 2.0, 2.5, 10**30)] + [("transform_matrix", v) for v in (
    None, 3, "x", [], [[1] * 4] * 3, [[1] * 4] * 5, [[1] * 3] * 4, [["1"] * 4] * 4, [[None] * 4] * 4, np.zeros((4, 4)).tolist(),
    (np.eye(4) * 1e200).tolist(), (np.eye(4) + 1e5 * np.eye(4, k=3)).tolist(), np.full((4, 4), np.inf).tolist())]


def test_one_schema_for_their_json(tmp_path):
    "Every wrong value is a sentence that names it; nothing else of the folder is looked at."
    frames = [dict(img_id=i, aud_id=i, transform_matrix=cameras(1)[0].tolist()) for i in range(4)]
    good, path = dict(focal_len=110, cx=32, cy=32.0, frames=frames), tmp_path / "transforms_train.json"
    path.write_text(json.dumps(good))
    assert read_transforms(tmp_path).focal == 110
    wrong = [good | {key: value} for key, value in JSONS]
    wrong += [good | dict(frames=[*frames[:2], frames[2] | {key: value}, *frames[3:]]) for key, value in FRAMES]
    texts = [json.dumps(w) for w in wrong] + ["", "null", "3", "\xff", "[" * 1000 + "]" * 1000, '{"a":' * 1000 + "1" + "}" * 1000]
    texts.append(json.dumps(good)[:-1] + ', "cx": ' + "[" * 900 + "]" * 900 + "}")
    for text in texts:
        path.write_bytes(text.encode("latin-1"))
        with pytest.raises(DnerfError) as e:
            read_transforms(tmp_path)
        assert "transforms_train.json" in str(e.value) and str(e.value).isprintable() and len(str(e.value)) < 500, text[:80]


def far_picture(folder):
    (folder / "ori_imgs" / "9999999.jpg").write_bytes((folder / "ori_imgs" / "0.jpg").read_bytes())


def head_behind(folder):
    "The head lies behind the camera in frame 2."
    change_json(folder, lambda meta: meta["frames"][2]["transform_matrix"][2].__setitem__(3, -0.75))


def paint(folder, frames, colour):
    for i in frames:
        cv2.imwrite(str(folder / f"parsing/{i}.png"), np.full((SIZE, SIZE, 3), colour, np.uint8))


def no_head(folder):
    paint(folder, range(N), 255)


def pipe(path):
    path.unlink()
    os.mkfifo(path)


def link(path):
    "The file or folder lies elsewhere."
    path.rename(path.parent.parent / path.name)
    path.symlink_to(path.parent.parent / path.name)


def put(folder, array):
    np.save(folder / "aud.npy", array, allow_pickle=True)


def features(**more):
    out = np.zeros((N, 16, 29))
    for index, value in more.values():
        out[index] = value
    return out


@pytest.mark.parametrize("spoil, sentence", [
    (lambda f: (f / "aud.npy").write_bytes(b""), "aud.npy is damaged"),
    (lambda f: (f / "aud.npy").write_text("features"), "aud.npy is damaged"),
    (lambda f: put(f, features(a=((3, 2, 1), np.nan))), "aud.npy holds a number that is not finite .*frame 3"),
    (lambda f: put(f, np.zeros((0, 16, 29))), "aud.npy has no rows"),
    (lambda f: put(f, np.zeros((N, 16, 29), "int32")), "aud.npy holds int32"),
    (lambda f: put(f, features().astype(object)), "aud.npy is damaged"),
    (far_picture, "aud.wav lasts 1.6 s but 10000000 pictures .* from 40 to 9999998: delete 9999999.jpg if it is a stray"),
    (head_behind, "frame 2 .* with the head in front of the camera"),
    (no_head, "parsing is head .blue. in a training frame, so no head"),
    (lambda f: pipe(f / "transforms_train.json"), "transforms_train.json in .* is neither a file nor a folder"),
    (lambda f: pipe(f / "aud.wav"), "aud.wav in .* is neither a file nor a folder"),
    (lambda f: pipe(f / "bc.jpg"), "bc.jpg in .* is neither a file nor a folder"),
    (lambda f: pipe(f / "ori_imgs/4.lms"), "4.lms in .* is neither a file nor a folder"),
    (lambda f: link(f / "aud.wav"), "aud.wav in .* is a link that leads out of it; put the file itself there"),
    (lambda f: link(f / "parsing"), "parsing in .* is a link that leads out of it; put the file itself there"),
    (lambda f: wavfile.write(f / "aud.wav", 1, np.zeros(N * 640, np.int16)), "aud.wav holds no sound .1 samples a second"),
    (lambda f: wavfile.write(f / "aud.wav", 16000, np.full(N * 640, np.nan, np.float32)), "aud.wav holds no sound"),
    (lambda f: wavfile.write(f / "aud.wav", 16000, np.full(N * 640, 9e3, np.float32)), "above full scale"),
    (lambda f: (f / "aud.wav").write_bytes((f / "aud.wav").read_bytes()[:30]), "aud.wav is not a WAV"),
    (lambda f: (f / "ori_imgs/4.lms").write_text("1e300 2\n" * 68), "4.lms has a landmark at 1e.300"),
    (lambda f: (f / "ori_imgs/4.lms").write_bytes(b"\xff\0" * 99), "4.lms does not hold 68 landmarks"),
    (lambda f: (f / "au.csv").write_text("frame, AU45_r\n" + "1, nan\n" * N), "au.csv has no column AU45_r of numbers"),
    (lambda f: (f / "au.csv").write_bytes(b"frame, AU45_r\n1, \xff\n"), "au.csv has no column AU45_r of numbers"),
    (lambda f: cv2.imwrite(str(f / "bc.jpg"), np.zeros((8, 8, 3), np.uint8)), "bc.jpg is 8x8 pixels; portraits have"),
])
def test_other_damage_is_one_sentence_before_anything_is_written(dnerf_home, spoil, sentence):
    folder = write_layout(dnerf_home / "guo")
    spoil(folder)
    with pytest.raises(DnerfError, match=sentence) as caught:
        load(folder)
    assert str(caught.value).isprintable() and not list((dnerf_home / "data").glob("*guo*[!k]"))     # but a lock


def scale_poses(folder, factor):
    def scale(meta):
        for row in (row for f in meta["frames"] for row in f["transform_matrix"][:3]):
            row[3] *= factor

    for name in ("train", "val"):
        change_json(folder, scale, name)


def exported_in_mm(folder):
    "Poses that say to be in our head space, so that landmarks do not move them."
    scale_poses(folder, 300)
    change_json(folder, lambda meta: meta.update(dnerf=1))


def same_poses(folder):
    pose = json.loads((folder / "transforms_train.json").read_text())["frames"][0]["transform_matrix"]
    for name in ("train", "val"):
        change_json(folder, lambda meta: [f.update(transform_matrix=pose) for f in meta["frames"]], name)


def shift_landmarks(folder):
    for path in (folder / "ori_imgs").glob("*.lms"):
        path.write_text("1000 -500\n" * 68)


def one_frame(folder):
    (folder / "transforms_val.json").unlink()
    change_json(folder, lambda meta: meta.update(frames=meta["frames"][:1]))


@pytest.mark.parametrize("spoil, sentences", [
    (lambda f: None, []), (lambda f: write_sound(f, 1.6), ["silent throughout"]), (same_poses, ["one pose in all frames"]),
    (lambda f: scale_poses(f, 300), ["in units of 0.003.* m, by the landmarks"]),
    (exported_in_mm, ["a dot in 39 frames .0.0-0.3 s, 0.3-1.6 s"]),
    (shift_landmarks, ["the landmarks lie outside of the picture in 39 frames", "pixels .* from where the poses put them"]),
    (lambda f: paint(f, range(10, 20), 255), ["no pixel is head in 10 of 40 frames .0.4-0.8 s.; segment"]),
    (one_frame, ["39 of 40 frames have no pose .0.0-1.6 s.; they"])])
def test_doubtful_folders_are_imported_with_a_warning(dnerf_home, capsys, spoil, sentences):
    folder = write_layout(dnerf_home / "guo", missing=() if spoil is one_frame else (MISSING,))
    spoil(folder)
    load(folder, show=True)
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning    ")]
    expected = sentences if spoil is one_frame else [*sentences, "1 of 40 frames have no pose .0.3-0.3 s.; they"]
    for sentence in expected:
        assert any(re.search(sentence, line) for line in said), said
    assert len(said) <= len(expected) + (spoil is same_poses)                # these do not fit the landmarks


def test_wrong_requests(dnerf_home):
    folder = write_layout(dnerf_home / "guo")
    for wrong, sentence in ((dict(name="../x"), "folder name"), (dict(size=3), "size is 3"), (dict(images="torso_imgs"), "no torso_imgs")):
        with pytest.raises(DnerfError, match=sentence):
            load(folder, **wrong)
    with pytest.raises(MissingError, match="no folder"):
        load(dnerf_home / "nowhere")
    load(folder)
    with pytest.raises(InputError, match="already"):
        load(folder)
    assert load(folder, force=True).n_frames == N
    with pytest.raises(InputError, match="exists already"):
        export_adnerf(toy_subject(dnerf_home / "data" / "toy"), folder, show=False)


def test_training_runs_on_an_imported_folder(dnerf_home):
    guo = load(write_layout(dnerf_home / "guo"), size=32)
    run = train(guo, guo.embedding("deepspeech"), compose_config("tiny", subject="guo", audio="deepspeech", steps=2), show=False)
    assert json.loads((run / "state.json").read_text())["steps"] == 2
