"DeepSpeech 0.1.0 without TensorFlow: its input, its graph file, its network, and the errors when the weights are absent."
import os
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch

from dnerf.audio.deepspeech import (
    DEEPSPEECH, LETTERS, DeepSpeech, deepspeech_features, deepspeech_weights, greedy_text, load_deepspeech, mfcc,
    read_weights, weight_shapes, weights_id)
from dnerf.audio.embedding import align_to_video
from dnerf.audio.mel import synthetic_speech
from dnerf.core import InputError, MissingError

TINY = replace(DEEPSPEECH, hidden=10, cell=6)
FILE = "deepspeech-0_1_0-b90017e8.pb"


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    "One thread, and none of the user's settings."
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    own = os.environ.get("DNERF_DEEPSPEECH")
    for name in ("DNERF_DEEPSPEECH", "DNERF_MIRROR"):
        monkeypatch.delenv(name, raising=False)
    yield own
    torch.set_num_threads(before)


def random_weights(seed=0, c=TINY):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape, scale=1.5 / np.sqrt(shape[0])).astype(np.float32) for name, shape in weight_shapes(c).items()}


def frozen_graph(path, weights, filled=()):
    """A graph as TensorFlow 1.4's freeze_graph leaves it: placeholders, every variable as a constant with an identity that reads
    it, the dense layers node by node, constants that are no weights, the loop of the recurrent layer in outline, and the logits.
    `filled`: stored as one number."""
    from tensorboard.compat.proto import types_pb2
    from tensorboard.compat.proto.graph_pb2 import GraphDef
    from tensorboard.util.tensor_util import make_tensor_proto

    graph = GraphDef()

    def node(name, op, *inputs):
        made = graph.node.add(name=name, op=op, input=inputs)
        made.attr["T"].type = types_pb2.DT_FLOAT
        return made

    def constant(name, value):
        made = node(name, "Const")
        made.attr["value"].tensor.CopyFrom(make_tensor_proto(value))
        if name in filled:
            tensor = made.attr["value"].tensor
            tensor.ClearField("tensor_content")
            tensor.float_val.append(float(value.ravel()[0]))

    for name in ("input_node", "input_lengths"):
        node(name, "Placeholder")
    constant("transpose/perm", np.array([1, 0, 2], np.int32))
    node("transpose", "Transpose", "input_node", "transpose/perm")
    constant("Reshape/shape", np.array([-1, 494], np.int32))
    node("Reshape", "Reshape", "transpose", "Reshape/shape")
    for name, value in weights.items():
        constant(name, value)
        node(name + "/read", "Identity", name)
    last = "Reshape"
    for n, tail in ((1, ""), (2, "_1"), (3, "_2"), (5, "_3"), (6, "_4")):
        if n == 5:
            for way in ("fw", "bw"):
                cell = f"bidirectional_rnn/{way}/{way}/while/basic_lstm_cell"
                constant(cell + "/Const", np.array(1.0, np.float32))
                constant(cell + "/concat/axis", np.array(1, np.int32))
                constant(f"bidirectional_rnn/{way}/{way}/zeros/Const", np.array(0.0, np.float32))
                node(cell + "/MatMul/Enter", "Enter", f"bidirectional_rnn/{way}/basic_lstm_cell/kernel/read")
                node(cell + "/BiasAdd/Enter", "Enter", f"bidirectional_rnn/{way}/basic_lstm_cell/bias/read")
            last = "Reshape_2"
            node(last, "Reshape", "concat")
        node("MatMul" + tail, "MatMul", last, f"h{n}/read")
        node("Add" + tail, "Add", "MatMul" + tail, f"b{n}/read")
        node("Relu" + tail, "Relu", "Add" + tail)
        constant(f"Minimum{tail}/y", np.array(20.0, np.float32))
        node("Minimum" + tail, "Minimum", "Relu" + tail, f"Minimum{tail}/y")
        last = "Minimum" + tail
    node("logits", "Reshape", "Add_4", "Reshape_3/shape")
    path.write_bytes(graph.SerializeToString())
    return path


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def slow_direction(x, kernel, bias):
    "TensorFlow's BasicLSTMCell in float64, one step and one gate at a time: [x, h] W + b split into i, j, f, o; forget bias 1."
    units = len(bias) // 4
    c, h, out = np.zeros(units), np.zeros(units), []
    for row in x:
        gates = np.append(row, h) @ kernel.astype(float) + bias
        i, j, f, o = gates[:units], gates[units:2 * units], gates[2 * units:3 * units], gates[3 * units:]
        c = c * sigmoid(f + 1.0) + sigmoid(i) * np.tanh(j)
        h = np.tanh(c) * sigmoid(o)
        out.append(h)
    return np.array(out)


def slow_network(x, w):
    "DeepSpeech as its program reads, in float64; the backward direction runs over the reversed sequence and is reversed again."
    def dense(x, n):
        return np.minimum(np.maximum(x @ w[f"h{n}"].astype(float) + w[f"b{n}"], 0), 20)
    x = dense(dense(dense(x, 1), 2), 3)
    def way(x, d):
        return slow_direction(x, w[f"bidirectional_rnn/{d}/basic_lstm_cell/kernel"], w[f"bidirectional_rnn/{d}/basic_lstm_cell/bias"])
    x = np.concatenate([way(x, "fw"), way(x[::-1], "bw")[::-1]], axis=1)
    return dense(x, 5) @ w["h6"].astype(float) + w["b6"]


def slow_input(pcm):
    "The input matrix by AD-NeRF's recipe: every second frame, nine empty ones at each end, rows of nineteen, standardised as a whole."
    frames = mfcc(pcm)[::2]
    frames = np.concatenate([np.zeros((9, 26)), frames, np.zeros((9, 26))])
    rows = np.array([frames[k:k + 19].ravel() for k in range(len(frames) - 18)])
    return (rows - rows.mean()) / rows.std()


# computed with python_speech_features 0.6: mfcc(x, 16000, numcep=26), coefficients 0, 1, 2, 7, 13, 22, 25
REFERENCE = {
    0: [20.934701647, -36.781698459, -7.440736399, -11.855675419, -1.44845203, -0.063044121, -0.628891072],
    5: [20.896708925, -32.828779143, -6.023874304, -6.898820345, 1.180414898, -0.051836016, -0.471263305],
    9: [20.606467768, -33.767148071, -3.855178982, 2.072078394, -1.157945042, -0.550300065, 0.258511139],
}


def test_mfcc_are_those_of_the_package_it_was_trained_with():
    n = np.arange(1700)
    x = (n * n * 7 % 6007 - 3003).astype(np.int16)
    found = mfcc(x)
    assert found.shape == (10, 26)  # the last frame is filled up with zeros
    for row, values in REFERENCE.items():
        np.testing.assert_allclose(found[row, [0, 1, 2, 7, 13, 22, 25]], values, atol=1e-8)
    short = mfcc(x[:300])
    assert short.shape == (1, 26)
    np.testing.assert_allclose(short[0, [0, 1, 25]], [20.699072987, -34.398832538, -1.445349665], atol=1e-8)


@pytest.mark.parametrize("samples", [400, 401, 560, 561, 720, 721, 16000, 16001, 16159, 16161])
def test_mfcc_frame_count_and_every_second_frame(samples):
    x = np.random.default_rng(0).integers(-3000, 3000, samples)
    every = mfcc(x)
    assert len(every) == 1 + int(np.ceil((samples - 400) / 160))
    np.testing.assert_allclose(mfcc(x, every=2, block=3), every[::2], atol=1e-9)


@pytest.mark.parametrize("seed, filled", [(0, ()), (1, ("b2", "bidirectional_rnn/bw/basic_lstm_cell/bias"))])
def test_a_graph_of_the_same_topology_gives_the_numbers_of_the_slow_network(tmp_path, seed, filled):
    weights = random_weights(seed)
    for name in filled:
        weights[name][:] = 0.25
    path = frozen_graph(tmp_path / FILE, weights, filled)
    wav, _ = synthetic_speech(1.5, seed=seed)
    found, rate = deepspeech_features(wav, 16000, path, centred=False, c=TINY)
    wanted = slow_network(slow_input(np.round(wav.astype(float) * 32767)), weights)
    assert rate == 50 and found.shape == (75, 29) and found.dtype == np.float32
    assert wanted.std(0).min() > 1e-3  # every logit moves
    np.testing.assert_allclose(found, wanted, atol=2e-4)


def test_gate_order_forget_bias_and_direction_matter(tmp_path):
    "The comparison above would notice each of the likely mistakes."
    weights = random_weights(3)
    x = np.random.default_rng(0).normal(size=(30, 494))
    path, batch = frozen_graph(tmp_path / "right.pb", weights), torch.tensor(x, dtype=torch.float32)[None]
    right = load_deepspeech(path, c=TINY)(batch)[0].numpy()
    np.testing.assert_allclose(right, slow_network(x, weights), atol=1e-4)
    fw, bw = ("bidirectional_rnn/%s/basic_lstm_cell/%s" % (way, "kernel") for way in ("fw", "bw"))
    i, j, f, o = np.split(weights[fw], 4, axis=1)
    for mistake in ({fw: np.concatenate([i, f, j, o], 1)}, {fw: weights[bw], bw: weights[fw]}):
        assert abs(slow_network(x, {**weights, **mistake}) - right).max() > 0.01
    no_bias = replace(TINY, forget_bias=0.0)
    assert abs(load_deepspeech(path, c=no_bias)(batch)[0].numpy() - right).max() > 0.01


def test_batch_and_single_agree(tmp_path):
    model = load_deepspeech(frozen_graph(tmp_path / FILE, random_weights()), c=TINY)
    x = torch.randn(3, 20, 494, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(x)[1], model(x[1:2])[0], atol=1e-5, rtol=1e-4)
    assert not any(p.requires_grad for p in model.parameters()) and not model.training


def test_the_real_sizes():
    shapes = weight_shapes()
    assert shapes["h1"] == (494, 2048) and shapes["h3"] == (2048, 4096) and shapes["h6"] == (2048, 29)
    assert shapes["bidirectional_rnn/fw/basic_lstm_cell/kernel"] == (4096 + 2048, 4 * 2048)
    with torch.device("meta"):
        model = DeepSpeech()
    assert sum(p.numel() for p in model.parameters()) == sum(int(np.prod(s)) for s in shapes.values()) + 2 * 4 * 2048


@pytest.mark.parametrize("change, words", [
    (lambda w: w.pop("h2"), "no constant node 'h2'"),
    (lambda w: w.pop("bidirectional_rnn/bw/basic_lstm_cell/bias"), "no constant node 'bidirectional_rnn/bw/basic_lstm_cell/bias'"),
    (lambda w: w.pop("bidirectional_rnn/fw/basic_lstm_cell/kernel"), "no constant node 'bidirectional_rnn/fw/basic_lstm_cell/kernel'"),
    (lambda w: w.update(h6=w["h6"][:, :28]), r"'h6' has the shape \(10, 28\), not \(10, 29\)"),
    (lambda w: w.update({"lstm_fused_cell/kernel": w["h1"]}), "variable 'lstm_fused_cell/kernel'"),
])
def test_a_graph_that_is_another_network_is_refused_by_node(tmp_path, change, words):
    weights = random_weights()
    change(weights)
    with pytest.raises(InputError, match=words) as e:
        read_weights(frozen_graph(tmp_path / "other.pb", weights), TINY)
    assert "\n" not in str(e.value) and "other.pb" in str(e.value)


@pytest.mark.parametrize("content, error", [
    (b"", "no constant node"), (b"RIFF of some sound", "not a TensorFlow graph"), (b"PK\x03\x04 a zip", "not a TensorFlow graph")])
def test_a_file_that_is_no_graph_is_one_sentence(tmp_path, content, error):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(InputError, match=error) as e:
        load_deepspeech(tmp_path / "file")
    assert "\n" not in str(e.value)


def test_a_truncated_graph_is_refused(tmp_path):
    path = frozen_graph(tmp_path / FILE, random_weights())
    path.write_bytes(path.read_bytes()[:20000])
    with pytest.raises(InputError):
        read_weights(path, TINY)


@pytest.mark.parametrize("mirror", ["http://127.0.0.1:9", "http://127.0.0.1:9/files/", "no-such-protocol://x"])
def test_offline_without_weights_is_one_sentence(tmp_path, monkeypatch, mirror):
    monkeypatch.setenv("DNERF_MIRROR", mirror)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(MissingError) as e:
        deepspeech_weights(tmp_path / "cache")
    sentence = str(e.value)
    assert "\n" not in sentence
    assert all(part in sentence for part in (FILE, mirror, str(tmp_path / "cache"), "DNERF_DEEPSPEECH"))
    assert [p.name for p in (tmp_path / "cache").iterdir() if not p.name.endswith(".lock")] == []


def test_a_zip_put_there_by_hand_is_used_and_checked(tmp_path):
    graph = frozen_graph(tmp_path / FILE, random_weights())
    cache = tmp_path / "cache"
    cache.mkdir()
    with zipfile.ZipFile(cache / (FILE + ".zip"), "w") as z:
        z.write(graph, FILE)
    with pytest.raises(InputError, match="not the published file"):
        deepspeech_weights(cache)
    assert not (cache / FILE).exists()
    sha1 = weights_id(graph).split("-")[1]
    assert deepspeech_weights(cache, sha1=sha1).read_bytes() == graph.read_bytes()
    (cache / FILE).write_bytes(b"damaged")
    with pytest.raises(InputError, match="not the published file"):
        deepspeech_weights(cache, sha1=sha1)


def test_the_place_where_other_programs_keep_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("DNERF_MIRROR", "http://127.0.0.1:9")
    path = frozen_graph(tmp_path / FILE, random_weights())
    usual = tmp_path / ".tensorflow" / "models" / FILE
    usual.parent.mkdir(parents=True)
    path.rename(usual)
    with pytest.raises(MissingError):  # there, but another file
        deepspeech_weights()
    assert deepspeech_weights(sha1=weights_id(usual).split("-")[1]) == usual


def test_a_path_of_ones_own(tmp_path, monkeypatch):
    published = weights_id()
    monkeypatch.setenv("DNERF_DEEPSPEECH", str(tmp_path / "absent.pb"))
    for call in (deepspeech_weights, weights_id):
        with pytest.raises(MissingError, match="absent.pb"):
            call()
    path = frozen_graph(tmp_path / "mine.pb", random_weights())
    monkeypatch.setenv("DNERF_DEEPSPEECH", str(path))
    assert deepspeech_weights() == path
    assert weights_id() == weights_id(path) != published
    wav, _ = synthetic_speech(0.5)
    assert deepspeech_features(wav, 16000, c=TINY)[0].shape == (25, 29)
    with pytest.raises(InputError, match="shape"):  # small weights are not DeepSpeech
        deepspeech_features(wav, 16000)


@pytest.mark.parametrize("sr", [8000, 22050, 44100, 48000])
def test_any_sampling_rate_and_stereo(tmp_path, sr):
    path = frozen_graph(tmp_path / FILE, random_weights())
    wav, _ = synthetic_speech(1.0, sr=sr)
    mono, rate = deepspeech_features(wav, sr, path, c=TINY)
    stereo, _ = deepspeech_features(np.stack([wav, wav], 1), sr, path, c=TINY)
    assert abs(len(mono) - 50) <= 1 and rate == 50
    np.testing.assert_allclose(mono, stereo, atol=1e-4)


@pytest.mark.parametrize("wav", [np.zeros(16000), np.full(16000, 0.5), np.sign(np.sin(np.arange(16000) / 20)) * 1.7])
def test_silent_constant_and_clipped_sound_are_finite(tmp_path, wav):
    path = frozen_graph(tmp_path / FILE, random_weights())
    assert np.isfinite(deepspeech_features(wav, 16000, path, c=TINY)[0]).all()


@pytest.mark.parametrize("wav, words", [(np.zeros(1600), "0.10 s long"), (np.full(16000, np.nan), "not finite")])
def test_bad_sound_is_refused_before_any_weights_are_looked_for(wav, words):
    with pytest.raises(InputError, match=words):
        deepspeech_features(wav, 16000)


def test_long_sound_in_chunks(tmp_path):
    path = frozen_graph(tmp_path / FILE, random_weights())
    wav, _ = synthetic_speech(10.0)
    whole, _ = deepspeech_features(wav, 16000, path, c=TINY)
    pieces, _ = deepspeech_features(wav, 16000, path, c=replace(TINY, chunk_s=1.5, margin_s=1.5))
    np.testing.assert_allclose(pieces, whole, atol=1e-4)


def test_windows_are_ad_nerfs_and_a_frame_sees_its_own_instant(tmp_path):
    path = frozen_graph(tmp_path / FILE, random_weights())
    wav, _ = synthetic_speech(4.0)
    logits, rate = deepspeech_features(wav, 16000, path, centred=False, c=TINY)
    assert len(logits) == 200
    padded = np.concatenate([np.zeros((8, 29)), logits[:199], np.zeros((8, 29))])
    published = np.array([padded[k:k + 16] for k in range(0, len(padded) - 16, 2)])
    ours = align_to_video(logits, rate, 100)
    assert ours.shape == published.shape == (100, 16, 29)
    np.testing.assert_array_equal(ours[4:-4], published[4:-4].astype(np.float32))


@pytest.mark.parametrize("t", [0.5, 0.7333, 1.0, 1.33, 2.21])
def test_a_click_peaks_in_the_window_of_its_frame(tmp_path, t):
    "Through a graph whose first logit is the energy of the centre frame, handed on by every layer."
    weights = {name: np.zeros(shape, np.float32) for name, shape in weight_shapes(TINY).items()}
    weights["h1"][9 * 26, 0], weights["b1"][0] = 1, 8
    for name, value in (("h2", 1), ("h3", 0.1), ("h5", 10), ("h6", 1)):
        weights[name][0, 0] = value
    weights["bidirectional_rnn/fw/basic_lstm_cell/kernel"][0, TINY.cell] = 0.5
    weights["bidirectional_rnn/fw/basic_lstm_cell/bias"][[0, 2 * TINY.cell, 3 * TINY.cell]] = 20, -20, 20
    path = frozen_graph(tmp_path / FILE, weights)
    click = np.zeros(48000)
    click[round(16000 * t)] = 1
    windows = align_to_video(*deepspeech_features(click, 16000, path, c=TINY), 75)[..., 0]
    assert abs(windows[round(25 * t)].argmax() - 8) <= 1
    assert abs(windows[:, 7:10].mean(1).argmax() - 25 * t) <= 0.75


def test_letters():
    assert len(LETTERS) == 28
    assert greedy_text(np.eye(29)[[28, 0, 28, 3, 3, 1, 20, 20, 28, 20, 27, 19]]) == " catt's"


def edit_distance(a, b):
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        row, before = [i], row
        for j, y in enumerate(b, 1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (x != y)))
    return row[-1]


def test_the_real_weights_spell_the_words_of_the_demo(alone, monkeypatch):
    "Only where DNERF_DEEPSPEECH names the real file: a wrong gate order or a wrong input would spell nothing like it."
    if not alone:
        pytest.skip(f"the published weights are not here; set DNERF_DEEPSPEECH to the path of {FILE}")
    from dnerf.video.demo import demo_text, demo_video
    from dnerf.video.media import read_audio

    text = "".join(x for x in demo_text().lower() if x in LETTERS)
    recognised = greedy_text(deepspeech_features(read_audio(demo_video()), 16000, alone)[0])
    assert edit_distance(recognised, text) < 0.5 * len(text), recognised
