"The four experiments on models whose answer is known, and what is concluded from their tables."
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn

from dnerf.audio.disentanglement import claims, part_errors, probes, removal, show_disentanglement, subject_disentanglement, swaps
from dnerf.audio.f0 import UNVOICED, normalise_f0
from dnerf.audio.mel import mel_spectrogram, synthetic_speech
from dnerf.audio.speechsplit import CODES, new_speechsplit, read_checkpoint, upsample
from dnerf.core import InputError
from dnerf.subject import Subject, toy_subject, write_wav

TABLES = dict(  # written by hand; every claim holds
    remove=dict(
        content=dict(all=1.2, loudness=1.1, formants=1.5, harmonics=1.0),
        rhythm=dict(all=3.0, loudness=8.0, formants=2.0, harmonics=1.3),
        pitch=dict(all=1.4, loudness=1.2, formants=1.1, harmonics=2.0)),
    probe={
        "content": {"log-F0": 0.3, "voicing": 0.4, "energy": 0.6, "onset": 0.4, "formants": 0.5},
        "rhythm": {"log-F0": 0.0, "voicing": 0.5, "energy": 0.9, "onset": 0.8, "formants": 0.1},
        "pitch": {"log-F0": 0.9, "voicing": 0.9, "energy": 0.5, "onset": 0.1, "formants": 0.0}},
    swap=dict(
        content=dict(all=0.3, loudness=0.1, formants=0.4, harmonics=0.3),
        rhythm=dict(all=0.8, loudness=0.9, formants=0.7, harmonics=0.5),
        pitch=dict(all=0.2, loudness=0.1, formants=0.2, harmonics=0.7)),
    stretch={"content": {"x 0.8": 0.1, "x 1.25": 0.1}, "rhythm": {"x 0.8": 0.3, "x 1.25": 0.2}, "pitch": {"x 0.8": 0.2, "x 1.25": 0.2}},
)
SPOILT = [  # claim, and one number with which it fails
    ("removing any code raises the error", "remove", "content", "all", 0.9),
    ("without pitch the harmonics suffer most", "remove", "pitch", "loudness", 3.0),
    ("without content the formants suffer most", "remove", "content", "loudness", 2.0),
    ("without rhythm the timing of loudness suffers most", "remove", "rhythm", "formants", 9.0),
    ("pitch tells log-F0 better than content and rhythm do", "probe", "content", "log-F0", 0.95),
    ("content tells the formants better than rhythm and pitch do", "probe", "rhythm", "formants", 0.6),
    ("rhythm tells voicing and onsets better than chance", "probe", "rhythm", "voicing", -0.1),
    ("swapping pitch moves harmonics more than formants and loudness", "swap", "pitch", "formants", 0.8),
    ("swapping content moves formants more than loudness", "swap", "content", "loudness", 0.5),
    ("rhythm notices the speed of speech more than content does", "stretch", "content", "x 0.8", 0.6),
]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_all_claims_hold_of_tables_made_for_it():
    assert list(claims(TABLES).items()) == [(claim, True) for claim, *_ in SPOILT]


@pytest.mark.parametrize("claim, experiment, code, column, value", SPOILT, ids=[s[0] for s in SPOILT])
def test_one_wrong_number_fails_one_claim(claim, experiment, code, column, value):
    spoilt = deepcopy(TABLES)
    spoilt[experiment][code][column] = value
    assert [k for k, holds in claims(spoilt).items() if not holds] == [claim]


def test_tables_are_shown_with_every_number():
    text = show_disentanglement(TABLES)
    assert "| rhythm | 3.00 | 8.00 | 2.00 | 1.30 |" in text and text.count("| pitch |") == 4 and "| code | x 0.8 | x 1.25 |" in text


@pytest.fixture(scope="module")
def features():
    "S and a melody of twelve seconds of a synthetic voice, with the true F0 in Hz."
    wav, f0 = synthetic_speech(12.0, seed=4)
    f0 = f0[::256][:750]
    return torch.from_numpy(mel_spectrogram(wav)[:750]), torch.from_numpy(normalise_f0(f0, f0 > 0)), f0


def model_that_ignores(code):
    "An untrained model whose decoder ignores one code."
    model = new_speechsplit("fast").eval()
    start = sum(n for k, n in list(model.sizes.items())[: CODES.index(code)])
    for name, weight in model.decoder.lstm.named_parameters():
        if "weight_ih_l0" in name:
            weight.data[:, start : start + model.sizes[code]] = 0
    return model


@pytest.mark.parametrize("code", CODES)
def test_a_code_that_the_decoder_ignores_costs_and_moves_nothing(features, code):
    S, track, _ = features
    model = model_that_ignores(code)
    removed, swapped = removal(model, S, track, slice(500, 700)), swaps(model, S, track, slice(500, 700), n=3)
    assert all(v == pytest.approx(1, abs=1e-6) for v in removed[code].values())
    assert all(v == pytest.approx(0, abs=1e-6) for v in swapped[code].values())
    for other in set(CODES) - {code}:
        assert abs(removed[other]["all"] - 1) > 1e-6 and swapped[other]["all"] > 1e-4


class Stub(nn.Module):
    """A model by hand: content is the mean frame of a block, rhythm is noise, pitch is the mean of the voiced track;
    only content is decoded."""

    sizes = dict(content=80, rhythm=2, pitch=1)

    def __init__(self):
        super().__init__()
        self.config, self.anywhere = new_speechsplit("fast").config, nn.Parameter(torch.zeros(1))
        self.generator = torch.Generator().manual_seed(0)

    def encode(self, S, track, decimated=True):
        blocks, voiced = track.unflatten(1, (-1, 8)), track.unflatten(1, (-1, 8)) >= 0
        pitch = (blocks * voiced).sum(-1, keepdim=True) / voiced.sum(-1, keepdim=True).clamp(min=1)
        return dict(content=S.unflatten(1, (-1, 8)).mean(2), rhythm=torch.randn(*pitch.shape[:2], 2, generator=self.generator), pitch=pitch)

    def decode(self, codes):
        return upsample(codes["content"])


def test_swapping_the_only_code_that_is_decoded_changes_everything(features):
    S, track, _ = features
    swapped = swaps(Stub(), S, track, slice(500, 750), n=3)
    for code, row in swapped.items():
        assert all(v == pytest.approx(float(code == "content"), abs=1e-6) for v in row.values()), (code, row)
    removed = removal(Stub(), S, track, slice(500, 750))
    assert removed["content"]["all"] > 5 and removed["rhythm"]["all"] == removed["pitch"]["all"] == 1


def test_probes_predict_what_a_code_carries_and_nothing_from_noise(features):
    S, track, f0 = features
    r2 = probes(Stub(), S, track, f0, slice(0, 500), slice(500, 750))
    assert r2["pitch"]["log-F0"] > 0.999 and r2["content"]["energy"] > 0.6
    assert max(r2["rhythm"].values()) < 0.15 and r2["rhythm"]["log-F0"] < 0.15


def test_no_voiced_frame_is_no_number(features):
    S, track, f0 = features
    assert np.isnan(probes(Stub(), S, torch.full_like(track, UNVOICED), 0 * f0, slice(0, 500), slice(500, 750))["pitch"]["log-F0"])


@pytest.mark.parametrize("frames, fits", [(15, False), (16, True), (40, True), (0, False)])
def test_short_speech_is_swapped_or_refused(features, frames, fits):
    S, track, _ = features
    if fits:
        assert np.isfinite(swaps(Stub(), S, track, slice(300, 300 + frames), n=2)["content"]["all"])
    else:
        with pytest.raises(InputError, match=f"{frames} frames .* at least 16"):
            swaps(Stub(), S, track, slice(300, 300 + frames), n=2)


def test_parts_add_up(features):
    S = features[0].numpy()
    e = part_errors(S[:300], S[300:600])
    assert e["all"] == pytest.approx(((S[:300] - S[300:600]) ** 2).mean(), rel=1e-4)
    assert e["all"] == pytest.approx(e["loudness"] + e["formants"] + e["harmonics"])


SMALL = dict(
    content=dict(channels=16), rhythm=dict(channels=16, convs=1, layers=1, units=1),
    pitch=dict(channels=16, convs=1, layers=1, units=2), decoder_units=8, decoder_layers=1,
    batch=2, min_crop=96, max_crop=192, val_every=2)


def test_measuring_leaves_the_subjects_own_model_alone(dnerf_home):
    subject = toy_subject(dnerf_home / "data" / "toy", n=200)
    wav, _ = synthetic_speech(8.0, seed=3)
    write_wav(subject.folder / "audio.wav", wav)
    own = subject.folder / "speechsplit.ckpt"
    own.write_bytes(b"whatever a portrait was trained with")
    result = subject_disentanglement(Subject(subject.folder), SMALL, steps=2, bar=False)
    assert own.read_bytes() == b"whatever a portrait was trained with"
    beside = dnerf_home / "runs" / "disentanglement" / "toy" / "speechsplit.ckpt"
    assert read_checkpoint(beside)["config"]["decoder_units"] == 8
    assert len(result["claims"]) == 10 and result["mse"] > 0 and result["baseline"] > 0
    own.unlink()
    made = beside.stat().st_mtime_ns
    again = subject_disentanglement(Subject(subject.folder), SMALL, steps=2, bar=False)
    assert again["mse"] == result["mse"] and again["claims"] == result["claims"]
    assert beside.stat().st_mtime_ns == made and not own.exists()
