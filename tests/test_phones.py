"Phones recognised by PocketSphinx, where it is installed; one sentence where it is not."
import sys

import numpy as np
import pytest

from dnerf.audio.embedding import align_to_video
from dnerf.audio.mel import synthetic_speech
from dnerf.audio.phones import PHONES, decode_phones, phone_features, phones_id
from dnerf.core import InputError, MissingError, asset


@pytest.fixture(scope="module")
def speech():
    "The demo's speech: 36.9 s, 16 kHz."
    pytest.importorskip("pocketsphinx", reason="the optional package pocketsphinx is not installed")
    from dnerf.video.demo import demo_video
    from dnerf.video.media import read_audio

    return read_audio(demo_video())


def test_without_the_package_one_sentence_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "pocketsphinx", None)
    for call in (lambda: phone_features(np.zeros(16000), 16000), phones_id):
        with pytest.raises(MissingError, match="pip install pocketsphinx") as e:
            call()
        assert "\n" not in str(e.value)


@pytest.mark.parametrize("wav, words", [(np.zeros(1600), "0.10 s long"), (np.full(16000, np.nan), "not finite")])
def test_bad_sound_is_refused(wav, words):
    with pytest.raises(InputError, match=words):
        phone_features(wav, 16000)


def test_the_words_of_the_demo_are_recognised(speech):
    recognised = " ".join(p for p, *_ in decode_phones((speech[:160000] * 32767).round()))
    assert "M AY N EY M IH Z" in recognised  # (hello,) my name is (Anny)


def test_visemes_of_the_demo_on_its_clock(speech):
    "Every frame against the viseme that the demo's mouth was given: mostly the same, and best at no shift."
    F, rate = phone_features(speech, 16000)
    assert rate == 100 and F.shape == (1 + len(speech) // 160, 41)
    visemes = dict(
        P="PP", B="PP", M="PP", F="FF", V="FF", TH="TH", DH="TH", SIL="sil", OW="O", AO="O", AA="aa", AE="aa", AH="ax",
        IY="I", IH="I", EH="E", S="SS", Z="SS", SH="CH", CH="CH", JH="CH", ZH="CH", K="kk", G="kk", NG="kk",
        D="DD", T="DD", N="DD", L="DD", R="RR", ER="RR", UW="U", UH="U")
    recognised = np.array([visemes.get(PHONES[i], "") for i in F.argmax(1)])
    with np.load(asset("demo_truth.npz")) as z:
        at = np.searchsorted(z["visemes"][:, 1], np.arange(len(F)) / rate, "right").clip(max=len(z["visemes"]) - 1)
        true = z["viseme_names"][at]
    same = {shift: (np.roll(recognised, -shift)[20:-20] == true[20:-20]).mean() for shift in range(-8, 9)}
    assert abs(max(same, key=same.get)) <= 1 and same[0] > 0.5  # 0.62 when written


def test_pieces_of_long_speech_agree_with_the_whole(speech):
    whole, _ = phone_features(speech, 16000)
    pieces, _ = phone_features(speech, 16000, chunk_s=10.0, margin_s=2.0)
    assert (whole.argmax(1) == pieces.argmax(1)).mean() > 0.85


def test_same_sound_same_numbers_at_any_rate(speech):
    from scipy.signal import resample_poly

    part = speech[: 16000 * 8]
    first, _ = phone_features(part, 16000)
    np.testing.assert_array_equal(first, phone_features(part, 16000)[0])
    np.testing.assert_allclose(first.sum(1), 1, atol=1e-5)
    up, _ = phone_features(resample_poly(part, 3, 1), 48000)
    assert (first.argmax(1) == up.argmax(1)).mean() > 0.9
    assert align_to_video(first, 100.0, 200).shape == (200, 16, 41)


@pytest.mark.parametrize("wav", [
    np.zeros(16000), np.full(16000, 0.5), np.random.default_rng(0).normal(size=16000) * 0.05, synthetic_speech(0.25)[0]])
def test_silence_noise_and_vowels_give_rows_that_sum_to_one(speech, wav):
    F, _ = phone_features(wav, 16000)
    assert F.shape == (1 + len(wav) // 160, 41) and np.isfinite(F).all()
    np.testing.assert_allclose(F.sum(1), 1, atol=1e-5)


def test_the_key_holds_the_version(speech):
    import pocketsphinx  # noqa: F401
    from importlib.metadata import version

    assert version("pocketsphinx") in phones_id()
