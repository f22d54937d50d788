"""Whisper's encoder: weights from the files of other programs, long speech, disturbed speech."""
import resource

import numpy as np
import pytest
import torch

from dnerf.audio.whisper import WhisperCodes, WhisperEncoder, encode_windows, load_whisper, log_mel_power, whisper_features, with_loudness
from dnerf.audio.whisper_files import convert_whisper
from dnerf.core import InputError

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
