"""How a process ends: asked to by a signal, by an error of the operating system, or because nobody reads what it prints."""
import signal

import pytest
import torch

from dnerf.audio.mel import synthetic_speech
from dnerf.audio.speechsplit_training import _Bar, train_speechsplit
from dnerf.nerf.config import compose_config
from dnerf.nerf.training import train
from dnerf.nerf.watch import Curves
from dnerf.program import Stopped, stopped_by_signals
from dnerf.subject import toy_subject
from toys import keep_speech


@pytest.fixture(params=["program", "notebook"])
def signals(request):
    "With the handlers of a program, and with those of Lightning alone, as in a notebook."
    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if request.param == "program":
        with stopped_by_signals():
            yield
    else:
        yield
    signal.signal(signal.SIGTERM, before)


def ends_at(step: int, method):
    "Like a method of a callback, and SIGTERM comes at a step."

    def end(self, trainer, module, *rest):
        method(self, trainer, module, *rest)
        if trainer.global_step == step:
            signal.raise_signal(signal.SIGTERM)

    return end


def test_sigterm_saves_a_portrait(dnerf_home, monkeypatch, capsys, signals):
    toy = keep_speech(toy_subject(dnerf_home / "data" / "toy"))
    config = compose_config("tiny", "checks=1", subject="toy", audio="made", steps=4)
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(Curves, "on_train_batch_end", ends_at(2, Curves.on_train_batch_end))
        train(toy, toy.embedding("made"), config.copy(), show=False)
    folder = dnerf_home / "runs" / "toy" / "made-tiny"
    assert torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 2
    assert not (folder / "state.json").exists() and "stopped at step 2; saved in" in capsys.readouterr().out
    train(toy, toy.embedding("made"), config, show=False)
    assert (folder / "state.json").is_file() and "going on at step 2" in capsys.readouterr().out


def test_sigterm_saves_a_speechsplit(tmp_path, monkeypatch, capsys, signals):
    wav = synthetic_speech(4.0)[0]
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(_Bar, "on_train_batch_end", ends_at(2, _Bar.on_train_batch_end))
        train_speechsplit(wav, folder=tmp_path, device="cpu", steps=4)
    assert [p.name for p in tmp_path.iterdir()] == ["speechsplit.state"]
    train_speechsplit(wav, folder=tmp_path, device="cpu", steps=4)
    assert [p.name for p in tmp_path.iterdir()] == ["speechsplit.ckpt"]
    assert "goes on at step 2" in capsys.readouterr().out
