"""Settings: none is silently ignored, and every impossible value is one sentence before anything begins."""
import math
from dataclasses import fields, is_dataclass
from typing import get_type_hints

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dnerf.audio.speechsplit import SpeechSplitConfig, as_config
from dnerf.audio.speechsplit_training import TrainingOptions
from dnerf.cli import main
from dnerf.core import InputError
from dnerf.evaluation.benchmark import Numbers, chosen_numbers, chosen_parts
from dnerf.nerf.batches import RayBatches
from dnerf.nerf.config import Config, check_config, compose_config
from dnerf.nerf.field import FastFieldConfig, MLPFieldConfig
from dnerf.nerf.portrait import build_portrait, render_frame
from dnerf.settings import check_settings
from dnerf.subject import toy_subject
from toys import MLP, speech_of

# an override of a parameter that is not given: the setting, its value, and the name of the run
WINS = [("++seed=5", "seed", 5, "speechsplit-tiny"), ("audio=mel", "audio", "mel", "mel-tiny"), ("name=mine", "name", "mine", "mine"),
        ("subject=me", "subject", "me", "speechsplit-tiny"), ("preset=gpu audio=mel", "preset", "gpu", "mel-gpu"),
        ("+preset=cpu", "preset", "cpu", "whisper-cpu"), ("minutes=9", "steps", 0, "speechsplit-tiny")]


@pytest.mark.parametrize("override, key, value, name", WINS)
def test_an_override_of_what_is_not_given_wins(override, key, value, name):
    config = compose_config("auto" if "preset" in override else "tiny", override, seed=None, audio=None)
    assert config[key] == value and config.name == name


CONTRADICT = [("seed=5", dict(seed=0)), ("audio=mel", dict(audio="whisper")), ("minutes=1", dict(steps=7)), ("minutes=1 steps=7", {}),
              ("name=a", dict(name="b")), ("preset=gpu", dict(preset="cpu")), ("+seed=5", dict(seed=0)), ("size=64", {})]


@pytest.mark.parametrize("override, given", CONTRADICT)
def test_an_override_that_contradicts_is_refused(override, given):
    with pytest.raises(InputError, match="leave one of them out|Could not append|not a setting of the run") as e:
        compose_config(given.pop("preset", "tiny"), override, **given)
    assert "\n" not in str(e.value)


def test_what_says_the_same_twice_contradicts_nothing():
    given = dict(seed=5, audio="mel", steps=7, name="a")
    config = compose_config("tiny", "preset=tiny " + " ".join(f"{k}={v}" for k, v in given.items()), **given)
    assert {k: config[k] for k in given} == given


@pytest.mark.parametrize("words", [["train", "--"], ["train", "--", " "], ["table1", "--"]])
def test_a_separator_with_nothing_behind_it(dnerf_home, words, capsys):
    with pytest.raises(SystemExit) as e:
        main(words)
    assert e.value.code == 2 and "nothing comes after --" in capsys.readouterr().err and not (dnerf_home / "runs").exists()


def test_train_trains_what_its_overrides_say(dnerf_home, monkeypatch, capsys):
    "Training and measuring are stand-ins; what reaches them counts."
    import dnerf.evaluation.report as report
    import dnerf.api as api

    seen = []
    monkeypatch.setattr(api, "train_portrait", lambda person, embedding, config, named, show: seen.append((person.name, config, named)))
    monkeypatch.setattr(report, "evaluate_run", lambda run, measures: None)
    monkeypatch.setattr(report, "summary", lambda metrics, run: "")
    toy_subject(dnerf_home / "data" / "toy", n=22)
    toy_subject(dnerf_home / "data" / "other", n=22)
    words = ["audio=silence", "preset=tiny", "steps=2", "seed=5", "subject=toy"]
    assert main(["train", "--", *words]) == main(["train", "--", *words, "name=mine"]) == 0
    (name, config, named), (_, other, also) = seen
    assert (name, config.seed, config.steps, config.preset, config.name, named) == ("toy", 5, 2, "tiny", "silence-tiny", False)
    assert (other.name, also) == ("mine", True)
    for more, part in ((["--seed", "1"], "seed=5 contradicts seed=1"), (["--preset", "cpu"], "preset=tiny contradicts preset=cpu"),
                       (["other"], "subject=toy contradicts subject=other"), (["--size", "64"], "is prepared at 32 pixels, not at 64")):
        assert main(["train", *more, "--", *words]) == 1
        assert part in capsys.readouterr().err
    assert main(["train", "toy", "--", "audio=evil"]) == 1 and "'evil' is not available" in capsys.readouterr().err
    assert len(seen) == 2

VALUES = [-1, -0.5, 0, 10**15, 1e30, math.nan, math.inf, [], "text", None, True]


def leaves(kind, before=""):
    "Names of the fields of a dataclass and of those in it, with their metadata and type."
    hints = get_type_hints(kind)
    for f in fields(kind):
        if is_dataclass(hints[f.name]):
            yield from leaves(hints[f.name], f"{before}{f.name}.")
        elif f.name not in ("defaults", "config"):
            yield before + f.name, f, hints[f.name]


FIELDS = {name: (f, hint) for name, f, hint in leaves(Config) if name != "field"}
FIELDS |= {name: (f, hint) for name, f, hint in leaves(FastFieldConfig, "field.")}
MLP_FIELDS = {name: (f, hint) for name, f, hint in leaves(MLPFieldConfig, "field.")}


def test_every_number_has_a_rule():
    for kind in (Config, FastFieldConfig, MLPFieldConfig, SpeechSplitConfig, TrainingOptions):
        for name, f, hint in leaves(kind):
            assert hint in (bool, str) or f.metadata, f"{kind.__name__}.{name}: state its rule beside its default"


def tried(config, name, value):
    "Set one setting of a composed configuration, as an override would: '' if it is accepted, or the sentence of an `InputError`."
    try:
        OmegaConf.update(config, name, value)
        check_config(config)
    except OmegaConfBaseException as e:                      # `compose_config` makes a sentence of it
        return str(e)
    except InputError as e:
        assert ";" in str(e) and "\n" not in str(e), (name, value, e)
        return str(e)
    return ""


def test_every_setting_with_impossible_values():
    "Accepted with a valid configuration, or one sentence; never another exception."
    accepted = {}
    for base, names in ((compose_config("tiny"), FIELDS), (compose_config("paper"), MLP_FIELDS)):
        for name in names:
            now = OmegaConf.to_container(OmegaConf.create([OmegaConf.select(base, name)]))[0]
            for value in [*VALUES, [now], [[1]]]:
                if not tried(base, name, value):
                    check_settings(Config, OmegaConf.to_container(base), leave=("defaults",))
                    accepted.setdefault(name, []).append(value)
                OmegaConf.update(base, name, now)
    assert not [n for n, v in accepted.items() if {"nan", "inf", "1e+30"} & set(map(str, v)) and FIELDS[n][1] is not str]
    assert {"val_frames", "data.rays", "data.frames", "field.width", "field.resolutions", "optim.decay"}.isdisjoint(accepted)
    assert {"seed", "workers", "field.blends", "portrait.attention", "optim.lr_net", "portrait.mouth"} <= set(accepted)


IMPOSSIBLE = [
    "~data", "~seed", "+new=1", "++data.new=1", "field=null", "field=none", "field.kind=mlp", "=3", "-c job", "trainer.precision=evil",
    "data.rays=999999999999", "data.rays=9999999 data.frames=9999", "data.rays=???", "portrait.frame_samples=[1]", "name=${name}",
    "field.resolutions=[512,512] field.channels=[256,256]", "hydra.run.dir=/tmp", "device=meta", "field=mlp field.skip=7",
    "portrait.near=1",
    "seed=1,2", "data.patch=40", "preset=evil", "audio=../x"]


@pytest.mark.parametrize("overrides", IMPOSSIBLE)
def test_impossible_overrides(overrides):
    with pytest.raises(InputError) as e:
        compose_config("auto" if "preset" in overrides else "tiny", overrides)
    assert ";" in str(e.value) and "\n" not in str(e.value)


def test_accepted_values_build_a_portrait(dnerf_home):
    "The smallest whole number that a setting can be, for a few settings of both fields, drawn with a fixed seed."
    toy, rng = toy_subject(dnerf_home / "data" / "toy", n=44), np.random.default_rng(0)
    speech = speech_of(toy)
    for base, names in ((compose_config("tiny", "data.frames=2"), FIELDS), (compose_config("paper", f"{MLP} data.frames=2"), MLP_FIELDS)):
        sizes = [n for n, (_, hint) in names.items() if hint is int and n.startswith(("field.", "portrait.", "data."))]
        for name in rng.choice(sizes, 6, replace=False):
            now = OmegaConf.select(base, str(name))
            assert not all(tried(base, str(name), value) for value in (0, 1, 2))
            portrait = build_portrait(toy, base, 3).initialise(toy, speech)
            batch = RayBatches(toy, speech, base).batch(0)
            rendered = portrait(batch.cue, batch.pixels, torch.Generator().manual_seed(0))
            assert rendered.rgb.isfinite().all() and render_frame(portrait, batch.cue.at(0)).isfinite().all(), name
            OmegaConf.update(base, str(name), now)


def test_settings_of_speechsplit():
    def change(name, value):
        "A dictionary of changes, as `as_config` takes it."
        for part in reversed(name.split(".")):
            value = {part: value}
        return value

    for name, _, _ in leaves(SpeechSplitConfig):
        for value in [-1, 0, 10**15, math.nan, [], "text", None, [1]]:
            try:
                assert isinstance(as_config(change(name, value)), SpeechSplitConfig)
            except InputError as e:
                assert ";" in str(e) and "\n" not in str(e), (name, value)
    for given in (dict(steps=-1), dict(minutes=math.nan), dict(seed=-1), dict(steps=0), dict(save_every_s=math.inf), dict(minutes="soon")):
        with pytest.raises(InputError):
            TrainingOptions(**given).resolved()


@pytest.mark.parametrize("asked", [
    dict(seeds="-1"), dict(seeds="10000000000"), dict(seeds="\u00b2"), dict(seeds="0 4294967296"), dict(seeds="1.5"), dict(seeds=0),
    dict(rows="mel nothing"), dict(rows="+"), dict(steps="-1"), dict(minutes="nan"), dict(jobs="0"), dict(conditions="real")])
def test_impossible_tables_are_refused_before_a_subject_is_prepared(dnerf_home, asked, capsys):
    (dnerf_home / "data" / "me.mp4").touch()
    words = [w for k, v in asked.items() for w in ([f"--{k}={v}"])]
    assert main(["table1", "me", *words]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and ("me.mp4" not in err) and not (dnerf_home / "runs").exists()


def test_impossible_benchmarks():
    for wrong in ("", "1 x", "nan", "-1", "0", "1e9"):
        with pytest.raises(InputError, match="no list of numbers from 1 to 100"):
            chosen_numbers("sizes", wrong, 1, 100)
    with pytest.raises(InputError, match="no part"):
        chosen_parts("")
    for wrong in (dict(threads=-1), dict(rounds=0), dict(factor=0), dict(memory_size=0), dict(speech_seconds=math.nan)):
        with pytest.raises(InputError, match="not a"):
            check_settings(Numbers, vars(Numbers()) | wrong)
