"Lips and sound, from prepared subjects to scores: the published SyncNet's form, the subject's own, and the offset of a source."
import numpy as np
import pytest
import torch

from dnerf.core import InputError, MissingError
from dnerf.evaluation.subject_syncnet import (SHIFT, SubjectSyncConfig, other_speech, separates, separation, subject_sync, sync_anchors,
                                              toy_talker, train_subject_syncnet)
from dnerf.evaluation.syncnet import SyncNet, load_syncnet, source_offset, sync_scores
from dnerf.face import CHIN, FOREHEAD, MIDDLE_LIPS, mouth_opening
from dnerf.subject import SAMPLES_PER_FRAME, write_wav
from dnerf.video.demo import demo_truth, demo_video
from dnerf.video.media import iter_frames, read_audio
from dnerf.video.sync import lip_sync
from dnerf.video.tracking import track_faces

SMALL = SubjectSyncConfig(size=24, channels=8, steps=75, batch=4)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    "A synthetic talker, 32 s."
    return toy_talker(tmp_path_factory.mktemp("toy") / "toy")


@pytest.fixture(scope="module")
def net(toy):
    "Its own SyncNet."
    return train_subject_syncnet(toy, c=SMALL, show=False)


@pytest.fixture
def no_weights(monkeypatch, tmp_path):
    "A machine without SyncNet's weights and without a place to fetch them from."
    import pooch

    monkeypatch.delenv("DNERF_SYNCNET", raising=False)
    monkeypatch.setenv("DNERF_MIRROR", "http://127.0.0.1:9")
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / "cache")


def clip(subject, split):
    "Frames, landmarks and sound of a split."
    r = subject.split(split)
    wav = subject.wav[r.start * SAMPLES_PER_FRAME : r.stop * SAMPLES_PER_FRAME]
    return subject.frames[r.start : r.stop], subject.landmarks[r.start : r.stop], wav


def demo_range(a, b):
    "Frames, tracked landmarks and sound of a part of the demo clip."
    frames = [f for i, f in zip(range(b), iter_frames(demo_video())) if i >= a]
    return frames, track_faces(iter(frames)).landmarks, read_audio(demo_video())[a * SAMPLES_PER_FRAME : b * SAMPLES_PER_FRAME]


# ---------------------------------------------------------------- the published network


def test_absent_weights_are_one_sentence(no_weights, tmp_path):
    with pytest.raises(MissingError) as e:
        load_syncnet()
    assert str(tmp_path / "cache") in str(e.value) and "DNERF_SYNCNET" in str(e.value) and "\n" not in str(e.value)


def test_scores_of_a_tracked_clip(monkeypatch, tmp_path):
    torch.manual_seed(0)
    torch.save(SyncNet().state_dict(), tmp_path / "random.model")
    monkeypatch.setenv("DNERF_SYNCNET", str(tmp_path / "random.model"))
    found = sync_scores(load_syncnet(), *demo_range(0, 30))
    assert set(found) == {"confidence", "distance", "offset"} and np.isfinite(list(found.values())).all()
    frames, landmarks, wav = demo_range(0, 26)
    with pytest.raises(InputError, match="only 20 frames"):
        sync_scores(load_syncnet(), frames[:20], landmarks, wav)


# ---------------------------------------------------------------- the subject's own


def test_anchors_separate(toy, net):
    anchors = sync_anchors(net, toy, other_wav=toy_talker(toy.folder.parent / "other", n=120, seed=3).wav)
    assert separates(anchors) and anchors["ground_truth"]["offset"] == 0 and anchors["shifted"]["offset"] == -SHIFT
    assert all(low > 0.1 for _, low in separation(anchors).values())
    assert anchors["shifted"]["margin"] < 0.1 < anchors["ground_truth"]["margin"]


def test_a_mouth_that_follows_other_speech_scores_lower(toy, net):
    "The scores of a model whose lips move independently of the speech."
    frames, landmarks, wav = clip(toy, "test")
    real, unrelated = (subject_sync(net, f, landmarks, wav) for f in (frames, toy.frames[: len(frames)]))
    assert unrelated["margin"] < 0.2 * real["margin"] and unrelated["confidence"] < 0.5 * real["confidence"]


def test_test_frames_do_not_matter_for_training(toy, net, tmp_path):
    other = toy_talker(tmp_path / "other")
    frames, wav, start = np.array(other.frames), np.array(other.wav), other.split("test").start
    frames[start:], wav[start * SAMPLES_PER_FRAME :] = 0, 0
    np.save(other.folder / "frames.npy", frames)
    write_wav(other.folder / "audio.wav", wav)
    again = train_subject_syncnet(other, c=SMALL, show=False)
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in net.state_dict().items())


def test_other_sound_trains_anew(tmp_path):
    subject, quick = toy_talker(tmp_path / "toy"), SubjectSyncConfig(size=16, channels=2, steps=1, batch=2)
    path = subject.folder / "subject_syncnet-0.ckpt"
    train_subject_syncnet(subject, c=quick, show=False)
    first = path.read_bytes()
    train_subject_syncnet(subject, c=quick, show=False)
    assert path.read_bytes() == first
    write_wav(subject.folder / "audio.wav", np.array(subject.wav)[::-1])
    train_subject_syncnet(subject, c=quick, show=False)
    assert path.read_bytes() != first
    path.write_bytes(first[:1000])  # a damaged file is made again
    assert train_subject_syncnet(subject, c=quick, show=False).history


def test_other_speech_is_the_demo_voice(toy):
    assert np.array_equal(other_speech(toy, 16000), read_audio(demo_video())[:16000])


# ---------------------------------------------------------------- the source


@pytest.mark.parametrize("early", [0, 8, -11])
def test_offset_of_a_source(tmp_path, no_weights, early):
    "The demo person's true jaw as lips, its sound moved by a known amount; the jaw leads the sound by 30 ms."
    jaw, wav = demo_truth().facial[:, demo_truth().facial_names.index("jawOpen")], read_audio(demo_video())
    subject = toy_talker(tmp_path / "toy", n=len(jaw), size=16)
    landmarks = np.zeros((len(jaw), 478, 3), np.float32)
    landmarks[:, FOREHEAD, 1], landmarks[:, CHIN, 1] = -50, 50
    landmarks[:, MIDDLE_LIPS[1], 1] = 20 * jaw
    np.save(subject.folder / "landmarks.npy", landmarks)
    write_wav(subject.folder / "audio.wav", np.roll(wav[: len(jaw) * SAMPLES_PER_FRAME], -early * SAMPLES_PER_FRAME))
    found = source_offset(subject)
    assert found["by"] == "lip opening and loudness" and found["reason"] is None and found["certainty"] > 5
    assert early - 1 <= found["offset"] <= early


def test_offset_of_a_tracked_source():
    "All of the demo clip, its landmarks tracked, with its sound half a second late."
    _, landmarks, wav = demo_range(0, 922)
    found = lip_sync(mouth_opening(landmarks), np.roll(wav, 12 * SAMPLES_PER_FRAME))
    assert found["offset"] in (-12, -13)
