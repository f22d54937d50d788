"""The presets `paper` and `adnerf` against AD-NeRF's published network, sampling and training, counted and written out by hand."""
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from dnerf.nerf.batches import RayBatches
from dnerf.nerf.condition import AudioAttention, AudioNet
from dnerf.nerf.config import compose_config
from dnerf.nerf.cue import recorded_cues
from dnerf.nerf.field import MLPField, MLPFieldConfig, positional_encoding
from dnerf.nerf.head import CoarseFine, near_far
from dnerf.nerf.playback import render_frames
from dnerf.nerf.portrait import Portrait, Sizes
from dnerf.nerf.rays import camera_rays, sample_pdf, stratified_points
from dnerf.nerf.losses import LossWeights
from dnerf.nerf.run import load_run, read_config
from dnerf.nerf.torso import pose_code
from dnerf.nerf.training import Budget, PortraitTraining, learning_rate_factor, train
from dnerf.subject import TORSO, toy_subject
from toys import MLP, keep_speech, speech_of, stopping_at

TRUNK = [(127, 256)] + [(256, 256)] * 4 + [(383, 256)] + [(256, 256)] * 2          # the input again after the fifth layer
COLOUR = [(283, 128), (128, 128), (128, 128), (128, 3)]
CONVS = [(29, 32), (32, 32), (32, 64), (64, 64)]
ATTENTION = [(32, 16), (16, 8), (8, 4), (4, 2), (2, 1)]


def sizes(module, kind):
    return [(m.weight.shape[1], m.weight.shape[0]) for m in module.modules() if isinstance(m, kind)]


def count(*layers):
    "Multiply-adds and parameters of layers (inputs, outputs, taps of the kernel)."
    macs = sum(i * o * k for i, o, k in layers)
    return macs, macs + sum(o for _, o, _ in layers)


def counted(module):
    return sum(p.numel() for n, p in module.named_parameters() if n.endswith("weight")), sum(p.numel() for p in module.parameters())


def small_portrait(toy, preset, dim=3, **settings):
    "A portrait with the settings of a preset and tiny networks, before training; its densities are not zero."
    config = compose_config(preset, MLP, subject="toy", **settings)
    torch.manual_seed(0)
    portrait = Portrait(config.portrait, config.field, Sizes(toy.size, toy.focal, dim)).initialise(toy)
    for part in (portrait.head, *([portrait.torso] if config.portrait.torso_nerf else [])):
        for net in (part.coarse, part.fine):
            net.sigma.bias.data += 3
    return portrait, config


# ---------------------------------------------------------------- the networks, layer by layer
def test_field_layers_and_counts():
    field = MLPField(MLPFieldConfig(), 64)
    assert sizes(field.trunk, torch.nn.Linear) == TRUNK
    assert sizes(field.colour, torch.nn.Linear) == COLOUR and sizes(field.sigma, torch.nn.Linear) == [(256, 1)]
    assert counted(field) == count(*((i, o, 1) for i, o in TRUNK + COLOUR + [(256, 1)])) == (593_408, 595_844)


def test_torso_field_counts():
    "Eq. 4: 42 numbers of the pose in the input, and in its repetition."
    torso = [(i + 42 * (i in (127, 383)), o, 1) for i, o in TRUNK + COLOUR + [(256, 1)]]
    assert counted(MLPField(MLPFieldConfig(), 64 + 42)) == count(*torso) == (614_912, 617_348)


def test_audio_networks_layers_and_counts():
    net, attention = AudioNet(29), AudioAttention()
    assert sizes(net.convs, torch.nn.Conv1d) == CONVS and sizes(net.head, torch.nn.Linear) == [(64, 64), (64, 64)]
    assert all(c.kernel_size == (3,) and c.stride == (2,) and c.padding == (1,) for c in net.convs if isinstance(c, torch.nn.Conv1d))
    assert counted(net) == count(*((i, o, 3) for i, o in CONVS), (64, 64, 1), (64, 64, 1))
    assert sizes(attention.convs, torch.nn.Conv1d) == ATTENTION and sizes(attention.linear, torch.nn.Linear) == [(8, 8)]
    assert all(c.kernel_size == (3,) and c.stride == (1,) and c.padding == (1,) for c in attention.convs if isinstance(c, torch.nn.Conv1d))
    assert counted(attention) == count(*((i, o, 3) for i, o in ATTENTION), (8, 8, 1))
    slopes = {m.negative_slope for n in (net, attention) for m in n.modules() if isinstance(m, torch.nn.LeakyReLU)}
    assert slopes == {0.02}


@pytest.mark.parametrize("width", [29, 82, 111, 1])
def test_whole_portraits_for_any_embedding_width(width):
    "Eq. 7 and eq. 3 + 4 with DeepSpeech (29), SpeechSplit (82), both (111), and a single feature."
    config = {name: compose_config(name) for name in ("paper", "adnerf")}
    portraits = {name: Portrait(c.portrait, c.field, Sizes(32, 64.0, width)) for name, c in config.items()}
    audio = counted(AudioNet(width))[1] + counted(AudioAttention())[1]
    assert counted(AudioNet(width))[1] - counted(AudioNet(29))[1] == (width - 29) * 32 * 3
    head, torso = 2 * 595_844, 2 * 617_348
    assert sum(p.numel() for n, p in portraits["paper"].named_parameters() if not n.startswith("torso")) == head + audio
    assert sum(p.numel() for p in portraits["adnerf"].parameters()) == head + torso + audio


def test_evaluations_of_a_training_step():
    """About 1.9 TFLOP: 2048 rays of 64 + 192 points, three passes (forward once, backward twice), two operations a multiply-add.

    The last point of a ray is the background: the field is not evaluated there.
    """
    evaluated = []

    class Counting(MLPField):
        def density(self, x, condition):
            evaluated.append(len(x))
            return super().density(x, condition)

    config = compose_config("paper")
    head = CoarseFine(MLPFieldConfig(width=8, depth=2, skip=0), config.portrait, 64)
    head.coarse = head.fine = Counting(MLPFieldConfig(width=8, depth=2, skip=0), 64)   # untrained: nothing is opaque
    head.layers(camera_rays(torch.eye(4)[None], 64.0, 32, torch.zeros(1, 10, 2, dtype=torch.long)), torch.zeros(10, 64))
    assert sum(evaluated) == 10 * (63 + 191)
    assert config.data.frames * config.data.rays * (64 + 192) * 593_408 * 3 * 2 == pytest.approx(1.9e12, rel=0.03)


def test_field_forward_is_the_published_one():
    "The network written out in double precision with plain matrices."
    torch.manual_seed(1)
    field = MLPField(MLPFieldConfig(), 64).double()
    x, d, a = torch.randn(5, 3).double(), F.normalize(torch.randn(5, 3).double(), dim=-1), torch.randn(5, 64).double()

    def encode(v, octaves):
        return torch.cat([v] + [f(v * 2**k) for k in range(octaves) for f in (torch.sin, torch.cos)], -1)

    def line(layer, v):
        return v @ layer.weight.T + layer.bias

    assert torch.allclose(positional_encoding(x, 10), encode(x, 10)) and encode(x, 10).shape[1] == 63 and encode(d, 4).shape[1] == 27
    e = h = torch.cat([encode(x, 10), a], -1)
    for i, layer in enumerate(field.trunk):
        h = line(layer, h).clamp(min=0)
        h = torch.cat([e, h], -1) if i == 4 else h
    sigma = line(field.sigma, h).clamp(min=0)[:, 0]
    h = torch.cat([h, encode(d, 4)], -1)
    for layer in field.colour[:-1:2]:
        h = line(layer, h).clamp(min=0)
    rgb = 1 / (1 + torch.exp(-line(field.colour[-1], h)))
    assert torch.allclose(field(x, d, a)[0], rgb) and torch.allclose(field(x, d, a)[1], sigma)


def test_initialisation_is_pytorchs():
    "Uniform in +-1/sqrt(inputs), as the original leaves it."
    torch.manual_seed(0)
    for layer in [*MLPField(MLPFieldConfig(), 64).trunk, *AudioNet(29).convs[::2]]:
        bound = 1 / math.sqrt(layer.weight[0].numel())
        assert bound * 0.98 < layer.weight.abs().max() <= bound and abs(layer.weight.mean()) < bound / 20


# ---------------------------------------------------------------- samples
def test_coarse_and_fine_points():
    near, far = torch.full((500,), 0.6), torch.full((500,), 1.2)
    g = torch.Generator().manual_seed(0)
    t = stratified_points(near, far, 64, g)
    grid = torch.linspace(0.6, 1.2, 64)
    step = grid[1] - grid[0]
    assert (t - grid).abs().max() <= step / 2 + 1e-6 and torch.equal(t[:, -1], far) and t.std(0)[1:-1].min() > 0.8 * step / 12**0.5
    weights = torch.zeros(500, 62)
    weights[:, 20] = 1
    fine = sample_pdf((t[:, 1:] + t[:, :-1]) / 2, weights, 128, g)
    assert fine.shape == (500, 128)
    inside = (fine > grid[20] - step) & (fine < grid[21] + 2 * step)
    assert inside.float().mean() > 0.99


def test_planes_are_at_fixed_depth(dnerf_home):
    toy = toy_subject(dnerf_home / "data" / "toy")
    portrait, config = small_portrait(toy, "paper")
    assert (config.portrait.near, config.portrait.far, config.portrait.n_coarse) == (-0.2, 0.4, 8)
    assert compose_config("paper").portrait.n_coarse == 64
    assert float(portrait.head.depth) == pytest.approx(0.8, abs=1e-5)                                    # the toy's camera keeps 0.8 m
    c2w = torch.from_numpy(np.array(toy.poses[3]))
    rays = camera_rays(c2w[None], toy.focal, toy.size, torch.tensor([[[0, 0], [16, 16], [31, 5]]]))
    for t, depth in zip(portrait.head.planes(rays), (0.6, 1.2)):
        assert torch.allclose((rays.rays_o + t[:, None] * rays.rays_d)[:, 2], c2w[2, 3] - depth, atol=1e-5)
    assert torch.allclose(near_far(rays.rays_d, c2w[:3, 2], 0.6, 1.2)[0][1:2], torch.tensor([0.6]), atol=1e-3)


# ---------------------------------------------------------------- training
def test_learning_rate():
    "5e-4, a tenth of it after 250,000 steps, whatever the budget; no warm-up; attention five times that."
    for preset in ("paper", "adnerf"):
        optim = compose_config(preset).optim
        for step, rate in ((0, 5e-4), (1000, 5e-4 * 0.1 ** (1 / 250)), (250_000, 5e-5), (400_000, 5e-4 * 0.1**1.6)):
            assert optim.lr_net * learning_rate_factor(step, 0.7, optim) == pytest.approx(rate)
        assert optim.eps == 1e-8


def test_rays_of_a_batch(dnerf_home):
    "One frame, 2048 rays, 95 % of them in AD-NeRF's box of the head, the others outside."
    toy = toy_subject(dnerf_home / "data" / "toy", size=128)
    lms = np.load(toy.folder / "landmarks.npy")
    lms[:, 152, 1], lms[:, 168, 1] = lms[:, 152, 1] + 6, lms[:, 168, 1] - 14                # a chin below, the nose's bridge above
    np.save(toy.folder / "landmarks.npy", lms)
    data = RayBatches(toy, speech_of(toy), compose_config("paper", subject="toy"))
    for step in range(4):
        b = data.batch(step)
        assert b.cue.c2w.shape == (1, 4, 4) and b.pixels.shape == (1, 2048, 2)
        frame = int(np.abs(toy.poses - b.cue.c2w.numpy()).sum((1, 2)).argmin())
        points = lms[frame, :468, :2]
        (left, _), (right, _) = points.min(0), points.max(0)
        bridge, chin = points[168, 1], points[152, 1]
        middle, half_w, half_h = (left + right) / 2, 1.5 * (right - left) / 2, 1.15 * (chin - bridge)
        assert half_h > 10
        u, v = b.pixels[0].numpy().T
        near_box = (abs(u + 0.5 - middle) <= half_w + 0.5) & (abs(v + 0.5 - bridge) <= half_h + 0.5)
        well_in = (abs(u + 0.5 - middle) < half_w - 0.5) & (abs(v + 0.5 - bridge) < half_h - 0.5)
        assert near_box[-1946:].all() and not well_in[:-1946].any() and round(2048 * 0.95) == 1946
        assert u[:102].min() < 20 and u[:102].max() > 108 and v[:102].max() > 108                     # the others are everywhere else


def test_neighbouring_windows_stop_at_the_split(dnerf_home):
    """Windows past the ends of the training split are zero, as in the original: training is conditioned on no speech of the test split.

    Rendering is conditioned on the whole recording.
    """
    toy = toy_subject(dnerf_home / "data" / "toy")
    speech, config = speech_of(toy), compose_config("paper", subject="toy")
    stop = toy.split("train").stop
    training, rendering = (recorded_cues(toy, speech, config, split).window for split in ("train", None))
    last, first = training[stop - 1], rendering[0]
    assert last.shape == (8, 16, 3) and np.array_equal(last[:5], speech[stop - 5:stop]) and not last[5:].any()
    assert np.array_equal(rendering[stop - 1], speech[stop - 5:stop + 3])
    assert not first[:4].any() and np.array_equal(first[4:], speech[:4])
    assert not rendering[toy.n_frames - 1][5:].any() and len(rendering) == toy.n_frames
    assert recorded_cues(toy, speech, compose_config("cpu", subject="toy")).window is speech


def module_for(portrait, config):
    module = PortraitTraining(portrait, config, Budget(1.0, 10))
    return module, module.configure_optimizers()


def test_attention_starts_late(dnerf_home):
    "Before its start the single window is used and the attention's parameters stay; afterwards they learn."
    toy = toy_subject(dnerf_home / "data" / "toy")
    portrait, config = small_portrait(toy, "paper")
    assert compose_config("paper").portrait.attention_start == 200_000 and compose_config("cpu").portrait.attention == 0
    c = portrait.condition
    module, adam = module_for(portrait, config)
    assert [g["lr"] for g in adam.param_groups] == pytest.approx([5e-4, 5e-4, 25e-4])
    b = RayBatches(toy, speech_of(toy), config).batch(0)
    window = b.cue.window
    assert torch.allclose(c.speech_code(window), c.audio(window[:, 4]), atol=1e-6)

    def step(on):
        c.smoothing.fill_(on)
        before = [p.clone() for p in c.attention.parameters()]
        adam.zero_grad()
        sum(portrait.recipe.terms(portrait(b.cue, b.pixels), b, LossWeights()).values()).backward()
        adam.step()
        return [not torch.equal(p, q) for p, q in zip(before, c.attention.parameters())]

    assert not any(step(False)) and not any(p in adam.state for p in c.attention.parameters())
    assert any(step(True))
    codes = torch.stack([c.audio(window[0])])
    y = codes[..., :32].transpose(1, 2)                                                               # written out once more
    for conv in c.attention.convs[::2]:
        y = F.leaky_relu(F.conv1d(y, conv.weight, conv.bias, padding=1), 0.02)
    w = torch.softmax(y[:, 0] @ c.attention.linear.weight.T + c.attention.linear.bias, -1)
    assert torch.allclose(c.speech_code(window), (w[..., None] * codes).sum(1), atol=1e-5)


def final_weights(folder):
    "What a run's last checkpoint holds of the portrait."
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


@pytest.mark.parametrize("last", [1, 3])
def test_resume_before_and_after_attention_starts(dnerf_home, last):
    """The attention's parameters are in the checkpoint from the start, without optimiser state.

    A run that is stopped and resumed ends with the weights of one that was not stopped.
    """
    toy = toy_subject(dnerf_home / "data" / "toy")

    def run(name):
        config = compose_config("paper", MLP + " portrait.attention_start=2 keep_last=true", subject="toy", steps=4, name=name)
        return train(toy, speech_of(toy), config, show=False)

    with stopping_at(last):
        run("resumed")
    early = torch.load(dnerf_home / "runs/toy/resumed/checkpoints/last.ckpt", weights_only=True)
    assert bool(early["state_dict"]["portrait.condition.smoothing"]) == (last == 3) and any("attention" in k for k in early["state_dict"])
    whole, resumed = (final_weights(run(name)) for name in ("whole", "resumed"))
    for k, v in whole.items():
        assert torch.allclose(v.float(), resumed[k].float(), atol=1e-6), k
    assert any(not torch.equal(early["state_dict"][k], v) for k, v in whole.items() if "attention" in k)


def has_gradients(module):
    "All of its parameters, or none."
    seen = {p.grad is not None for p in module.parameters()}
    assert len(seen) == 1
    return seen.pop()


def prepared(b, background):
    "A batch's colours with the background plate where there is no person, and where there is no head: AD-NeRF's two training pictures."
    target, mask = b.rgb.flatten(0, 1), b.mask.flatten()[:, None]
    return torch.where(mask == 0, background, target), torch.where(mask == 2, target, background)


def test_head_and_torso_picture_learn_apart(dnerf_home):
    "Preset `paper`: the head from the head's own picture, the torso from the whole with the head held still."
    toy = toy_subject(dnerf_home / "data" / "toy")
    portrait, config = small_portrait(toy, "paper")
    b = RayBatches(toy, speech_of(toy), config).batch(1)
    out = portrait(b.cue, b.pixels)
    terms = portrait.recipe.terms(out, b, LossWeights())
    wall = torch.tensor([90, 120, 150]) / 255                                                         # of the toy
    whole, head = prepared(b, wall)
    coarse, fine = (layer.rgb + (1 - layer.acc)[:, None] * wall for layer in out.head)
    for name, image, truth in (("colour", out.rgb, whole), ("alone", fine, head), ("alone_coarse", coarse, head)):
        assert terms[name].item() == pytest.approx(((image - truth) ** 2).mean().item(), rel=1e-5)
    (terms["alone"] + terms["alone_coarse"]).backward(retain_graph=True)
    audio = portrait.condition.audio
    assert has_gradients(portrait.head) and has_gradients(audio) and not has_gradients(portrait.torso)
    portrait.zero_grad()
    terms["colour"].backward()
    assert not has_gradients(portrait.head) and not has_gradients(audio) and portrait.torso.template.grad is not None


def test_baseline_has_two_stages(dnerf_home):
    """Preset `adnerf`: first the head on 2048 rays around it, then the torso on 1024 of the whole frame.

    The learning rate of the torso starts anew and falls over 750,000 steps.
    """
    toy = toy_subject(dnerf_home / "data" / "toy", size=64)
    portrait, config = small_portrait(toy, "adnerf", steps=10)
    full = compose_config("adnerf")
    assert (full.data.rays, full.data.torso_rays, full.data.head) == (2048, 1024, 0.95)
    assert (full.optim.torso_decay_steps, full.optim.mask, full.audio) == (750_000, 0.0, "deepspeech")
    config.data.torso_rays, config.data.rays = 48, 96
    module, _ = module_for(portrait, config)
    b = RayBatches(toy, speech_of(toy), config).batch(1)
    places = RayBatches(toy, speech_of(toy), full).batch(0).pixels[0, 2048:].float()
    assert len(places) == 1024                                                      # spread evenly over the frame: its mean and deviation
    assert (places.mean(0) - 32).abs().max() < 2.5 and (places.std(0) - 64 / 12**0.5).abs().max() < 1.5
    whole, head = prepared(b, torch.tensor([90, 120, 150]) / 255)
    for begin, rays, truth in ((-1, slice(96), head), (4, slice(96, None), whole)):
        portrait.torso.begin.fill_(begin)
        part = module.rays(b)
        out = portrait(part.cue, part.pixels)
        terms = portrait.recipe.terms(out, part, LossWeights())
        for name, image in (("colour", out.rgb), ("coarse", out.coarse)):
            assert terms[name].item() == pytest.approx(((image - truth[rays]) ** 2).mean().item(), rel=1e-5)
        portrait.zero_grad()
        sum(terms.values()).backward()
        assert has_gradients(portrait.head) == has_gradients(portrait.condition.audio) == (begin < 0)
        assert has_gradients(portrait.torso) == (begin > 0) and not has_gradients(portrait.condition.attention)


def test_baseline_changes_stage_in_a_run(dnerf_home, monkeypatch):
    "At 40 % of the budget, once, also when it is resumed on either side; rates and attention as they should be."
    rates = {}
    ordinary = PortraitTraining.on_train_batch_start

    def watch(self, batch, batch_idx):
        ordinary(self, batch, batch_idx)
        rate, portrait = self.optimizers().param_groups[0]["lr"], self.portrait
        rates[self.global_step] = (rate, int(portrait.torso.begin), bool(portrait.condition.smoothing))

    monkeypatch.setattr(PortraitTraining, "on_train_batch_start", watch)
    toy = toy_subject(dnerf_home / "data" / "toy")
    overrides = MLP + " data.torso_rays=32 portrait.attention_start=6 optim.decay_steps=2 optim.torso_decay_steps=4 keep_last=true"

    def run(name):
        return train(toy, speech_of(toy), compose_config("adnerf", overrides, subject="toy", steps=10, name=name), show=False)

    ends = []
    for name, last in (("whole", 0), ("early", 2), ("late", 7)):
        if last:
            with stopping_at(last):
                run(name)
        ends.append(final_weights(run(name)))
        for step, (rate, begin, smoothing) in rates.items():
            assert begin == (4 if step >= 4 else -1) and not smoothing            # attention stays off once the head is no longer trained
            assert rate == pytest.approx(5e-4 * 0.1 ** ((step - 4) / 4 if step >= 4 else step / 2))
        rates.clear()
    for end in ends[1:]:
        assert all(torch.allclose(v.float(), end[k].float(), atol=1e-6) for k, v in ends[0].items())


def test_torso_stands_in_front_of_the_head(dnerf_home):
    "Final pixel = torso's foreground + its last weight x (head over background); the torso's camera is the first frame's."
    toy = toy_subject(dnerf_home / "data" / "toy")
    portrait, config = small_portrait(toy, "adnerf")
    torso = portrait.torso
    assert torch.equal(torso.pose, torch.from_numpy(np.array(toy.poses[0])))
    b = RayBatches(toy, speech_of(toy), config).batch(2)
    rays = camera_rays(torch.from_numpy(np.array(toy.poses[:1])), toy.focal, toy.size, b.pixels)
    with torch.no_grad():
        alone = portrait(b.cue, b.pixels).rgb
        torso.begin.fill_(0)
        out = portrait(b.cue, b.pixels)
        condition = torch.cat([portrait.condition.speech_code(b.cue.window), pose_code(b.cue.c2w)], -1).expand(len(alone), -1)
        rgb, acc = CoarseFine.layers(torso, rays, condition)[1]
    assert torch.allclose(out.rgb, rgb + (1 - acc)[:, None] * alone, atol=1e-6) and 0.05 < float(acc.mean()) < 0.99
    assert torch.allclose(acc, out.torso[-1].acc, atol=1e-6)


def test_baseline_learns_head_and_torso(dnerf_home):
    "After 120 steps on the toy the PSNR is over 5 dB above that of the background alone, and the torso's error is below 0.1."
    torch.set_num_threads(1)
    toy = keep_speech(toy_subject(dnerf_home / "data" / "toy"))
    wider = MLP + " field.width=48 data.rays=384 data.torso_rays=384 optim.lr_net=5e-3 checks=1 portrait.attention_start=20"
    run = load_run(train(toy, speech_of(toy), compose_config("adnerf", wider, subject="toy", audio="made", steps=120), show=False))
    i = toy.split("test")[0]
    (_, image), = render_frames(run, [i])
    truth, mask = toy.frames[i] / 255.0, toy.masks[i]

    def psnr(a):
        return -10 * math.log10(((a - truth) ** 2).mean())

    assert psnr(image) > psnr(toy.background / 255.0) + 5, (psnr(image), psnr(toy.background / 255.0))
    assert bool(run.portrait.condition.smoothing) and int(run.portrait.torso.begin) == 48 and abs(image - truth)[mask == TORSO].mean() < 0.1


def test_older_run_keeps_its_settings(dnerf_home):
    "A configuration saved before a setting existed is read with that setting's default."
    folder = dnerf_home / "runs" / "toy" / "old"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("subject: toy\nprecision: bf16-mixed\nfield:\n  kind: fast\n  width: 8\n"
                                        "portrait:\n  n_fine: 12\n  torso:\n    width: 24\n")
    config = read_config(folder)
    assert (config.portrait.n_fine, config.portrait.attention, config.portrait.torso.width) == (12, 0, 24)
    assert (config.trainer.devices, config.trainer.precision) == (1, "bf16-mixed")
    assert config.field.width == 8 and "precision" not in config and "defaults" not in config
