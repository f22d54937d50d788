"""Whisper's encoder: weights from the files of other programs, long speech, disturbed speech."""
import resource

import numpy as np
import pytest
import torch

from dnerf.audio.whisper import WhisperCodes, WhisperEncoder, encode_windows, load_whisper, log_mel_power, whisper_features, with_loudness
from dnerf.audio.whisper_files import convert_whisper
from dnerf.core import InputError, asset
from dnerf.talk.voice import speech_db

OPENAI = {"attention_norm": "attn_ln", "attention.out": "attn.out", "mlp_norm": "mlp_ln", "positions": "positional_embedding"}
TRANSFORMERS = {"attention_norm": "self_attn_layer_norm", "attention.out": "self_attn.out_proj", "mlp_norm": "final_layer_norm",
                "mlp.0": "fc1", "mlp.2": "fc2", "blocks.": "layers.", "positions": "embed_positions.weight"}
WORDS = {"openai": ("attn.query", "attn.key", "attn.value"), "transformers": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")}


def random_encoder():
    torch.manual_seed(0)
    encoder = WhisperEncoder(width=64, blocks=3, n_mels=80, n_positions=100).eval().requires_grad_(False)
    encoder.positions.normal_()
    for block in encoder.blocks:
        block.attention.qkv.bias[64:128] = 0                    # neither program stores a bias of the keys
    return encoder


def foreign_state(encoder, program):
    "The weights by the names of another program, queries, keys and values apart."
    state = {}
    for name, a in encoder.state_dict().items():
        for ours, theirs in {"openai": OPENAI, "transformers": TRANSFORMERS}[program].items():
            name = name.replace(ours, theirs)
        name = f"encoder.{name}" if program == "openai" else f"model.encoder.{name}"
        if "attention.qkv" not in name:
            state[name] = a
            continue
        for word, part in zip(WORDS[program], a.chunk(3)):
            if not ("k" in word.split(".")[1][:1] and name.endswith("bias")):
                state[name.replace("attention.qkv", word)] = part
    return state


@pytest.mark.parametrize("program", ["openai", "transformers"])
def test_weights_of_other_programs_give_the_same_codes(tmp_path, program):
    encoder = random_encoder()
    state = foreign_state(encoder, program)
    path = tmp_path / "model.pt"
    torch.save({"dims": {}, "model_state_dict": state} if program == "openai" else state, path)
    own = load_whisper(convert_whisper(path, tmp_path / "own.npz"))
    assert len(own.encoder.blocks) == 2                         # half of three, rounded up
    whole = load_whisper(convert_whisper(path, tmp_path / "own.npz", blocks=3))
    M = torch.randn(1, 200, 80)
    assert torch.allclose(whole.encoder(M), encoder.half().float()(M), atol=1e-4)


def test_a_pytorch_file_of_something_else_is_refused(tmp_path):
    torch.save({"weight": torch.ones(3)}, tmp_path / "model.pt")
    with pytest.raises(InputError, match="has no blocks of a Whisper encoder"):
        convert_whisper(tmp_path / "model.pt", tmp_path / "own.npz")


def without_norm(arrays):
    return {name: a for name, a in arrays.items() if "layer_" not in name}


@pytest.mark.parametrize("change, sentence", [
    (lambda a: a | {"conv1/bias": np.full(384, np.nan, np.float16)}, "are not finite"),
    (lambda a: a | {"basis": np.full((384, 96), np.inf, np.float32)}, "are not finite"),
    (lambda a: a | {"basis": np.ones(384, np.float32)}, "holds a basis of shape"),
    (lambda a: a | {"basis": np.ones((384, 0), np.float32)}, "holds a basis of shape"),
    (lambda a: a | {"mean": np.float32(0)}, "holds a mean of shape"),
    (lambda a: a | {"position_encodings/encodings": np.ones((50, 384), np.float16)}, "50 positions"),
    (without_norm, "0 blocks of width 384"),
])
def test_weights_that_cannot_be_used_are_refused_in_one_sentence(tmp_path, change, sentence):
    with np.load(asset("whisper_tiny_en_encoder.npz")) as z:
        np.savez(tmp_path / "own.npz", **change(dict(z)))
    with pytest.raises(InputError, match=sentence):
        load_whisper(tmp_path / "own.npz")


def test_the_level_of_speech_does_not_depend_on_digital_silence_behind_it():
    t = np.arange(32000) / 16000
    speech = (0.1 * np.sin(2 * np.pi * 300 * t) * (1 + np.sin(2 * np.pi * 3 * t))).astype(np.float32)
    longer = np.concatenate([speech, np.zeros(40 * 16000, np.float32)])
    assert abs(speech_db(longer) - speech_db(speech)) < 0.1
    assert np.abs(with_loudness(log_mel_power(longer))[:190] - with_loudness(log_mel_power(speech))[:190]).max() < 0.05


def test_long_speech_needs_little_memory_beside_its_spectrogram():
    torch.manual_seed(0)
    model = WhisperCodes(WhisperEncoder(width=64, blocks=1)).eval()
    minute = log_mel_power(np.random.default_rng(0).normal(0, 0.05, 16000 * 60).astype(np.float32))
    M = with_loudness(np.tile(minute, (10, 1)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    codes = encode_windows(model, M)
    used = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert codes.shape == (30_000, 64)
    assert used < 3 * (M.nbytes + codes.nbytes) / 2**20 + 100   # MB: some copies of input and output, not all windows at once


def test_music_or_a_second_voice_below_the_speech_changes_the_codes_little():
    from dnerf.video.demo import demo_video
    from dnerf.video.media import read_audio

    wav = read_audio(demo_video())[: 16000 * 8]
    model, t = load_whisper(), np.arange(len(wav)) / 16000
    chord = sum(np.sin(2 * np.pi * f * t) for f in (220, 277.2, 329.6)).astype(np.float32)
    chord *= 0.1 * wav.std() / chord.std()                      # 20 dB below
    second = np.roll(wav, 16000 * 3)[::-1] * 0.1
    clean = whisper_features(wav, 16000, model)[0]
    spread = clean.var(0).mean()
    for other in (chord, second):
        mixed = whisper_features(wav + other, 16000, model)[0]
        assert ((mixed - clean) ** 2).mean() / spread < 0.35
