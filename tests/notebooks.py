"""Notebooks of the repository, run as a user would run them."""
import os
import subprocess
import sys
from pathlib import Path

import nbformat
from papermill import execute_notebook
from papermill.engines import Engine, papermill_engines

NBS = Path(__file__).resolve().parents[1] / "nbs"


def papermill(notebook, out, **parameters):
    "Run nbs/<notebook>.ipynb with parameters; the finished process."
    args = [a for k, v in parameters.items() for a in ("-p", k, str(v))]
    command = [sys.executable, "-m", "papermill", str(NBS / f"{notebook}.ipynb"), str(out), *args, "--log-output", "--no-progress-bar"]
    environment = {k: v for k, v in os.environ.items() if k != "IN_TEST"}
    return subprocess.run(command, capture_output=True, text=True, cwd=out.parent, env=environment)


class ThisProcess(Engine):
    "An engine of papermill without a kernel: the cells run here, where the libraries are loaded and a test can replace a long step."

    @classmethod
    def execute_managed_notebook(cls, nb_man, kernel_name, **kwargs):
        from execnb.shell import CaptureShell

        shell = CaptureShell()
        for cell in nb_man.nb.cells:
            if cell.cell_type == "code":
                cell.outputs = [nbformat.from_dict(output) for output in shell.run(cell.source)]
                if shell.exc:
                    raise shell.exc


papermill_engines.register("this process", ThisProcess)


def execute(notebook, **parameters):
    "Run nbs/<notebook>.ipynb by papermill in this process; the lines that its last cell prints. Its errors are raised."
    options = dict(engine_name="this process", kernel_name="python3", progress_bar=False)
    cells = execute_notebook(NBS / f"{notebook}.ipynb", None, parameters, **options).cells
    assert any("injected-parameters" in cell.metadata.get("tags", []) for cell in cells) or not parameters
    last = [cell for cell in cells if cell.cell_type == "code"][-1]
    return "".join("".join(output.text) for output in last.outputs if output.output_type == "stream").splitlines()
