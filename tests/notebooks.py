"""Notebooks of the repository, run as a user would run them."""
import os
import subprocess
import sys
from pathlib import Path

NBS = Path(__file__).resolve().parents[1] / "nbs"


def papermill(notebook, out, **parameters):
    "Run nbs/<notebook>.ipynb with parameters; the finished process."
    args = [a for k, v in parameters.items() for a in ("-p", k, str(v))]
    command = [sys.executable, "-m", "papermill", str(NBS / f"{notebook}.ipynb"), str(out), *args, "--log-output", "--no-progress-bar"]
    environment = {k: v for k, v in os.environ.items() if k != "IN_TEST"}
    return subprocess.run(command, capture_output=True, text=True, cwd=out.parent, env=environment)
