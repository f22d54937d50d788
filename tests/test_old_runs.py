"""Runs made before version 0.2: they open, render the same pictures and go on with the same losses, under today's names of weights."""
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from dnerf.nerf.config import compose_config
from dnerf.nerf.playback import render_frames
from dnerf.nerf.portrait import build_portrait
from dnerf.nerf.run import load_run, renamed
from dnerf.nerf.training import PortraitTraining, train
from dnerf.subject import Subject, toy_subject
from toys import MLP, keep_speech, stopping_at

# Names and shapes of the weights of four portraits as version 0.1.0 built them, of the toy subject with two features of speech.
OLD = json.loads((Path(__file__).parent / "data" / "names_0_1.json").read_text())
LINEAR = "portrait.mouth_reader=linear"                               # there was no other reader of the mouth
OPTIONS = f"{LINEAR} portrait.pose_refinement=true portrait.frame_code=true portrait.backdrop=moving portrait.attention=8"
KINDS = {"cpu": ("tiny", LINEAR), "options": ("tiny", OPTIONS), "paper": ("paper", MLP), "adnerf": ("adnerf", f"{MLP} data.torso_rays=48")}
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
        del saved["version"]
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
        config = compose_config(preset, f"{settings} {BEGIN[kind]}", subject="toy", audio="made", steps=STEPS, name=name)
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
