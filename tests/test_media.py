"""Reading and writing media: real videos when the machine has them, and the faults that users bring."""
import numpy as np
import pytest

from dnerf.core import InputError, MissingError, StorageError
from dnerf.video.media import count_frames, fit_audio, iter_frames, probe, read_audio, write_video


def tone(seconds, sr=16000):
    return 0.5 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * sr)) / sr).astype(np.float32)


def gray(n, shape=(48, 64, 3)):
    "Pictures that grow brighter, made one at a time."
    return (np.full(shape, 20 + 200 * i // max(1, n - 1), np.uint8) for i in range(n))


@pytest.mark.parametrize("name, fps, n, shape", [("cnn2.mp4", 25, 1779, (512, 512, 3)), ("obama.mp4", 30, 851, (720, 1280, 3))])
def test_real_video(real_video, name, fps, n, shape):
    path = real_video(name)
    info = probe(path)
    assert info.fps == pytest.approx(fps, abs=0.01) and not info.variable_fps and info.has_audio
    assert (info.height, info.width, info.rotation) == (*shape[:2], 0)
    assert abs(count_frames(path) - n) <= 1
    shapes = [image.shape for image in iter_frames(path)]
    assert abs(len(shapes) - n) <= 1 and set(shapes) == {shape}
    wav = read_audio(path)
    assert wav.dtype == np.float32 and 0.1 < np.abs(wav).max() <= 1
    assert abs(len(wav) / 640 - len(shapes)) <= 2  # a block of the sound codec may stick out
    assert len(fit_audio(wav, len(shapes))) == 640 * len(shapes)


@pytest.mark.parametrize("fps", [5, 24, 25, 30, 60, 29.97])
def test_any_rate_becomes_25(tmp_path, fps):
    path = write_video(tmp_path / "clip.mp4", gray(round(2 * fps)), fps=fps, wav=tone(2))
    light = np.array([image.mean() for image in iter_frames(path)])
    assert abs(len(light) - 50) <= 1 and abs(count_frames(path) - len(light)) <= 1
    # brightness rises linearly with time: every frame shows its instant to half a source frame, or to the repetition of a slow source
    slack = max(0.5 / fps, 1 / fps - 0.02 if fps < 25 else 0) + 0.001
    shown = (light - 20) / 200 * 2  # seconds
    assert np.abs(shown - np.arange(len(light)) / 25).max() < slack + 0.04  # 0.04 s: coding error and 2 s - 1 frame of rise
    assert len(read_audio(path)) == pytest.approx(32000, abs=1100)


def test_short_video(tmp_path):
    path = write_video(tmp_path / "one.mp4", gray(1))
    assert len(list(iter_frames(path))) == 1 == count_frames(path)


def test_repeated_frames_are_independent(tmp_path):
    images = list(iter_frames(write_video(tmp_path / "slow.mp4", gray(2), fps=5)))
    images[0][:] = 0
    assert images[1].min() > 0


def test_missing(tmp_path):
    for read in (probe, count_frames, read_audio, lambda p: next(iter_frames(p))):
        with pytest.raises(MissingError, match="no file"):
            read(tmp_path / "nothing.mp4")


NO_VIDEOS = [("text.mp4", b"hello\n" * 99), ("empty.mp4", b""), ("notes.txt", b"hello\n" * 99), ("zeros.mkv", bytes(4096))]


@pytest.mark.parametrize("name, content", NO_VIDEOS)
def test_not_a_video(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    for read in (probe, count_frames, read_audio, lambda p: next(iter_frames(p))):
        with pytest.raises(InputError, match=name):
            read(path)


def test_picture_is_not_a_video(tmp_path):
    cv2 = pytest.importorskip("cv2")
    cv2.imwrite(str(tmp_path / "face.png"), np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(InputError, match="picture"):
        probe(tmp_path / "face.png")


def test_truncated(tmp_path):
    whole = write_video(tmp_path / "whole.mp4", np.random.default_rng(0).integers(0, 256, (30, 48, 64, 3), dtype=np.uint8)).read_bytes()
    path = tmp_path / "cut.mp4"
    path.write_bytes(whole[: len(whole) // 2])  # the index is in front, so the first half can be seen
    assert 5 < len(list(iter_frames(path))) < 30


def test_silent_video(tmp_path):
    path = write_video(tmp_path / "silent.mp4", gray(5))
    assert not probe(path).has_audio
    with pytest.raises(InputError, match="no sound"):
        read_audio(path)


def test_sound_alone(tmp_path):
    import soundfile

    path = tmp_path / "speech.wav"
    soundfile.write(path, np.stack([tone(1, 44100)] * 2, 1), 44100, subtype="PCM_24")
    wav = read_audio(path)
    assert len(wav) == 16000 and np.abs(wav - tone(1))[100:-100].max() < 1e-3  # away from the resampler's edges
    with pytest.raises(InputError, match="no picture"):
        probe(path)


def test_sound_lasts_as_long_as_picture(tmp_path):
    import av

    for n, seconds in ((50, 1), (25, 2)):
        with av.open(str(write_video(tmp_path / "clip.mp4", gray(n), wav=tone(seconds)))) as container:
            assert [float(s.duration * s.time_base) for s in container.streams] == pytest.approx([n / 25] * 2, abs=0.001)


def test_failing_frames_leave_nothing(tmp_path):
    def frames():
        yield from gray(3)
        raise RuntimeError("renderer failed")

    old = write_video(tmp_path / "clip.mp4", gray(2)).read_bytes()
    with pytest.raises(RuntimeError, match="renderer failed"):
        write_video(tmp_path / "clip.mp4", frames())
    assert (tmp_path / "clip.mp4").read_bytes() == old and len(list(tmp_path.iterdir())) == 1


def test_disk_full(tmp_path):
    resource, signal = pytest.importorskip("resource"), pytest.importorskip("signal")
    limit, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limit[1]))
    try:
        with pytest.raises(StorageError, match="clip.mp4"):
            write_video(tmp_path / "clip.mp4", np.random.default_rng(0).integers(0, 256, (40, 128, 128, 3), dtype=np.uint8))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name, text", [
    ("list.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:3,\nfile://{0}/film.ts\n#EXT-X-ENDLIST\n"),
    ("films.wav", "ffconcat version 1.0\nfile film.ts\n"),
    ("session.mp4", "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"),
    ("frame%d.jpg", None),
])
def test_lists_of_other_files_are_not_followed(name, text, tmp_path):
    import cv2

    write_video(tmp_path / "film.mp4", gray(30), wav=tone(1.2)).rename(tmp_path / "film.ts")
    cv2.imwrite(str(tmp_path / "frame1.jpg"), np.zeros((9, 9, 3), np.uint8))
    (tmp_path / name).write_bytes(text.format(tmp_path).encode() if text else (tmp_path / "frame1.jpg").read_bytes())
    for read in (probe, read_audio):
        with pytest.raises(InputError, match="a list of other files"):
            read(tmp_path / name)
