"The audio front end at its edges: long, short, strange and bad recordings; memory; sound from spectrograms."
import tracemalloc

import numpy as np
import pytest

from dnerf.audio.f0 import cached_f0, denormalise_f0, estimate_f0, estimate_f0_range, f0_stats, hum, normalise_f0
from dnerf.audio.mel import griffin_lim, listen, mel_spectrogram, n_frames, synthetic_speech, to_mono, wav_bytes
from dnerf.audio.recording import speech_warnings
from dnerf.core import InputError


def peak_mb(f):
    "Largest memory, in MB, that Python and numpy took while `f` ran."
    tracemalloc.start()
    try:
        f()
        return tracemalloc.get_traced_memory()[1] / 1e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("minutes", [1, 5])
def test_memory_of_conversion_does_not_grow(tmp_path, minutes):
    "Beyond the result, the same few blocks whatever the length; the input is a file on disk."
    wav = np.lib.format.open_memmap(tmp_path / "long.npy", "w+", np.int16, (minutes * 60 * 48000, 2))
    wav[::1000] = 3000
    result = minutes * 60 * 16000 * 4 / 1e6
    assert peak_mb(lambda: to_mono(wav, 48000)) < result + 25


@pytest.mark.parametrize("minutes", [1, 5])
def test_memory_of_the_spectrogram_does_not_grow(minutes):
    wav = np.tile(synthetic_speech(5.0)[0], 12 * minutes)
    mel_spectrogram(wav[:16000])  # imports librosa
    result = n_frames(len(wav)) * 80 * 4 / 1e6
    assert peak_mb(lambda: mel_spectrogram(wav)) < result + 40


@pytest.mark.parametrize("seconds", [35, 70])
def test_memory_of_the_pitch_does_not_grow(seconds):
    "Blocks of 30 s: one and a piece, or two and a piece."
    wav = np.tile(synthetic_speech(5.0)[0], seconds // 5)
    estimate_f0(wav[:16000])  # imports and compiles librosa
    assert peak_mb(lambda: estimate_f0(wav, f0_range=(100.0, 150.0))) < 60


@pytest.mark.parametrize("sr", [8000, 11025, 22050, 32000, 44100, 48000, 96000])
@pytest.mark.parametrize("kind", [np.int16, np.uint8, np.int32, np.float64])
def test_every_rate_and_type_gives_the_same_picture(sr, kind):
    t = np.arange(sr) / sr
    wav = 0.3 * np.sin(2 * np.pi * 440 * t) * np.minimum(1, 20 * t)
    pcm = wav if kind is np.float64 else ((wav + (kind is np.uint8)) * 2.0 ** (8 * np.dtype(kind).itemsize - 1)).round().astype(kind)
    reference = mel_spectrogram(0.3 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000) * np.minimum(1, 20 * np.arange(16000) / 16000))
    S = mel_spectrogram(np.stack([pcm, pcm], 1), sr)
    loud = reference[4:-4] > 0.5
    assert S.shape == reference.shape and abs(S[4:-4] - reference[4:-4])[loud].max() < (0.03 if kind is np.uint8 else 0.01)


@pytest.mark.parametrize("wav, sr, words", [
    (np.zeros(1600, np.int16), 16000, "0.10 s long"),
    (np.zeros((0, 2)), 16000, "0.00 s long"),
    (np.full(16000, np.inf), 16000, "not finite"),
    (np.full(16000, 3e4), 16000, "divide by full scale"),
    (np.zeros(16000, complex), 16000, "type complex"),
    (np.array(["a"] * 16000), 16000, "type"),
    (np.zeros(16000), 0, "sampling rate"),
    (np.zeros(16000), float("nan"), "sampling rate"),
    (np.zeros((4, 4, 4)), 16000, "shape"),
    (np.full(16000, np.nan), 16000, "not finite"),
])
def test_bad_audio_is_one_sentence(wav, sr, words):
    for use in (to_mono, mel_spectrogram, estimate_f0):
        with pytest.raises(InputError, match=words) as e:
            use(wav, sr)
        assert "\n" not in str(e.value)


def test_the_error_names_the_time_of_a_bad_sample_across_blocks():
    wav = np.zeros(48000 * 25, np.float32)
    wav[48000 * 21] = np.nan
    with pytest.raises(InputError, match="first at 21.00 s"):
        to_mono(wav, 48000)


def test_a_fifth_of_a_second_is_enough():
    wav, _ = synthetic_speech(0.2)
    f0, voiced = estimate_f0(wav)
    assert mel_spectrogram(wav).shape == (13, 80) and f0.shape == voiced.shape == (13,)


@pytest.mark.parametrize("f0_hz", [75.0, 120.0, 210.0, 330.0])
def test_the_range_is_found_in_the_speech(f0_hz):
    wav, true = synthetic_speech(6.0, f0_hz=f0_hz, seed=2)
    low, high = estimate_f0_range(wav)
    assert low < true[true > 0].min() and high > true.max() and high / low < 6


@pytest.mark.parametrize("f0_hz", [75.0, 120.0, 210.0, 330.0])
def test_pitch_is_precise(f0_hz):
    "An error of half a semitone is audible; a tenth is not."
    wav, true = synthetic_speech(6.0, f0_hz=f0_hz, seed=2)
    f0, voiced = estimate_f0(wav)
    true = true[np.minimum(np.arange(len(f0)) * 256, len(true) - 1)]
    both = voiced & (true > 0)
    cents = 1200 * abs(np.log2(f0[both] / true[both]))
    assert both.sum() > 0.8 * (true > 0).sum() and np.median(cents) < 10 and (cents < 50).mean() > 0.85


@pytest.mark.parametrize("samples", [63 * 256, 63 * 256 + 1, 63 * 256 + 127, 63 * 256 + 255])
def test_the_last_frame_has_a_pitch_too(samples):
    "Frame 63 is centred at sample 63 * 256, the end of the sound: half of its window lies inside."
    f0, voiced = estimate_f0(0.3 * np.sin(2 * np.pi * 120 * np.arange(samples) / 16000), f0_range=(80.0, 200.0))
    assert len(f0) == 64 and voiced[1:].all() and abs(f0[2:62] - 120).max() < 1


def test_a_frame_is_as_loud_as_the_hop_around_its_centre():
    "A tone that ends in the middle of a hop is unvoiced from the first frame on that is centred half a hop behind."
    wav = 0.3 * np.sin(2 * np.pi * 120 * np.arange(32000) / 16000)
    end = 60 * 256 + 64
    wav[end:] = 0
    voiced = estimate_f0(wav, f0_range=(80.0, 200.0))[1]
    assert not voiced[np.arange(126) * 256 - 128 >= end].any() and voiced[2:59].all()


def test_the_pitch_does_not_depend_on_blocks():
    wav, _ = synthetic_speech(6.0, seed=3)
    span = estimate_f0_range(wav)
    whole, cut = estimate_f0(wav, f0_range=span)[0], estimate_f0(wav, f0_range=span, block=125)[0]
    assert ((whole > 0) == (cut > 0)).mean() > 0.98
    both = (whole > 0) & (cut > 0)
    assert np.quantile(abs(1200 * np.log2(whole[both] / cut[both])), 0.95) < 10


def test_warnings_name_the_finding():
    wav, _ = synthetic_speech(2.0)
    noise = np.random.default_rng(0).normal(size=32000) * 0.05
    def warnings(x, sr=16000):
        return speech_warnings(x, sr, estimate_f0(x, sr)[1])
    assert warnings(wav) == []
    wide = synthetic_speech(2.0, sr=48000)[0]
    stereo = np.stack([np.clip(20 * wide, -1, 1), 0.3 * wide], 1)  # neither the mean of the two nor anything resampled has flat tops
    def pcm(x):
        return (x * 32767).astype(np.int16)
    assert warnings(pcm(np.stack([wide, wide], 1)), 48000) == []
    for x, sr, word in (
        (np.zeros(32000), 16000, "silent"), (np.clip(20 * wav, -1, 1), 16000, "clipped"), (noise, 16000, "pitch"),
        (wav[::2], 8000, "4 kHz"), (stereo, 48000, "clipped"), (pcm(stereo), 48000, "clipped"), (pcm(stereo).T, 48000, "clipped")):
        (sentence,) = warnings(x, sr)
        assert word in sentence and "\n" not in sentence


def test_cached_tracks_depend_on_sound_and_range_but_not_type(tmp_path):
    wav, _ = synthetic_speech(0.5)
    for x in (wav, wav.astype(np.float64)):
        cached_f0(tmp_path, x, 16000, (60.0, 240.0))
    assert len(list(tmp_path.iterdir())) == 1
    cached_f0(tmp_path, wav[::-1], 16000, (60.0, 240.0))
    assert len(list(tmp_path.iterdir())) == 2


def test_a_melody_survives_normalising_and_humming():
    f0 = np.where(np.arange(200) % 50 < 35, 150 * 2 ** np.sin(np.arange(200) / 30), 0).astype(np.float32)
    stats = f0_stats(f0, f0 > 0)
    back, voiced = denormalise_f0(normalise_f0(f0, f0 > 0, stats), stats)
    np.testing.assert_allclose(back, f0, rtol=1e-4)
    hum_f0, hum_voiced = estimate_f0(hum(back))
    both = voiced & hum_voiced
    assert both.sum() > 0.9 * voiced.sum() and np.median(abs(1200 * np.log2(hum_f0[both] / f0[both]))) < 10


@pytest.mark.parametrize("seed", range(3))
def test_resynthesis_has_the_spectrogram_it_was_made_from(seed):
    S = mel_spectrogram(synthetic_speech(2.0, f0_hz=100 * (1 + seed), seed=seed)[0])
    wav = griffin_lim(S, seed=seed)
    assert len(wav) == (len(S) - 1) * 256 and wav.dtype == np.float32
    off, loud = abs(mel_spectrogram(wav) - S)[2:-2], S[2:-2] > 0.5
    assert off.mean() < 0.03 and off[loud].mean() < 0.012  # 3 dB, most of it in silence; 1.2 dB where there is sound
    assert abs(griffin_lim(np.zeros((20, 80)))).max() < 1e-3


def test_the_player_holds_a_wav_file():
    wav, _ = synthetic_speech(0.5)
    assert listen(wav).value == wav_bytes(wav) and listen(mel_spectrogram(wav)).value[:4] == b"RIFF"
