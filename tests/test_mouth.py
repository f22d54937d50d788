"""The readers of the mouth, from the configuration to a picture: the preset's choice, checkpoints, size, and the person's own movement."""
import json

import numpy as np
import torch

from dnerf.nerf.config import compose_config
from dnerf.nerf.mouth import READERS, MouthKernel, MouthRegression
from dnerf.nerf.playback import render_frames
from dnerf.nerf.run import load_run
from dnerf.nerf.training import train
from dnerf.subject import Subject, toy_subject
from toys import keep_speech


def test_a_run_keeps_its_reader(dnerf_home):
    toy = toy_subject(dnerf_home / "data" / "toy")
    about = json.loads((toy.folder / "subject.json").read_text())
    about["blendshape_names"][0] = "jawOpen"
    (toy.folder / "subject.json").write_text(json.dumps(about))
    toy = keep_speech(Subject(toy.folder))
    pictures = {}
    for name, reader in READERS.items():
        config = compose_config("tiny", f"portrait.mouth_reader={name}", subject="toy", audio="made", steps=2, name=name)
        run = load_run(train(toy, toy.embedding("made"), config, named=True, show=False), "cpu")
        assert type(run.portrait.condition.mouth) is reader and run.portrait.condition.mouth.weight.abs().sum() > 0
        pictures[name] = next(image for _, image in render_frames(run, [40]))
    assert np.abs(pictures["linear"] - pictures["kernel"]).max() > 0


def test_presets_use_the_kernel_and_runs_without_a_choice_are_linear():
    assert {compose_config(p).portrait.mouth_reader for p in ("cpu", "gpu", "tiny")} == {"kernel"}
    assert compose_config("paper").portrait.mouth_reader == "linear"


def test_a_checkpoint_stays_small():
    "At most 2 MB with 178 features per step."
    assert sum(4 * b.numel() for b in MouthKernel(178, 12).buffers()) < 2e6


def test_movement_has_the_persons_deviation_where_speech_explains_half():
    "New speech, in which the jaw is half noise: at articulation 1 it moves within 10 % of the person's, with the same correlation."
    rng = np.random.default_rng(0)
    steps = np.cumsum(rng.normal(size=(6016, 4)), 0)
    steps = (steps[8:] - steps[:-8]) / 8**0.5
    windows = np.stack([steps[i:i + 16] for i in range(0, 5984, 2)])
    jaw = np.tanh(windows[:, 8, :1]) / 0.63 + rng.normal(size=(len(windows), 1))
    half = len(jaw) // 2
    new = torch.from_numpy(windows[half:]).float()
    for reader in (MouthRegression(4, 1), MouthKernel(4, 1)):
        reader.fit(windows[:half], jaw[:half])
        least, full = reader(new).numpy(), reader(new, torch.ones(len(new))).numpy()
        assert np.std(least) < 0.85 * np.std(jaw[half:])
        assert abs(np.std(full) / np.std(jaw[half:]) - 1) < 0.1
        assert np.corrcoef(full[:, 0], jaw[half:, 0])[0, 1] > np.corrcoef(least[:, 0], jaw[half:, 0])[0, 1] - 0.01
