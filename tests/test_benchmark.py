"""The benchmark notebook in reduced form: its parts one after the other, their numbers in one file. No test asserts a time."""
import json
import sys

import numpy as np
import pytest

from dnerf.audio.mel import synthetic_speech
from dnerf.core import InputError
from dnerf.evaluation.processes import scaling, training_memory
from dnerf.subject import toy_subject, write_wav
from notebooks import execute
from toys import MLP

# The benchmark is of the presets `cpu` and `paper`: these in the sizes of `tiny`.
CPU = ("field=fast_tiny portrait.torso.resolutions=[8] portrait.torso.channels=[4] data.frames=4 data.rays=64 "
       "val_frames=2 val_rays=16")
PAPER = f"{MLP} data.rays=40 val_frames=2 val_rays=16"


def toy_with_speech(home, n=88):
    toy = toy_subject(home / "data" / "toy", n=n)
    write_wav(toy.folder / "audio.wav", synthetic_speech(n / 25)[0])
    return toy


def test_parts_meet_in_one_file(dnerf_home):
    toy_with_speech(dnerf_home)
    folder = dnerf_home / "runs" / "benchmark"
    folder.mkdir(parents=True)
    (folder / "toy.json").write_text(json.dumps({"e": {"ratio": 1.5, "cores": 2}, "a": {"ratio": -1}}))
    printed = execute("benchmark", subject="toy", audio="mel", parts="a b c h", rounds=2,
                      paper_minutes=0.03, cpu_minutes=0.03, start_minutes=0.02, sizes="16 32", factor=2,
                      film_seconds=0.5, live_size=32, live_minutes=0.05,
                      paper_overrides=PAPER, cpu_overrides=CPU)
    results = json.loads((folder / "toy.json").read_text())
    assert sorted(results) == ["a", "a_float32", "a_trained", "a_trained_float32", "b", "c", "e", "h"]
    assert results["e"]["ratio"] == 1.5            # a part that was there and not asked for is kept
    a, b, c = (results[k] for k in "abc")
    assert a["ratio"] > 0 and abs(a["first"]["plain"] - a["first"]["ours"]) < 1e-5
    assert a["rays"] == 40 and len(a["seconds"]["plain"]) == 2 and a["precision"] in ("32-true", "bf16-mixed")
    assert results["a_trained_float32"]["precision"] == results["a_float32"]["precision"] == "32-true"
    assert all(len(curve["seconds"]) and np.isfinite(curve["value"]).all() for curve in b["curves"].values())
    assert sorted(b["curves"]) == ["cpu", "paper", "start"] and b["target"] == max(b["curves"]["paper"]["value"])
    assert sorted(b["rays_per_second"]) == ["cpu", "paper"] and {"ratio", "at_least"} <= set(b)
    assert sorted(c["frames_per_second"]) == ["16", "32"] and c["length"]["factor"] == 2 and c["run"] == "benchmark-cpu"
    assert len(results["h"]["film"]["times"]) == 3 and len(results["h"]["live"]["delay"]) == 3
    assert sorted(p.name for p in folder.iterdir()) == ["film", "toy-frames.png", "toy-psnr.png", "toy.json"]
    runs = sorted(p.name for p in (dnerf_home / "runs" / "toy").iterdir() if not p.name.startswith("."))
    assert runs == ["benchmark-cpu", "benchmark-cpu-start", "benchmark-paper"]
    assert f"results: {folder / 'toy.json'} and the pictures beside it" in printed


def test_a_part_that_does_not_exist_is_refused(dnerf_home):
    toy_subject(dnerf_home / "data" / "toy")
    with pytest.raises(InputError, match="no part z; its parts are speech, a"):
        execute("benchmark", subject="toy", parts="a z")
    assert not (dnerf_home / "runs").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux gives the resident memory of a process")
def test_memory_and_scaling_of_processes(dnerf_home):
    "Both in processes of their own, which leave nothing behind."
    toy = toy_subject(dnerf_home / "data" / "toy")
    speech = np.random.default_rng(0).normal(size=(44, 16, 3)).astype(np.float32)
    (toy.folder / "embeddings").mkdir()
    np.save(toy.folder / "embeddings" / "made.npy", speech)
    seen = training_memory(toy, speech, "made", 0.1, dnerf_home, size=48, steps=3, overrides=CPU)
    assert seen["peak"] > 100 and seen["peak"] < seen["anonymous"] + seen["file"] + 200 and seen["size"] == 48
    both = scaling(toy, "made", dnerf_home, 0.02, overrides=CPU)
    assert sorted(both["rays_per_second"]) == ["1", "2"] and both["ratio"] > 0
    assert [p.name for p in dnerf_home.iterdir()] == ["data"]
