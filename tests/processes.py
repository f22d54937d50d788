"""Python processes that tests start."""
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def run(*args, cwd=ROOT, **env) -> str:
    "Output of a Python process with this interpreter; a failure shows what it printed."
    env = {k: v for k, v in os.environ.items() if k != "IN_TEST"} | env
    done = subprocess.run([sys.executable, *map(str, args)], cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run_with_tests(*args) -> str:
    "The same with the modules of `tests/` within reach."
    return run(*args, PYTHONPATH=os.pathsep.join([str(ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])]))


def folder_of(name):
    "A folder in `data/`, one of many jobs; one name kills its process."
    from dnerf.core import data_dir

    if name == "kills":
        os._exit(9)
    (data_dir() / name).mkdir()
    return data_dir() / name


def probed(video, note):
    "What `prepare` asks of a video first, and a file instead of a subject: one of many jobs."
    from dnerf.core import InputError, data_dir
    from dnerf.subject import subject_name
    from dnerf.video.media import probe

    if not probe(Path(video)).has_audio:
        raise InputError(f"{video} has no sound")
    return (data_dir() / subject_name(video)).write_text(note)
