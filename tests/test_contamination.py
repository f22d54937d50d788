"Contamination: properties of the draw and of the interpolation, on batches and at their edges; the widget; real speech."
import math

import numpy as np
import pytest
import torch

from dnerf.audio.contamination import (
    align, contaminate, contaminate_content, contaminate_pitch, contaminate_rhythm, contamination_widget, draw_segments,
    random_resample, resample, resample_positions)
from dnerf.audio.f0 import UNVOICED, estimate_f0, f0_stats, normalise_f0, quantise_f0
from dnerf.audio.mel import griffin_lim, mel_spectrogram, synthetic_speech

LENGTHS = torch.tensor([192, 130, 64, 31, 19, 18, 3, 1])
SETTINGS = [
    dict(), dict(segment=(1, 1)), dict(segment=(96, 96)), dict(segment=(4, 60), stretch=(0.25, 2.0)),
    dict(stretch=(1.5, 1.5)), dict(stretch=(0.5, 0.5))]


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def by_hand(length, factor, n):
    "Positions of one sequence of n frames, segment by segment and frame by frame."
    positions, start = [], 0
    for frames, stretch in zip(length.tolist(), factor.numpy()):
        for i in range(math.ceil(np.float32(frames) * stretch)):
            if start + i / float(stretch) > n - 1:
                return positions
            positions.append(start + i / float(stretch))
        start += frames
    return positions


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_positions_are_those_of_a_loop(settings, seed):
    positions, out = resample_positions(LENGTHS, 800, seeded(seed), **settings)
    length, factor = draw_segments(len(LENGTHS), 192 // settings.get("segment", (19, 31))[0] + 1, seeded(seed), **settings)
    for row, n, segments, factors, frames in zip(positions, out, length, factor, LENGTHS.tolist()):
        expected = by_hand(segments, factors, frames)
        assert int(n) == len(expected)
        np.testing.assert_allclose(row[:n], expected, atol=1e-4)
        assert (row[n:] == 0).all()


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_positions_grow_and_stay_inside(settings):
    positions, out = resample_positions(LENGTHS, 800, seeded(0), **settings)
    for row, n, frames in zip(positions, out, LENGTHS.tolist()):
        p = row[:n]
        assert n >= 1 and p[0] == 0 and p[-1] <= frames - 1 and (p.diff() > 0).all()
        assert p.diff().max() <= 1 / settings.get("stretch", (0.5, 1.5))[0] + 1e-3 if n > 1 else True


@pytest.mark.parametrize("segment", [(19, 31), (1, 1), (7, 50)])
def test_factor_one_is_the_identity(segment):
    S, track = torch.rand(8, 192, 80), torch.rand(8, 192)
    track[track < 0.4] = UNVOICED
    valid = torch.arange(192) < LENGTHS[:, None]
    C_c, C_r, C_p = contaminate(S, track, LENGTHS, seeded(0), segment=segment, stretch=(1, 1))
    assert torch.equal(C_c, S * valid[..., None]) and torch.equal(C_r, S)
    assert torch.equal(C_p, quantise_f0(track.masked_fill(~valid, UNVOICED)))


@pytest.mark.parametrize("settings", [
    dict(), dict(segment=(4, 60), stretch=(0.25, 2.0)), dict(segment=(30, 30), stretch=(0.75, 1.25))], ids=str)
def test_length_is_about_that_of_the_input(settings):
    "Each segment rounds up: half a frame more per segment on average. Tolerance: four standard errors."
    lo, hi = settings.get("segment", (19, 31))
    a, b = settings.get("stretch", (0.5, 1.5))
    _, out = resample_positions(torch.full((4000,), 384), 1000, seeded(1), **settings)
    expected = 384 * (a + b) / 2 + 0.5 * 384 / ((lo + hi) / 2)
    standard_error = out.float().std() / 4000**0.5
    assert abs(out.float().mean() - expected) < 4 * standard_error + 1  # the last segment is cut: up to a frame


@pytest.mark.parametrize("segment, stretch", [((19, 31), (0.5, 1.5)), ((4, 8), (0.9, 1.0))])
def test_the_draw_is_uniform(segment, stretch):
    length, factor = draw_segments(500, 200, seeded(2), segment, stretch)
    kinds, n = segment[1] - segment[0] + 1, length.numel()
    frequency = length.flatten().bincount(minlength=segment[1] + 1)[segment[0]:] / n
    assert len(frequency) == kinds and (frequency - 1 / kinds).abs().max() < 4.5 * (1 / kinds / n) ** 0.5
    cdf = torch.linspace(stretch[0], stretch[1], n)
    assert (factor.flatten().sort()[0] - cdf).abs().max() < 2 * (stretch[1] - stretch[0]) / n**0.5  # Kolmogorov's bound at 0.1 %
    assert abs(np.corrcoef(length.flatten(), factor.flatten())[0, 1]) < 0.02


@pytest.mark.parametrize("seed", range(4))
def test_nothing_leaves_the_range_of_the_input(seed):
    x = torch.randn(8, 192, 7, generator=seeded(seed))
    y, out = random_resample(x, LENGTHS, seeded(seed), out_len=300)
    for before, after, frames, n in zip(x, y, LENGTHS, out):
        assert (after[:n].amax(0) <= before[:frames].amax(0) + 1e-6).all()
        assert (after[:n].amin(0) >= before[:frames].amin(0) - 1e-6).all()
        assert (after[n:] == 0).all()


def test_padding_has_no_influence():
    x = torch.rand(8, 192, 7)
    spoiled = x.masked_fill((torch.arange(192) >= LENGTHS[:, None])[..., None], 1e6)
    assert torch.equal(random_resample(x, LENGTHS, seeded(0))[0], random_resample(spoiled, LENGTHS, seeded(0))[0])


def test_sound_and_melody_stay_together():
    track = torch.rand(8, 192)
    S = track[..., None].expand(-1, -1, 80).contiguous()
    C_c, _, C_p = contaminate(S, track, LENGTHS, seeded(0))
    voiced = C_p.argmax(-1) > 0
    assert voiced.any(1).all()
    np.testing.assert_allclose((C_p.argmax(-1)[voiced] - 1) / 255, C_c[..., 0][voiced], atol=0.5 / 255 + 1e-6)
    assert (C_c[~voiced] == 0).all()


def test_mixtures_with_unvoiced_are_unvoiced():
    track = torch.tensor([[0.5, UNVOICED, 0.5, 0.5]])
    positions = torch.tensor([[0.0, 1e-6, 0.5, 1 - 1e-6, 1.0, 1.5, 2.0, 2.5]])
    codes = contaminate_pitch(track, (positions, torch.tensor([8])))
    assert (codes[0, :, 0] == 1).tolist() == [False, True, True, True, True, True, False, False]
    assert (codes.sum(-1) == 1).all()


def test_gradients_are_right():
    x = torch.rand(3, 9, 2, dtype=torch.float64, requires_grad=True)
    draw = resample_positions(torch.tensor([9, 5, 1]), 12, seeded(0), segment=(2, 4))
    assert torch.autograd.gradcheck(lambda x: resample(x, *draw), x)
    assert torch.autograd.gradcheck(lambda x: contaminate_content(x, draw), x)


def test_randomness_is_the_generators():
    S, track = torch.rand(4, 192, 80), torch.rand(4, 192)
    lengths = torch.full((4,), 192)
    def made(seed):
        return contaminate(S, track, lengths, seeded(seed))
    state = torch.get_rng_state()
    assert all(torch.equal(a, b) for a, b in zip(made(0), made(0)))
    assert not torch.equal(made(0)[0], made(1)[0])
    assert torch.equal(torch.get_rng_state(), state), "the global generator was used"
    rows = made(0)[0] - S[:, :1]
    assert all(not torch.equal(rows[0], rows[i]) for i in range(1, 4)), "every sequence has its own draw"


def test_evaluation_changes_nothing():
    S, track = torch.rand(2, 50, 80), torch.rand(2, 50)
    C_c, C_r, C_p = contaminate(S, track, torch.tensor([50, 20]), training=False, bins=16)
    assert C_c is S and C_r is S and torch.equal(C_p, quantise_f0(track, 16))
    assert contaminate_rhythm(S, resample_positions(torch.tensor([50, 20]), 50, seeded(0))) is S


def test_half_precision_and_views():
    x = torch.rand(80, 64, 2).permute(2, 1, 0)  # not contiguous
    draw = resample_positions(torch.tensor([64, 40]), 64, seeded(0))
    assert torch.equal(resample(x, *draw), resample(x.contiguous(), *draw))
    half = resample(x.to(torch.bfloat16), *draw)
    assert half.dtype == torch.bfloat16 and (half.float() - resample(x, *draw)).abs().max() < 0.02


@pytest.fixture(scope="module")
def voice():
    "S, normalised F0 and its statistics of a synthetic sentence."
    wav, true = synthetic_speech(3.072, seed=4)
    f0 = true[::256][:192]
    stats = f0_stats(f0, f0 > 0)
    return mel_spectrogram(wav)[:192], normalise_f0(f0, f0 > 0, stats), stats


@pytest.mark.parametrize("code", ["content", "rhythm", "pitch"])
def test_widget_redraws_and_plays(voice, code):
    ui = contamination_widget(*voice).controls
    ui["code"].value = code
    changed = []
    for name, value in dict(seed=5, segment=(40, 90), stretch=(0.25, 0.5)).items():
        before = ui["picture"].value
        ui[name].value = value
        changed.append(ui["picture"].value != before)
    assert changed == [code != "rhythm"] * 3
    assert ui["picture"].value[:4] == b"\x89PNG"
    sounds = []
    for name in ("before", "after"):
        ui[name].click()
        sounds.append(ui["sound"].value)
        assert sounds[-1][:4] == b"RIFF"
    assert (sounds[0] == sounds[1]) == (code == "rhythm")
    if code != "rhythm":
        assert len(sounds[1]) < 0.6 * len(sounds[0])  # factors below a half


def test_resynthesis_of_the_contaminated_is_what_was_contaminated(voice):
    S = torch.tensor(voice[0])[None]
    draw = resample_positions(torch.tensor([192]), 192, seeded(1))
    C = contaminate_content(S, draw)[0, :draw[1]].numpy()
    assert abs(mel_spectrogram(griffin_lim(C))[2:-2] - C[2:-2]).mean() < 0.025


def test_alignment_recovers_the_draw():
    S = torch.tensor(mel_spectrogram(synthetic_speech(4.0, seed=2)[0]))[None, :248]
    positions, out = resample_positions(torch.tensor([248]), 300, seeded(3))
    path = align(resample(S, positions, out)[0, : out[0]], S[0])
    off = (path - positions[0, : out[0]]).abs()
    assert off.median() <= 1 and off.quantile(0.9) <= 3
    assert torch.equal(align(S[0], S[0]), torch.arange(248))


@pytest.mark.parametrize("name", ["cnn2.mp4", "demo"])
def test_on_real_speech(real_video, name):
    "As in the notebook for a synthetic voice: the timing is lost; the order of sounds, the melody and the mean spectrum stay."
    from dnerf.video.demo import demo_video
    from dnerf.video.media import read_audio
    wav = read_audio(demo_video() if name == "demo" else real_video(name))[: 30 * 16000]
    f0, voiced = estimate_f0(wav)
    S = torch.tensor(mel_spectrogram(wav))[:1860].view(10, 186, 80)
    track = torch.tensor(normalise_f0(f0, voiced))[:1860].view(10, 186)
    draw = resample_positions(torch.full((10,), 186), 300, seeded(0))
    C, P = contaminate_content(S, draw), contaminate_pitch(track, draw)
    same, aligned, spectrum = [], [], []
    for s, c, t, p, n in zip(S, C, track, P, draw[1].tolist()):
        f = torch.where(p[:, 0] == 1, -1.0, (p.argmax(-1) - 1) / 255)
        late = torch.arange(93, min(n, 186))  # at the beginning the displacement is still small
        for rows, at in ((same, late), (aligned, align(c[:n], s)[late])):
            both = (f[late] >= 0) & (t[at] >= 0)
            if both.sum() > 5:
                loudness, melody = (c[late].mean(1), s[at].mean(1)), (f[late][both], t[at][both])
                voicing = f[late] >= 0, t[at] >= 0
                rows.append([np.corrcoef(a, b)[0, 1] for a, b in (loudness, melody, voicing)])
        spectrum.append(float((c[:n].mean(0) - s.mean(0)).abs().mean() / s.mean()))
    same, aligned = np.mean(same, 0), np.mean(aligned, 0)
    assert (same < 0.5).all(), same
    assert (aligned[:2] > 0.95).all() and aligned[2] > 0.85, aligned
    assert np.mean(spectrum) < 0.05, np.mean(spectrum)
