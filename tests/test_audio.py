"Speech on real input: the front end, SpeechSplit on a subject's own voice, and every embedding by name."
import numpy as np
import pytest
import torch

from dnerf.audio.disentanglement import disentanglement
from dnerf.audio.embedding import align_to_video, embed_speech, embed_subject, known_embeddings, subject_speechsplit
from dnerf.audio.mel import MEL, estimate_f0, mel_spectrogram, n_frames, synthetic_speech
from dnerf.audio.speechsplit import as_config, encode, load_speechsplit, new_speechsplit, read_checkpoint, reconstruction_error, train_speechsplit
from dnerf.core import DnerfError, InputError, MissingError
from dnerf.subject import Subject, toy_subject, write_wav


@pytest.fixture(autouse=True)
def one_thread():
    "Small networks run faster on one thread, and not at all well when several tests share the cores."
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def subject(tmp_path):
    "Six seconds of a synthetic voice on a toy subject."
    made = toy_subject(tmp_path / "toy", n=150)
    write_wav(made.folder / "audio.wav", synthetic_speech(6.0, seed=3)[0])
    return Subject(made.folder)


BUDGET = dict(config=dict(content=dict(channels=32), rhythm=dict(channels=16, convs=1, layers=1, units=1), pitch=dict(channels=32, convs=3, layers=1, units=32),
                          decoder_units=16, decoder_layers=1, batch=2, min_crop=192, max_crop=192, val_every=5), bar=False)


@pytest.mark.parametrize("sr", [8000, 16000, 22050, 44100, 48000])
def test_any_sampling_rate_gives_the_same_clock(sr):
    click = np.zeros(2 * sr)
    click[sr] = 1
    S = mel_spectrogram(click, sr)
    assert S.shape == (n_frames(2 * MEL.sr), 80)
    assert abs(S.mean(1).argmax() / MEL.rate - 1) < 0.017


def test_integer_stereo_equals_float_mono():
    wav, _ = synthetic_speech(1.0)
    pcm = np.stack([wav, wav], 1) * 32767
    np.testing.assert_allclose(mel_spectrogram(pcm.round().astype(np.int16)), mel_spectrogram(wav), atol=0.05)


@pytest.mark.parametrize("wav, words", [
    (np.zeros(1600), "0.10 s long"),
    (np.zeros(0), "0.00 s long"),
    (np.full(16000, np.nan), "not finite"),
    (np.zeros((4, 4, 4)), "shape"),
])
def test_bad_audio_is_one_sentence(wav, words):
    with pytest.raises(InputError, match=words) as e:
        mel_spectrogram(wav)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("f0_hz", [80.0, 120.0, 210.0, 330.0])
def test_pitch_of_low_and_high_voices(f0_hz):
    wav, true = synthetic_speech(4.0, f0_hz=f0_hz, seed=5)
    f0, voiced = estimate_f0(wav)
    true = true[np.minimum(np.arange(len(f0)) * MEL.hop_length, len(true) - 1)]
    both = voiced & (true > 0)
    assert both.sum() > 0.6 * (true > 0).sum()
    assert np.median(abs(np.log2(f0[both] / true[both])) * 12) < 0.5


@pytest.mark.parametrize("kind", ["silence", "whisper", "clipped"])
def test_odd_speech_still_trains_and_embeds(subject, kind):
    rng = np.random.default_rng(0)
    wav = {"silence": np.zeros(96000), "whisper": rng.normal(size=96000) * 0.05, "clipped": np.clip(20 * synthetic_speech(6.0)[0], -1, 1)}[kind]
    write_wav(subject.folder / "audio.wav", wav)
    E = embed_subject(subject, "speechsplit+mel", steps=2, **BUDGET)
    assert E.shape == (150, 16, 162) and np.isfinite(E).all()


def test_every_name_gives_one_window_per_frame(subject):
    dims = dict(content=16, rhythm=2, pitch=64, speechsplit=82, mel=80)
    assert set(dims) <= set(known_embeddings())
    for name, d in dims.items():
        E = embed_subject(subject, name, steps=2, **BUDGET)
        assert E.shape == (150, 16, d) and E.dtype == np.float32 and np.isfinite(E).all(), name
        np.testing.assert_allclose(embed_speech(subject, name, subject.wav), E, atol=1e-4)


def test_test_speech_changes_no_weight_and_no_scale(subject):
    def made():
        subject_speechsplit(subject, steps=5, **BUDGET)
        return read_checkpoint(subject.folder / "speechsplit.ckpt")["weights"], np.array(embed_subject(subject, "mel")[: subject.split("train").stop - 8])
    weights, mel = made()
    wav, lo = subject.wav.copy(), subject.split("test").start * 640
    wav[lo:] = np.random.default_rng(0).normal(size=len(wav) - lo) * 0.1
    write_wav(subject.folder / "audio.wav", wav)
    weights_after, mel_after = made()
    assert all(torch.equal(weights[k], weights_after[k]) for k in weights)
    np.testing.assert_allclose(mel, mel_after, atol=2e-3)


def test_nothing_stale_is_served(subject):
    paths = [subject.folder / "speechsplit.ckpt", subject.folder / "embeddings" / "rhythm.npy"]
    stamp = lambda: [p.stat().st_mtime_ns for p in paths]
    embed_subject(subject, "rhythm", steps=2, **BUDGET)
    made = stamp()
    embed_subject(subject, "rhythm", steps=2, **BUDGET)
    assert stamp() == made
    embed_subject(subject, "rhythm", steps=2, seed=1, **BUDGET)
    assert all(now != old for now, old in zip(stamp(), made))
    made = stamp()
    paths[1].with_suffix(".json").unlink()
    embed_subject(subject, "rhythm", steps=2, seed=1, **BUDGET)
    assert stamp()[0] == made[0] and stamp()[1] != made[1]


def test_unknown_embedding_lists_the_known(subject):
    for name in ("wav2lip", "content+wav2vec", ""):
        with pytest.raises(InputError, match="known are: content, deepspeech, mel, phones, pitch, rhythm, speechsplit"):
            embed_subject(subject, name)
    assert not (subject.folder / "embeddings").exists()


def test_damaged_checkpoint_is_one_sentence(subject):
    (subject.folder / "speechsplit.ckpt").write_bytes(b"\0" * 100)
    with pytest.raises(DnerfError, match="not a SpeechSplit checkpoint"):
        embed_subject(subject, "rhythm", steps=1, **BUDGET)
    with pytest.raises(MissingError, match="train one first"):
        load_speechsplit(subject.folder / "absent.ckpt")


def test_training_is_reproducible_and_seeds_differ(tmp_path):
    wav, _ = synthetic_speech(5.0)
    def run(seed):
        torch.rand(seed + 3)  # the global generator must not matter
        return train_speechsplit(wav, config=BUDGET["config"], steps=4, seed=seed, folder=tmp_path, device="cpu", bar=False)[1]
    assert run(0) == run(0) != run(1)


def test_a_shift_of_one_code_shifts_the_codes_by_one():
    wav, _ = synthetic_speech(3.0, seed=1)
    model = new_speechsplit("fast").eval()
    late = np.concatenate([np.zeros(8 * MEL.hop_length, np.float32), wav])
    a, b = (encode(model, w, stats=model.f0_stats)["rhythm"][::8] for w in (wav, late))
    inner = slice(4, 18)
    same, moved = abs(b[inner] - a[inner]).mean(), abs(b[5:19] - a[inner]).mean()
    assert moved < 0.2 * same


@pytest.mark.parametrize("t", [0.5, 1.0, 1.77, 2.4])
def test_click_peaks_in_the_window_of_its_frame(t):
    click = np.zeros(48000)
    click[int(t * 16000)] = 1
    w = align_to_video(mel_spectrogram(click), MEL.rate, 75)
    assert abs(w[round(25 * t)].mean(1).argmax() - 8) <= 1


@pytest.fixture(scope="module")
def real_speech(real_video, tmp_path_factory):
    "SpeechSplit with its default budget on the training split of a real minute of speech: model, mean frame, speech, splits in seconds."
    from dnerf.subject import FPS, split_frames
    from dnerf.video.media import read_audio
    wav = read_audio(real_video("cnn2.mp4"))
    train, val, test = ((a / FPS, b / FPS) for a, b in split_frames(len(wav) // 640).values())
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    path, _ = train_speechsplit(wav, train_range_s=train, val_range_s=val, steps=450, folder=tmp_path_factory.mktemp("real"), device="cpu", bar=False)
    torch.set_num_threads(before)
    return load_speechsplit(path), read_checkpoint(path)["mean_frame"], wav, train, test


def test_real_speech_is_reconstructed(real_speech):
    model, mean_frame, wav, _, test = real_speech
    mse, baseline = reconstruction_error(model, wav, MEL.sr, test, mean_frame)
    assert mse < baseline / 2, (mse, baseline)


def test_real_codes_hold_what_their_names_say(real_speech):
    model, _, wav, train, test = real_speech
    result = disentanglement(model, wav, MEL.sr, train, test)
    assert all(row["all"] > 1 for row in result["remove"].values()), result["remove"]
    lf0 = {k: row["log-F0"] for k, row in result["probe"].items()}
    assert lf0["pitch"] > max(0, lf0["content"], lf0["rhythm"]), lf0
    assert result["remove"]["pitch"]["harmonics"] > result["remove"]["content"]["harmonics"]


def test_real_codes_do_not_jump_at_window_borders(real_speech):
    model, _, wav, _, _ = real_speech
    codes = encode(model, wav)
    for k, v in codes.items():
        step = abs(np.diff(v[::8], axis=0)).mean(1)
        border = np.arange(len(step)) % (model.config.window // 16) == model.config.window // 16 - 1
        assert step[border].mean() < 1.3 * step[~border].mean(), k
        assert np.array_equal(v, encode(model, wav)[k]), k


def test_real_codes_shift_with_the_speech(real_speech):
    "A delay of 8 mel frames is a delay of one code, away from the ends."
    model, _, wav, _, test = real_speech
    x = wav[int(test[0] * MEL.sr) : int(test[1] * MEL.sr)]
    late = np.concatenate([np.zeros(8 * MEL.hop_length, np.float32), x])
    a, b = (encode(model, w) for w in (x, late))
    for k in a:
        inner = slice(6, 40)
        unmoved, moved = (abs(b[k][::8][np.arange(6, 40) + d] - a[k][::8][inner]).mean() for d in (0, 1))
        assert moved < 0.25 * unmoved, (k, moved, unmoved)
