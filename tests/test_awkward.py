"""Files from the world: several tracks, clocks that jump, sound and picture with faults; each is mended and said, or a sentence."""
from dataclasses import replace
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dnerf.core import InputError
from dnerf.face import canonical_face
from dnerf.talk.voice import quiet_steps, read_speech, silence, speech_db
from dnerf.video.demo import demo_video
from dnerf.video.media import count_frames, fit_audio, iter_frames, probe, read_audio, write_video
from dnerf.video.pieces import read_frames
from dnerf.video.prepare import _check_one_person, _check_track, check_request
from dnerf.video.report import measure_sound, warnings_of
from dnerf.video.shots import Shots, Steps, find_shots, of_one_person, still_spans
from dnerf.video.tracking import Track, track_faces
from dnerf.video.tracks import chosen_tracks

SR = 16000


@pytest.fixture(scope="module")
def demo():
    "The first 3 s of the demo clip: frames and sound."
    return [f for _, f in zip(range(75), iter_frames(demo_video()))], read_audio(demo_video())[: 3 * SR]


def rewritten(path, source, change=lambda kind, pts, unit: pts):
    "Copy the packets of a file, in their order; `change` gives their new times in units, None to drop one."
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        streams = {s.index: new.add_stream_from_template(s) for s in old.streams}
        for packet in old.demux():
            if packet.dts is None:
                continue
            kind, shift = packet.stream.type, packet.pts - packet.dts
            packet.dts = change(kind, packet.dts, packet.time_base)
            if packet.dts is not None:
                packet.pts, packet.stream = packet.dts + shift, streams[packet.stream.index]
                new.mux(packet)
    return path


def write_tracks(path, pictures=(), sounds=(), flags=(), options=None):
    "A file with several video tracks (lists of frames) and sound tracks; `flags` are the dispositions of all tracks in turn."
    with av.open(str(path), "w") as out:
        videos = [out.add_stream("libx264", rate=25, options=options or {"preset": "ultrafast"}) for _ in pictures]
        audios = [out.add_stream("pcm_s16le" if str(path).endswith("mkv") else "aac", rate=SR, layout="mono") for _ in sounds]
        for stream, frames in zip(videos, pictures):
            stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "yuv420p"
        for stream, flag in zip([*videos, *audios], flags):
            stream.disposition = flag
        for stream, frames in zip(videos, pictures):
            for frame in frames:
                out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
            out.mux(stream.encode(None))
        for stream, wav in zip(audios, sounds):
            for a in range(0, len(wav) - 1023, 1024):
                block = av.AudioFrame.from_ndarray((32767 * wav[None, a : a + 1024]).astype(np.int16), "s16", "mono")
                block.sample_rate, block.pts, block.time_base = SR, a, Fraction(1, SR)
                out.mux(stream.encode(block))
            out.mux(stream.encode(None))
    return path


# ---------------------------------------------------------------- which track


@pytest.mark.parametrize("name, video, sound, reason", [
    ("second_track_is_default.mkv", 0, 2, "default"),
    ("first_track_silent.mkv", 0, 2, "only one with speech"),
    ("screen_first_camera_default.mkv", 1, 2, "face"),
])
def test_the_right_track(awkward, name, video, sound, reason):
    video_, sound_, *said = chosen_tracks(awkward(name))
    assert (video_, sound_) == (video, sound) and reason in " ".join(sum(said, []))
    assert probe(awkward(name)).said == sum(said, [])
    assert abs(read_audio(awkward(name))).max() > 0.1


def test_a_face_beats_the_default(demo, tmp_path):
    default = av.stream.Disposition.default
    screen = [np.full_like(demo[0][0], 90)] * 30
    path = write_tracks(tmp_path / "obs.mkv", [screen, demo[0][:30]], [0 * demo[1], demo[1]], [default, 0, default, 0])
    assert chosen_tracks(path)[:2] == (1, 3)  # the default tracks have neither a face nor speech
    assert ["face" in s or "speech" in s for s in probe(path).said[:2]] == [True, True]
    assert abs(next(iter_frames(path)).astype(int) - demo[0][0]).mean() < 6


# ---------------------------------------------------------------- one clock


def test_joined_transport_streams(awkward, demo, tmp_path):
    path = awkward("joined_by_cat.ts")
    info = probe(path)
    frames = list(iter_frames(path))
    assert 5.4 < info.duration < 5.7 and len(frames) == count_frames(path) == round(25 * info.duration)
    assert any("2 parts" in s for s in info.said)
    assert np.array_equal(read_frames(path, 100, 4), frames[100:104])
    assert abs(len(read_audio(path)) / SR - info.duration) < 0.1


@pytest.mark.parametrize("jump", [600, -1])
def test_times_that_jump(demo, tmp_path, jump):
    whole = write_video(tmp_path / "whole.mp4", demo[0], wav=demo[1])
    if jump > 0:
        path = rewritten(tmp_path / "jump.ts", whole, lambda kind, t, unit: t + round((10 + jump * (t * unit > 2)) / unit))
    else:  # as `cat` does: a muxer would refuse
        path = rewritten(tmp_path / "a.ts", whole)
        path.write_bytes(path.read_bytes() * 2)
    seconds = 6 if jump < 0 else 3
    frames = np.stack(list(iter_frames(path)))
    assert abs(len(frames) - 25 * seconds) <= 3 and "parts" in " ".join(probe(path).said)
    assert abs(len(read_audio(path)) / SR - seconds) < 0.2
    shown = frames[75:150] if jump < 0 else frames
    assert np.median(abs(shown[:70].astype(int) - np.stack(demo[0][:70])).mean((1, 2, 3))) < 4  # in order


def test_sound_a_hundred_hours_late(demo, tmp_path):
    whole = write_video(tmp_path / "whole.mp4", demo[0], wav=demo[1])
    late = rewritten(tmp_path / "late.mkv", whole, lambda kind, t, unit: t + (kind == "audio") * round(360_000 / unit))
    assert abs(len(read_audio(late)) - 3 * SR) < 2000 and "begin together" in " ".join(probe(late).said)


def test_late_picture(awkward):
    path = awkward("late_picture.mkv")
    whole, with_picture = read_audio(path, whole=True), read_audio(path)
    assert abs(len(whole) - len(with_picture) - 1.064 * SR) < 100
    assert np.array_equal(whole[-SR:], with_picture[-SR:])
    assert len(read_speech(path)) == len(whole)  # what `drive` speaks
    assert any("begins 1.1 s after the sound" in s for s in probe(path).said)


@pytest.mark.parametrize("ending", ["mp4", "mkv", "avi", "ts"])
def test_lost_end_is_said(demo, tmp_path, ending):
    whole = write_video(tmp_path / "demo.mp4", demo[0], wav=demo[1])  # the index in front
    if ending == "avi":
        whole = write_tracks(tmp_path / "whole.avi", [demo[0]])
    elif ending != "mp4":
        whole = rewritten(tmp_path / f"whole.{ending}", whole)
    data = whole.read_bytes()
    (tmp_path / f"cut.{ending}").write_bytes(data[: int(0.6 * len(data)) // 188 * 188 + 100])
    assert not any("copied" in s for s in probe(whole).said)
    said = " ".join(probe(tmp_path / f"cut.{ending}").said)
    assert "not copied to its end" in said and (ending == "ts" or "of the 3.0 s" in said)


def test_times_that_mean_nothing(demo, tmp_path):
    whole = write_video(tmp_path / "whole.mp4", demo[0][:60], wav=demo[1])
    path = rewritten(tmp_path / "slow.mkv", whole, lambda kind, t, unit: t * (500 if kind == "video" else 1))
    for read in (probe, count_frames, lambda p: next(iter_frames(p))):
        with pytest.raises(InputError, match="slow.mkv jump"):
            read(path)


DAMAGE = [(b"mdhd", 16, 0), (b"mdhd", 16, 1), (b"stts", 16, 2**31), (b"stts", 12, 2**31), (b"avc1", 28, 2**32 - 1)]


@pytest.mark.parametrize("tag, at, value", DAMAGE)
def test_damaged_headers_are_bounded(demo, tmp_path, tag, at, value):
    data = bytearray(write_video(tmp_path / "whole.mp4", demo[0], wav=demo[1]).read_bytes())
    place = data.find(tag) + at  # units a second, a picture's duration, number of pictures, width and height
    data[place : place + 4] = value.to_bytes(4, "big")
    (tmp_path / "bad.mp4").write_bytes(data)
    assert count_frames(tmp_path / "bad.mp4") <= 75 and probe(tmp_path / "bad.mp4").duration <= 3
    assert sum(1 for _ in iter_frames(tmp_path / "bad.mp4")) <= 76 and len(read_audio(tmp_path / "bad.mp4")) <= 3.1 * SR


@pytest.mark.parametrize("rate", [1, 999, 2**31 - 1])
def test_impossible_sampling_rate(tmp_path, rate):
    import wave

    with wave.open(str(tmp_path / "slow.wav"), "wb") as f:
        f.setparams((1, 2, rate, 0, "NONE", ""))
        f.writeframes(bytes(9000))
    with pytest.raises(InputError, match="samples a second|slow.wav"):
        read_audio(tmp_path / "slow.wav")


# ---------------------------------------------------------------- sound


def write_wav(path, x, sr=SR, subtype="FLOAT"):
    import soundfile

    soundfile.write(path, x, sr, subtype=subtype)
    return path


def said_of(path, **kw):
    said = []
    return read_audio(path, said=said, **kw), " ".join(said)


@pytest.fixture(scope="module")
def speech(demo):
    "3 s of the demo's speech at -30 dB, with pauses of a second between its parts."
    gap, wav = np.zeros(SR, np.float32), demo[1] * 10 ** ((-30 - speech_db(demo[1])) / 20)
    noise = np.random.default_rng(0).normal(size=5 * SR).astype(np.float32) * 3e-5
    return np.concatenate([wav[:SR], gap, wav[SR : 2 * SR], gap, wav[2 * SR :]]) + noise


SOUNDS = [("antiphase", "only channel 1"), ("float_in_int16_range", "divided by 3.28e+04"), ("float_peak_3", "divided by 3"),
          ("speech_dc_offset", "below 60 Hz")]


@pytest.mark.parametrize("name, words", SOUNDS)
def test_awkward_sounds(awkward, name, words):
    wav, said = said_of(awkward(f"{name}.wav"))
    assert words in said and speech_db(wav) > -35
    assert (abs(wav) > 0.999).mean() < 0.001  # not clipped
    if name == "speech_dc_offset":
        assert 0.38 < (silence(wav) > 0.5).mean() < 0.5  # the pauses, 41 % of the steps
    else:
        assert np.corrcoef(wav, read_audio(awkward("antiphase.wav")))[0, 1] > 0.999


@pytest.mark.parametrize("channels", [(1, -1), (0.4, -0.5), (1, -1, 1, -1, 1, -1)])
def test_opposite_channels(speech, tmp_path, channels):
    x = np.stack([c * speech for c in channels], 1)
    wav, said = said_of(write_wav(tmp_path / "x.wav", x, subtype="PCM_16"))
    best = speech * channels[int(np.argmax(np.abs(channels)))]
    assert "opposite phase" in said and np.corrcoef(wav, best)[0, 1] > 0.999 and wav.std() > 0.95 * best.std()


@pytest.mark.parametrize("factor", [40, 1 << 15, 1 << 23, 1 << 31])
def test_floats_of_any_range(speech, tmp_path, factor):
    peak = abs(speech).max()
    wav, said = said_of(write_wav(tmp_path / "x.wav", speech * (0.7 * factor / peak)))
    assert "divided by" in said and np.corrcoef(wav, speech)[0, 1] > 0.999 and 0.5 < abs(wav).max() <= 1.001


def test_not_numbers_and_clicks(speech, tmp_path):
    x = speech.copy()
    x[5000:5100], x[9000], x[20000] = np.nan, np.inf, 1000
    wav, said = said_of(write_wav(tmp_path / "x.wav", x))
    assert "101 samples" in said and np.isfinite(wav).all() and not wav[5020:5080].any()
    assert np.corrcoef(wav[30000:], speech[30000:])[0, 1] > 0.999 and abs(wav[30000:]).max() > 0.02


def test_muted_and_half_sound(awkward, tmp_path, demo):
    from dnerf.audio.embedding import embed_subject
    from dnerf.subject import toy_subject
    from dnerf.subject import write_wav as write_subject_wav

    def warnings(name):
        wav = fit_audio(read_audio(awkward(name)), count_frames(awkward(name)))
        landmarks = np.random.default_rng(0).random((len(wav) // 640, 478, 3)).astype(np.float32)
        return " ".join(warnings_of(REPORT | dict(seconds=len(wav) / SR) | measure_sound(wav, landmarks)))

    assert "there is no sound from 4.0 s on;" in warnings("half_sound.mp4")
    assert "silent throughout" in warnings("muted.mp4") and "quiet" not in warnings("muted.mp4")
    assert "sound" not in warnings("frozen_half.mp4")
    toy = toy_subject(tmp_path / "toy")
    write_subject_wav(toy.folder / "audio.wav", 0 * toy.wav)
    with pytest.raises(InputError, match="'toy' is silent"):
        embed_subject(toy, "mel")


REPORT = dict(  # of a clip without other faults
    frames=200, with_face=200, lost=[], with_two_faces=0, source=dict(fps=25, variable_fps=False), face_source_px=200, head_cut=0,
    sharpness=200, blinks=99, jaw_range=0.3, yaw_range=20, pitch_range=9, tracking=dict(rms_px=0.5), size=256, backdrop_motion=1.)
T = np.arange(5 * SR) / SR
UNDER = {
    "offset": 0.015 + 0 * T, "rumble": 0.02 * np.sin(2 * np.pi * 22 * T + np.sin(3 * T)),
    "hum 50": sum(0.03 / k * np.sin(2 * np.pi * 50 * k * T + k) for k in range(1, 8)),
    "hum 60": sum(0.03 / k * np.sin(2 * np.pi * 60 * k * T + k) for k in (1, 2, 3, 5)),
}


@pytest.mark.parametrize("what", UNDER)
def test_pauses_under_offset_rumble_and_hum(speech, tmp_path, what):
    clean = quiet_steps(speech)
    assert 0.4 < clean.mean() < 0.5 and quiet_steps(speech + UNDER[what]).mean() < 0.1
    wav, said = said_of(write_wav(tmp_path / "x.wav", speech + UNDER[what].astype(np.float32)))
    assert ("hums" if "hum" in what else "below 60 Hz") in said
    assert (quiet_steps(wav) == clean).mean() > 0.85  # the filters ring at both ends
    loud = abs(speech) > 0.01
    assert np.corrcoef(wav[loud], speech[loud])[0, 1] > 0.97


def test_ordinary_speech_passes_to_the_bit(speech, tmp_path):
    x = np.clip(speech * 5, -1, 1)
    for name, sound, heard in (("mono", x, x), ("stereo", np.stack([x, x], 1), x), ("side", np.stack([x, 0 * x], 1), x / 2)):
        wav, said = said_of(write_wav(tmp_path / f"{name}.wav", sound))
        assert not said and abs(wav - heard).max() < 1e-6


# ---------------------------------------------------------------- picture


def combing(im):
    "How much lines differ from the mean of their neighbours."
    im = np.asarray(im, float)[..., 1]
    return abs(im[1:-1] - (im[:-2] + im[2:]) / 2).mean()


@pytest.mark.parametrize("order, flag", [("tff", False), ("bff", False), ("tff", True)])
def test_interlaced(awkward, demo, tmp_path, order, flag):
    moving = [np.roll(f, (8 * i, 0), (1, 0)) for i, f in enumerate(demo[0][:40])]  # 8 pixels a field
    fields = []
    for a, b in zip(moving[::2], moving[1::2]):
        fields.append(a.copy())
        fields[-1][(order == "tff") :: 2] = b[(order == "tff") :: 2]
    path = write_tracks(tmp_path / "fields.mkv", [fields], options={"x264-params": f"{order}=1", "crf": "10"} if flag else {"crf": "10"})
    assert "interlaced" in " ".join(probe(path).said)
    shown = list(iter_frames(path))
    assert len(shown) == 20 and combing(shown[9]) < 0.5 * combing(fields[9]) and combing(shown[9]) < 1.5 * combing(moving[18])
    assert min(abs(shown[9].astype(int) - moving[k]).mean() for k in (18, 19)) < 5
    assert np.array_equal(read_frames(path, 9, 1)[0], shown[9]) or abs(read_frames(path, 9, 1)[0].astype(int) - shown[9]).mean() < 3


def test_interlaced_file(awkward):
    assert "interlaced" in " ".join(probe(awkward("interlaced.mp4")).said) and not probe(awkward("half_sound.mp4")).said
    shown = next(f for i, f in enumerate(iter_frames(awkward("interlaced.mp4"))) if i == 60)
    with av.open(str(awkward("interlaced.mp4"))) as container:
        stored = next(f.to_ndarray(format="rgb24") for i, f in enumerate(container.decode(video=0)) if i == 60)
    assert combing(shown) < 0.93 * combing(stored)


def test_transparent_parts_are_grey(demo, tmp_path):
    path = tmp_path / "cut_out.mov"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("qtrle", rate=25)
        stream.height, stream.width, stream.pix_fmt = 256, 256, "argb"
        for i, frame in enumerate(demo[0][:5]):
            alpha = np.full((256, 256, 1), 255, np.uint8)
            alpha[: 20 + 9 * i] = 0  # varies
            out.mux(stream.encode(av.VideoFrame.from_ndarray(np.concatenate([alpha, frame], 2), "argb")))
        out.mux(stream.encode(None))
    shown = list(iter_frames(path))
    assert "transparent" in " ".join(probe(path).said)
    assert (shown[0][:20] == 128).all() and (shown[4][:56] == 128).all() and np.array_equal(shown[0][20:], demo[0][0][20:])


def faceless(n):
    "A track without a face."
    return Track(np.zeros((n, 478, 3)), np.zeros((n, 52)), np.zeros((n, 4, 4)), np.zeros(n), np.zeros(n, bool), [], 9, 9)


def test_still_and_repeated_pictures(awkward, demo, tmp_path):
    def rules(frames, fps=25, tracked=False):
        steps, frames = Steps(), list(frames) if tracked else frames
        for frame in frames:
            steps.add(frame)
        still, rate = still_spans(steps, track_faces(iter(frames)) if tracked else faceless(steps.n))
        source = dict(fps=fps, variable_fps=False, seconds=steps.n / 25)
        sound = dict(level_db=-20, clipped=0, sync=dict(offset=None, certainty=0.))
        return " ".join(warnings_of(REPORT | sound | dict(source=source, still=still, rate=rate, seconds=99)))

    assert "stands still from 3.0 to 7.0 s" in rules(iter_frames(awkward("frozen_half.mp4")), tracked=True)
    assert not rules(iter_frames(awkward("half_sound.mp4")))
    slow = write_video(tmp_path / "slow.mp4", (f for i in range(25) for f in [demo[0][3 * i]] * 3))
    assert "only 8 pictures a second differ" in rules(iter_frames(slow))
    assert not rules(iter_frames(demo_video()))


def test_a_small_face_on_a_still_screen_counts_by_its_own_pictures():
    "The screen is refreshed at once every sixth picture, as codecs do; the face differs in each."
    rng, steps = np.random.default_rng(0), Steps()
    for i in range(100):
        frame = np.full((128, 128, 3), 128 + 20 * (i // 6 % 2), np.uint8)
        frame[32:56, 64:80] = rng.integers(0, 30, (24, 16, 3)) + 100
        steps.add(frame)
    track = replace(faceless(100), found=np.ones(100, bool), width=128, height=128)
    track.landmarks[:] = rng.uniform([64, 32, 0], [80, 56, 0], (100, 478, 3))
    assert still_spans(steps, track)[1] == 25 and still_spans(steps, faceless(100))[1] < 10


@pytest.mark.parametrize("k, sentence", [
    (0, ""), (1, "lies on its side, its top to the left, in 60 of 60 .*-vf transpose=1 "), (2, "is upside down in .*-vf hflip,vflip "),
    (3, "its top to the right, .*-vf transpose=2 ")])
def test_a_film_that_lies_on_its_side_is_refused(k, sentence):
    "`k` quarter turns anticlockwise; a head that is tilted by 40 degrees, or lies for a short time, is none."
    track = replace(faceless(60), found=np.ones(60, bool))
    tilt = Rotation.from_euler("z", 40 - 90 * k, degrees=True).as_matrix()
    track.landmarks[:, :468] = (canonical_face() * [1, -1, 1]) @ tilt.T
    if k == 0:
        track.landmarks[:20] = track.landmarks[:20] @ Rotation.from_euler("z", 90, degrees=True).as_matrix()
        _check_track(track, "film.mp4")
        return
    with pytest.raises(InputError, match=sentence):
        _check_track(track, "film.mp4")


def test_too_little_of_one_person_is_said_as_such(tmp_path):
    "Not that the picture cannot be read, nor a length that rounding makes long enough."
    shots = Shots([], 25.0, [38], (np.arange(75) >= 38).astype(int))
    track = faceless(38)                                                   # up to the last frame of who is seen longest
    with pytest.raises(InputError, match="several persons .*change first at 1.52 s, .* longest only until 1.52 s; at least 2 s of one"):
        _check_one_person(track, shots, "film.mp4")
    short = write_video(tmp_path / "short.mp4", np.zeros((49, 64, 64, 3), np.uint8), wav=np.zeros(49 * 640))
    with pytest.raises(InputError, match="only 1.96 s long; at least 2 s"):
        check_request(short, "x", None)


def test_warnings_name_their_spans(demo):
    "A second face, a head that is cut off, and a sound that no speech is."
    sound = dict(level_db=-20, clipped=0, sync=dict(offset=None, certainty=0.), source=dict(fps=25, variable_fps=False), seconds=99)
    seen = dict(with_two_faces=25, two_faces=[(1.0, 2.0)], head_cut=0.1, cut_off=[(0.0, 3.0), (90.0, 99.0)])
    said = " ".join(warnings_of(REPORT | sound | seen))
    assert "second face is seen in 25 frames (from 1.0 to 2.0 s); the" in said and "of the frames (until 3.0 s and from 90.0 s on)" in said
    landmarks, tone = np.zeros((75, 478, 3)), 0.3 * np.sin(2 * np.pi * 440 * np.arange(3 * SR) / SR)
    for wav, steady in ((tone, True), (np.random.default_rng(0).normal(0, 0.1, 3 * SR), True), (demo[1][: 3 * SR], False)):
        said = " ".join(warnings_of(REPORT | sound | dict(seconds=3) | measure_sound(wav, landmarks)))
        assert ("the sound is steady (throughout), as speech never is" in said) == steady, said


def test_cuts_and_persons(demo):
    def zoomed(f):
        return cv2.resize(f[30:230, 20:220], (256, 256))

    frames = [*demo[0][:40], *map(zoomed, demo[0][40:70]), *(f[..., ::-1] for f in demo[0][:25])]
    steps = Steps()
    for f in frames:
        steps.add(f)
    track = track_faces(iter(np.ascontiguousarray(f) for f in frames))
    shots = find_shots(steps, track)
    assert shots.cuts == [40, 70] and not shots.person[:70].any() and shots.person[70:].all()
    kept = of_one_person(track, shots)
    assert len(kept) == 70 and np.array_equal(kept.landmarks, track.landmarks[:70])
    shots.person[:] = shots.person == 0  # the other way round: the person comes last
    kept = of_one_person(track, shots)
    assert len(kept) == 95 and not kept.found[:70].any() and np.array_equal(kept.landmarks[0], track.landmarks[70])


def test_cut_to_another_person(awkward, tmp_path):
    from dnerf.core import read_json
    from dnerf.video.prepare import prepare

    made = prepare(awkward("cut_to_other_person.mp4"), "x", size=64, data_dir=tmp_path, progress=False)
    assert made.n_frames == 100 and made.tracked.all() and len(made.wav) == 64000
    assert any("cut to another person from 4.0 to 8.0 s" in w for w in read_json(made.folder / "report.json")["warnings"])


def test_sound_of_64_bits(demo, tmp_path):
    import struct

    x = (demo[1][:SR, None] * [1, 0.5] * 2.0**62).astype("<i8")
    head = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + x.nbytes, b"WAVE", b"fmt ", 16, 1, 2, SR, SR * 16, 16, 64, b"data", x.nbytes)
    (tmp_path / "wide.wav").write_bytes(head + x.tobytes())
    wav = read_audio(tmp_path / "wide.wav")
    assert len(wav) == SR and np.corrcoef(wav, demo[1][:SR])[0, 1] > 0.999


def test_jump_that_is_stored_as_a_length(demo, tmp_path):
    path = tmp_path / "jump.mp4"
    with av.open(str(path), "w") as out:
        video, sound = out.add_stream("mpeg4", rate=25), out.add_stream("aac", rate=SR, layout="mono")
        video.height, video.width, video.pix_fmt = *demo[0][0].shape[:2], "yuv420p"
        for i, image in enumerate(demo[0]):
            frame = av.VideoFrame.from_ndarray(image, "rgb24")
            frame.pts, frame.time_base = i + (15000 if i > 37 else 0), Fraction(1, 25)
            out.mux(video.encode(frame))
            block = av.AudioFrame.from_ndarray((32767 * demo[1][None, 640 * i : 640 * i + 640]).astype(np.int16), "s16", "mono")
            block.sample_rate, block.pts, block.time_base = SR, 640 * i, Fraction(1, SR)
            out.mux(sound.encode(block))
        for stream in (video, sound):
            out.mux(stream.encode(None))
    assert abs(count_frames(path) - 75) <= 1 and "jump" in " ".join(probe(path).said)
