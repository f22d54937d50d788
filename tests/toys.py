"""What tests of training share: speech of the toy subject, small networks for the paper's presets, and runs that are stopped."""
import shutil
from contextlib import contextmanager
from unittest import mock

import numpy as np
import pytest

from dnerf.nerf.watch import Checkpoints

# With the presets `paper` and `adnerf`, what the preset `tiny` is for the fast field.
MLP = ("field=mlp_tiny portrait.n_coarse=8 portrait.n_fine=8 portrait.torso.resolutions=[8] portrait.torso.channels=[4] "
       "data.rays=96 val_frames=1")


@contextmanager
def home_of_a_module(tmp_path_factory, name: str):
    "An empty project home for the fixtures of one module, in effect inside the block."
    home = tmp_path_factory.mktemp(name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DNERF_HOME", str(home))
        yield home


def copied_home(home, to, monkeypatch):
    "A copy of a home, for one test to change; it is in effect afterwards."
    shutil.copytree(home, to, dirs_exist_ok=True)
    monkeypatch.setenv("DNERF_HOME", str(to))
    return to


def speech_of(toy, dim: int = 3, seed: int = 0) -> np.ndarray:
    "Random speech features `(N, 16, dim)` of the toy subject."
    return np.random.default_rng(seed).normal(size=(toy.n_frames, 16, dim)).astype(np.float32)


def keep_speech(toy, seed: int = 0):
    "The toy subject, its speech features kept as the embedding `made`."
    (toy.folder / "embeddings").mkdir(exist_ok=True)
    np.save(toy.folder / "embeddings" / "made.npy", speech_of(toy, seed=seed))
    return toy


class Stop(Exception):
    "What ends a run half-way; its argument is the folder of the run."


@contextmanager
def stopping_at(step: int, validate: bool = False):
    "Every run in this block saves and ends at a step, as if it were killed then; one must."
    ordinary = Checkpoints.on_train_batch_end

    def end(self, trainer, module, *rest):
        ordinary(self, trainer, module, *rest)
        if trainer.global_step == step:
            if validate:
                self.validation.validate(trainer, module)
            self.save(trainer)
            raise Stop(self.folder)

    with mock.patch.object(Checkpoints, "on_train_batch_end", end), pytest.raises(Stop) as stop:
        yield stop
