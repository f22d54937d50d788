"""Settings: none is silently ignored, and every impossible value is one sentence before anything begins."""
import pytest

from dnerf.cli import main
from dnerf.core import InputError
from dnerf.nerf.config import compose_config
from dnerf.subject import toy_subject

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


@pytest.mark.parametrize("words, part", [
    (["train", "--"], "nothing comes after --"), (["train", "--", " "], "nothing comes after --"),
    (["table1", "--"], "nothing comes after --")])
def test_a_separator_with_nothing_behind_it(dnerf_home, words, part, capsys):
    with pytest.raises(SystemExit) as e:
        main(words)
    assert e.value.code == 2 and part in capsys.readouterr().err and not (dnerf_home / "runs").exists()


def test_train_trains_what_its_overrides_say(dnerf_home, monkeypatch, capsys):
    "Training and measuring are stand-ins; what reaches them counts."
    import dnerf.evaluation.report as report
    import dnerf.nerf.training as training

    seen = []
    monkeypatch.setattr(training, "train", lambda person, embedding, config, named: seen.append((person.name, config, named)))
    monkeypatch.setattr(report, "evaluate_run", lambda run, measures: None)
    monkeypatch.setattr(report, "summary", lambda metrics, run: "")
    toy_subject(dnerf_home / "data" / "toy", n=22)
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
