"""Where the curves of a training go: the choice by name, what is missing or fails, and a run that is killed and goes on.

W&B and MLflow are tried for real where they are installed, in their offline forms.
"""
import csv
import importlib.util
import json

import pytest
from lightning.pytorch.loggers import Logger
from omegaconf import OmegaConf

from dnerf.core import InputError, MissingError
from dnerf.nerf import loggers, training
from dnerf.nerf.config import LOGGERS, compose_config
from dnerf.nerf.run import load_run
from dnerf.nerf.training import train
from dnerf.subject import toy_subject
from toys import keep_speech, stopping_at


@pytest.fixture
def toy(dnerf_home, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("WANDB_DIR", raising=False)
    return keep_speech(toy_subject(dnerf_home / "data" / "toy"))


def run(toy, overrides="", name="a", steps=6):
    config = compose_config("tiny", f"data.frames=3 checks=2 {overrides}", subject="toy", audio="made", steps=steps, name=name)
    return train(toy, toy.embedding("made"), config, show=False)


def stopped(toy, *args, at=4, **more):
    with stopping_at(at):
        run(toy, *args, **more)


def rows(folder):
    with open(folder / "metrics.csv", newline="") as f:
        return list(csv.DictReader(f))


class Recording(Logger):
    "A service of somebody's, which fails when it is told to."
    name, version = "recording", "id-1"

    def __init__(self, fails=()):
        super().__init__()
        self.fails, self.steps, self.params, self.ended = fails, [], None, ""

    def _may(self, what):
        if what in self.fails:
            raise ConnectionError(f"{what}: the server is gone\nsecond line")

    @property
    def experiment(self):
        self._may("experiment")

    def log_metrics(self, metrics, step=None):
        self._may("metrics")
        self.steps.append(step)

    def log_hyperparams(self, params):
        self.params = params

    def log_image(self, name, images, step):
        self._may("image")
        assert images[0].ndim == 3

    def finalize(self, status):
        self._may("finalize")
        self.ended = status


@pytest.fixture
def service(monkeypatch):
    "Makes trainings use a `Recording` in place of W&B."
    def use(**fails):
        made = Recording(**fails)
        monkeypatch.setattr(training, "make_logger", lambda config, folder: loggers.Service("wandb", made))
        return made
    return use


def test_the_choice_is_typed_and_named():
    for kind in ("tensorboard", "csv"):
        assert compose_config("tiny", f"logger={kind}").logger.kind == kind
    assert {compose_config(preset).logger.kind for preset in ("cpu", "gpu", "paper", "adnerf", "tiny")} == {"tensorboard"}
    assert compose_config("tiny", "logger.project=faces").logger.project == "faces"
    for overrides, words in (("logger=tensorbord", "logger/tensorbord"), ("logger.kind=print", "kind"),
                             ("logger.projct=a", "did you mean logger.project"), ("logger.project=" + "a" * 101, "logger.project")):
        with pytest.raises(InputError, match=words) as e:
            compose_config("tiny", overrides)
        assert "\n" not in str(e.value)


@pytest.mark.parametrize("kind", [kind for kind in LOGGERS if kind != "csv"])
def test_a_package_that_is_not_installed_is_named_before_anything_begins(monkeypatch, dnerf_home, kind):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingError, match=f"logger={kind} needs the package .*pip install .*or train with logger=csv") as e:
        compose_config("tiny", f"logger={kind}")
    assert "\n" not in str(e.value) and not (dnerf_home / "runs").exists()
    assert compose_config("tiny", "logger=csv").logger.kind == "csv"


def test_csv_alone_writes_no_other_curves(toy):
    folder = run(toy, "logger=csv")
    assert not (folder / "tensorboard").exists() and [row["step"] for row in rows(folder)][-1] == "6"


def test_the_logger_is_no_part_of_the_experiment(toy):
    "A run that was begun with one logger goes on with another, and its configuration says the newer one."
    stopped(toy, "logger=csv")
    folder = run(toy, "logger=tensorboard")
    assert folder.name == "a" and OmegaConf.load(folder / "config.yaml").logger.kind == "tensorboard"
    steps = [int(row["step"]) for row in rows(folder)]
    assert steps == sorted(set(steps)) and steps[-1] == 6
    assert list((folder / "tensorboard").glob("events*"))


def test_runs_of_earlier_versions_have_no_such_setting(toy):
    folder = run(toy, "logger=csv")
    config = OmegaConf.load(folder / "config.yaml")
    del config["logger"]
    OmegaConf.save(config, folder / "config.yaml")
    assert load_run("toy/a").config.logger.kind == "tensorboard"
    assert run(toy) == folder


def test_a_service_gets_rows_settings_and_the_end(toy, service):
    made = service()
    folder = run(toy)
    assert made.steps == [int(row["step"]) for row in rows(folder)] and made.params["name"] == "a" and made.ended == "success"
    assert json.loads((folder / "logger.json").read_text()) == dict(kind="wandb", id="id-1")


@pytest.mark.parametrize("what", ["metrics", "image", "finalize"])
def test_a_service_that_fails_later_ends_no_training(toy, service, capsys, what):
    service(fails=[what])
    failed = load_run(run(toy))
    said = capsys.readouterr().out
    assert said.count("the logger wandb has failed") == 1 and f"ConnectionError: {what}: the server is gone)" in said
    assert [row["step"] for row in rows(failed.folder)][-1] == "6" and failed.state["steps"] == 6


def test_a_service_that_cannot_begin_is_one_sentence(toy, service, dnerf_home):
    service(fails=["experiment"])
    words = "logger=wandb cannot be used .*the server is gone.*WANDB_MODE=offline, or train with logger=csv"
    with pytest.raises(InputError, match=words) as e:
        run(toy)
    assert "\n" not in str(e.value) and not (dnerf_home / "runs" / "toy" / "a" / "metrics.csv").exists()
    service()
    assert run(toy).name == "a"


def test_wandb_offline(toy, dnerf_home, monkeypatch):
    "Killed and continued: two sessions of one run of W&B, whose files and links are not in ours."
    pytest.importorskip("wandb", reason="wandb is not installed: pip install -e '.[wandb]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    stopped(toy, "logger=wandb")
    folder = run(toy, "logger=wandb")
    name = json.loads((folder / "logger.json").read_text())["id"]
    sessions = {p.name.rsplit("-", 1)[1] for p in (dnerf_home / "wandb").glob("offline-run-*")}
    assert sessions == {name} and not (folder / "wandb").exists()
    assert list((dnerf_home / "wandb").glob("offline-run-*/files/media/images/val/render_*.png"))
    assert load_run("toy/a").state["steps"] == 6


def test_mlflow_with_a_file_on_this_machine(toy, dnerf_home, monkeypatch):
    "Killed and continued: one run with all rows, settings and pictures."
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed: pip install -e '.[mlflow]'")
    monkeypatch.chdir(dnerf_home)  # where MLflow makes an empty folder
    stopped(toy, "logger=mlflow logger.project=faces")
    folder = run(toy, "logger=mlflow logger.project=faces")
    client = mlflow.tracking.MlflowClient(f"sqlite:///{dnerf_home / 'mlflow.db'}")
    [found] = client.search_runs([client.get_experiment_by_name("faces").experiment_id])
    assert found.info.run_id == json.loads((folder / "logger.json").read_text())["id"] and found.info.status == "FINISHED"
    assert found.info.run_name == "toy/a" and found.data.params["steps"] == "6"
    steps = [m.step for m in client.get_metric_history(found.info.run_id, "train/loss")]
    assert steps[-1] == 6 and {int(row["step"]) for row in rows(folder)} <= {*steps}
    assert list((dnerf_home / "mlartifacts").rglob("render_*.png"))
