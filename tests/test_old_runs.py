"""Runs outlive what they were made from: those of earlier versions open, render the same pictures and go on with the same losses;
those of today are driven without `data/`."""
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from dnerf.audio.embedding import embed_subject
from dnerf.core import DnerfError, InputError, MissingError
from dnerf.evaluation.report import evaluate_run
from dnerf.nerf.config import compose_config
from dnerf.nerf.playback import render_frames
from dnerf.nerf.portrait import build_portrait
from dnerf.nerf.run import load_run, read_config, renamed, with_recording
from dnerf.nerf.training import PortraitTraining, train
from dnerf.subject import Subject, toy_subject, write_wav
from dnerf.talk.drive import drive
from dnerf.talk.viewer import open_scene
from dnerf.video.media import iter_frames
from toys import MLP, copied_home, home_of_a_module, keep_speech, stopping_at

# Names and shapes of the weights of four portraits as version 0.1.0 built them, of the toy subject with two features of speech.
OLD = json.loads((Path(__file__).parent / "data" / "names_0_1.json").read_text())
LINEAR = "portrait.mouth_reader=linear"                               # there was no other reader of the mouth
OPTIONS = f"{LINEAR} portrait.pose_refinement=true portrait.frame_code=true portrait.backdrop=moving portrait.attention=8"
KINDS = {"cpu": ("tiny", f"field=fast_tiny {LINEAR}"), "options": ("tiny", f"field=fast_tiny {OPTIONS}"),
         "paper": ("paper", MLP), "adnerf": ("adnerf", f"{MLP} data.torso_rays=48")}
# Attention, and the torso NeRF, begin within a run of so few steps.
STEPS, BEGIN = 8, {"cpu": "", "options": "portrait.attention_start=2", "paper": "portrait.attention_start=2",
                   "adnerf": "portrait.attention_start=1"}
# Settings of the fast field that are newer than version 0.2.
NEWER = ("plane", "plane_channels", "plane_scale", "moves", "move_scale")
# From today's names to those of version 0.1.
TO_OLD = [(r"^condition\.upper_std$", "upper_spread"), (r"^condition\.", ""), (r"^head\.(field|coarse)\.", "heads.0."),
          (r"^head\.fine\.", "heads.1."), (r"^head\.depth$", "depth"), (r"^torso\.(region|pose|begin)$", r"torso_\1"),
          (r"^torso\.coarse\.", "torso.0."), (r"^torso\.fine\.", "torso.1.")]


def toy_with_face(folder):
    "The toy subject as one whose jaw and eyelids were tracked."
    toy = toy_subject(folder)
    about = json.loads((folder / "subject.json").read_text())
    about["blendshape_names"][:3] = "jawOpen", "eyeBlinkLeft", "eyeBlinkRight"
    (folder / "subject.json").write_text(json.dumps(about))
    return keep_speech(Subject(toy.folder))


def under_old_names(weights):
    "The weights of a portrait as version 0.1 saved them; it saved the depth of every head once, and a region of every torso."
    size = len(weights["background"])
    out = {"depth": torch.tensor(1.0), "torso_region": torch.zeros(size, size, dtype=torch.bool)}
    for name, value in weights.items():
        for pattern, old in TO_OLD:
            name = re.sub(pattern, old, name)
        out[name] = value
    out.pop("torso.depth", None)
    return out


def make_old(folder):
    "Rewrite the checkpoints of a run, finished or not, to what version 0.1 would have written; which ones there were."
    paths = sorted((folder / "checkpoints").glob("*.ckpt"))
    for path in paths:
        saved = torch.load(path, weights_only=True)
        del saved["version"], saved["sealed"]
        saved["of"]["settings"] = forget_newer(saved["of"]["settings"])
        if "portrait" in saved:
            saved["portrait"] = under_old_names(saved["portrait"])
        else:
            weights = under_old_names({name.removeprefix("portrait."): value for name, value in saved["state_dict"].items()})
            saved["state_dict"] = {f"portrait.{name}": value for name, value in weights.items()}
        torch.save(saved, path)
    return [path.name for path in paths]


def forget_newer(settings):
    "Settings of a run, without those of the field that an earlier version did not have."
    return settings | {"field": {name: value for name, value in settings["field"].items() if name not in NEWER}}


def same(a, b):
    "Whether two nested structures of tensors and plain values are equal to the last bit."
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if torch.is_tensor(a) else a == b


@pytest.fixture
def losses(monkeypatch):
    "The loss of every training step of this test."
    ordinary, values = PortraitTraining.training_step, []

    def step(self, batch, batch_idx):
        loss = ordinary(self, batch, batch_idx)
        values.append(float(loss.detach()))
        return loss

    monkeypatch.setattr(PortraitTraining, "training_step", step)
    return values


@pytest.mark.parametrize("kind", KINDS)
def test_every_name_has_a_successor_of_the_same_shape(dnerf_home, kind):
    preset, settings = KINDS[kind]
    toy = toy_with_face(dnerf_home / "data" / "toy")
    today = build_portrait(toy, compose_config(preset, settings, subject="toy"), 2).state_dict()
    shapes = {name: list(value.shape) for name, value in today.items()}
    assert {name: list(v.shape) for name, v in renamed({name: torch.zeros(s) for name, s in OLD[kind].items()}).items()} == shapes
    old = under_old_names(today)                                      # as the next test rewrites checkpoints
    assert {name: list(value.shape) for name, value in old.items()} == OLD[kind]
    assert same(renamed(old), dict(today)) and renamed(today) is today


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("at", [1, 5])
def test_an_unfinished_run_goes_on_and_a_finished_one_opens(dnerf_home, losses, capsys, kind, at):
    "Stopped before and after attention and torso begin: weights, moments of Adam, losses and pictures are those of the unrewritten run."
    preset, settings = KINDS[kind]
    toy = toy_with_face(dnerf_home / "data" / "toy")

    def run(name):
        losses.clear()
        config = compose_config(preset, f"{settings} {BEGIN[kind]} keep_last=true", subject="toy", audio="made", steps=STEPS, name=name)
        return train(toy, toy.embedding("made"), config, named=True, show=False), list(losses)

    with stopping_at(at, validate=True) as stop:
        run("new")
    new = stop.value.args[0]
    old = new.with_name("old")
    shutil.copytree(new, old)
    assert make_old(old) == ["best.ckpt", "last.ckpt"]
    (_, expected), (_, found) = run("new"), run("old")
    assert found == expected and len(found) == STEPS - at and np.isfinite(found).all()
    assert capsys.readouterr().out.count(f"going on at step {at}\n") == 2
    ends = [torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True) for folder in (new, old)]
    assert all(same(ends[0][key], ends[1][key]) for key in ("state_dict", "optimizer_states", "global_step"))
    assert any(state["step"] > 1 for state in ends[1]["optimizer_states"][0]["state"].values())

    make_old(old)
    config = OmegaConf.to_container(OmegaConf.load(old / "config.yaml"))
    OmegaConf.save(forget_newer(config), old / "config.yaml")
    state = json.loads((old / "state.json").read_text())
    del state["version"]                                              # version 0.1 did not write it
    (old / "state.json").write_text(json.dumps(state))
    frames = [3, toy.split("test")[0]]
    pictures = [np.stack([image for _, image in render_frames(load_run(folder, "cpu"), frames)]) for folder in (new, old)]
    assert np.array_equal(*pictures) and pictures[0].std() > 0.01
    assert run("old") == (old, [])                                    # it is still known to be trained with these settings


RUN_0_3 = Path(__file__).parent / "data" / "run_0_3"                   # of `toy_with_face`, 8 steps, by version 0.3.0


def early(home):
    "The run of version 0.3.0 in this home, beside its subject, whose `subject.json` names other versions of packages now."
    folder = home / "runs" / "toy" / "early"
    shutil.copytree(RUN_0_3, folder)
    toy = toy_with_face(home / "data" / "toy")
    (toy.folder / "subject.json").write_text(json.dumps(toy.protocol | dict(versions={"numpy": "99"})))
    return toy, folder


def shows(folder):
    "The frames of a run that `pictures.npz` has, 8 bits."
    return np.stack([(image * 255).round() for _, image in render_frames(load_run(folder, "cpu"), [3, 40])])


def test_a_run_of_version_0_3_opens(dnerf_home):
    "Its fingerprint has a hash of `subject.json`, which is another file now; what the checkpoint knows of the subject decides."
    toy, folder = early(dnerf_home)
    assert json.loads((folder / "inputs.json").read_text()).keys() == {"subject", "embedding"}
    expected = np.load(RUN_0_3 / "pictures.npz")["pictures"]
    assert abs(shows(folder) - expected).max() <= 1
    with pytest.raises(InputError, match="exists with other settings or other data"):
        toy = Subject(toy.folder)
        train(toy, toy.embedding("made"), compose_config("tiny", subject="toy", audio="made", name="early"), named=True, show=False)


def other_speech(toy):
    keep_speech(toy, seed=1)


def other_room(toy):
    import matplotlib.image
    matplotlib.image.imsave(toy.folder / "background.png", 255 - toy.background)


def other_poses(toy):
    poses = np.array(toy.poses)
    poses[:, 0, 3] += 0.02
    np.save(toy.folder / "poses.npy", poses)


@pytest.mark.parametrize("change, said", [(other_speech, "embedding 'made'"), (other_room, "background"), (other_poses, "head pose")])
def test_a_run_of_version_0_3_whose_subject_is_another(dnerf_home, change, said):
    toy, folder = early(dnerf_home)
    change(toy)
    with pytest.raises(InputError, match=f"by version 0.3.0 of dnerf, which kept no copy of subject 'toy', and its {said} was made anew"):
        load_run(folder)
    shutil.rmtree(toy.folder)
    with pytest.raises(MissingError, match="no prepared subject 'toy'"):
        load_run(folder)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    "A run on SpeechSplit's codes and new speech in a home of their own; and the subject's folder, to be deleted or changed by copies."
    with home_of_a_module(tmp_path_factory, "kept") as home:
        toy = toy_subject(home / "data" / "toy", n=60)
        size = dict(channels=16, convs=1, layers=1, units=1)
        config = dict(content=size, rhythm=size, pitch=size, decoder_units=8)
        embedding = embed_subject(toy, "speechsplit+mel", steps=2, bar=False, config=config)
        train(toy, embedding, compose_config("tiny", subject="toy", audio="speechsplit+mel", steps=2, name="kept"), show=False)
        write_wav(home / "hello.wav", np.roll(toy.wav, 9000)[:16000])
        film(home / "before.mp4", home)
        yield home


def film(path, home, **knobs):
    "The frames of the run `kept`, driven by new speech."
    return np.stack(list(iter_frames(drive("toy/kept", home / "hello.wav", path, progress=False, device="cpu", **knobs))))


@pytest.fixture
def home(kept, tmp_path, monkeypatch):
    "A copy of that home."
    return copied_home(kept, tmp_path, monkeypatch)


def deleted(toy):
    shutil.rmtree(toy)


def another_person(toy):
    shutil.rmtree(toy)
    toy_subject(toy, n=50, seed=3)


def another_speechsplit(toy):
    embed_subject(Subject(toy), "speechsplit+mel", steps=1, seed=5, bar=False)


@pytest.mark.parametrize("change", [deleted, another_person, another_speechsplit])
def test_a_run_is_driven_without_its_subject(home, change):
    "The film is the same to the last bit; only what needs the recorded frames is refused, in one sentence."
    change(home / "data" / "toy")
    assert np.array_equal(film(home / "after.mp4", home), np.stack(list(iter_frames(home / "before.mp4"))))
    run = load_run("toy/kept", "cpu")
    assert len(list(render_frames(run, [58]))) == 1 and run.subject.masks[58].any()
    if change is another_speechsplit:
        assert with_recording(run).subject.frames.shape[0] == 60
        return
    with pytest.raises(DnerfError, match="needs the recorded frames of subject 'toy'.*driving the run works") as e:
        evaluate_run("toy/kept", progress=False)
    assert "\n" not in str(e.value) and open_scene(run).real is None


def test_a_subject_made_again_with_the_same_content_is_the_same(home, capsys):
    "Other versions, file names and times are no other experiment; one other number is."
    toy = Subject.load("toy")
    about = json.loads((toy.folder / "subject.json").read_text())
    (toy.folder / "subject.json").write_text(json.dumps(about | dict(versions={"numpy": "0"}, source={"file": "another.mp4"})))

    def again():
        embedding = embed_subject(Subject.load("toy"), "speechsplit+mel", steps=2, bar=False,
                                  config=json.loads((home / "speechsplit.json").read_text()))
        return train(Subject.load("toy"), embedding, compose_config("tiny", subject="toy", audio="speechsplit+mel", steps=2, name="kept"),
                     named=True, show=False)

    config = torch.load(toy.folder / "speechsplit.ckpt", weights_only=True)["config"]
    (home / "speechsplit.json").write_text(json.dumps(config))
    assert again() == home / "runs" / "toy" / "kept" and "already trained" in capsys.readouterr().out
    frames = np.array(toy.frames)
    frames[7, 3, 4, 1] ^= 1
    np.save(toy.folder / "frames.npy", frames)
    with pytest.raises(InputError, match="other settings or other data"):
        again()


def test_a_run_of_before_gets_its_copy_when_it_is_trained_again(home):
    "`train` on a finished run of an earlier version, whose subject is the same file, keeps what driving needs from then on."
    folder = home / "runs" / "toy" / "kept"
    shutil.rmtree(folder / "subject")
    inputs = json.loads((folder / "inputs.json").read_text())
    (folder / "inputs.json").write_text(json.dumps({k: inputs[k] for k in ("subject", "embedding")}))
    toy = Subject.load("toy")
    train(toy, toy.embedding("speechsplit+mel"), compose_config("tiny", subject="toy", audio="speechsplit+mel", steps=2, name="kept"),
          show=False)
    deleted(toy.folder)
    assert np.array_equal(film(home / "after.mp4", home), np.stack(list(iter_frames(home / "before.mp4"))))


@pytest.mark.parametrize("name", ["poses.npy", "embeddings/speechsplit+mel.npy", "speechsplit.ckpt", "audio.wav", "background.png"])
def test_a_kept_file_that_is_damaged_or_missing_is_named(home, name):
    path = home / "runs" / "toy" / "kept" / "subject" / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=f"{re.escape(name)}, which the run toy/kept keeps of its subject, is damaged; "):
        load_run("toy/kept")
    path.unlink()
    with pytest.raises(InputError, match=f"{re.escape(name)}, which the run toy/kept keeps of its subject, is missing; "):
        load_run("toy/kept")


@pytest.mark.parametrize("plane, epsilon", [(8, 1e-12), (0, 1e-8)])
def test_a_plane_of_an_older_version_learned_with_the_epsilon_of_the_grids(plane, epsilon, tmp_path):
    config = compose_config("tiny", f"field.plane={plane}", subject="toy")
    del config.optim.eps_detail
    OmegaConf.save(config, tmp_path / "config.yaml")
    assert read_config(tmp_path).optim.eps_detail == epsilon
