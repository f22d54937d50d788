"""Run the notebooks of the section "Run it" on the bundled demo subject and store their outputs, made small, in nbs/.

`pages.py [NAME ...]` runs those of PAGES that are named, or all, in their order, by papermill. Data and runs are in DNERF_HOME or, if it is
not set, in runs/pages. Text and pictures are kept, the pictures reduced in size and colours, and films with
their sound, where the notebook stays small; progress bars, warnings, the state of widgets and the paths of this machine are removed.
"""
import base64
import io
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
PAGES = {  # in order; to each the parameters that differ from the notebook's
    "prepare": {},
    "train": {"preset": "cpu", "steps": 650},
    "evaluate": {},
    "drive": {},
    "viewer": {},
    "control": {},
    "tutorials/video_to_portrait": {},
}
# Runs of other settings that a page shows: arguments of `dnerf`.
FIRST = {"control": ["train", "demo", "--audio", "speechsplit", "--preset", "cpu", "--steps", "650"]}
SIZES = ((640, 85), (560, 80), (480, 75), (400, 70))  # width in pixels and JPEG quality of pictures: the first with which the notebook fits
BYTES = 290_000  # of a notebook
KEPT = ("text/html", "text/markdown", "text/plain", "image/png")  # without the state of a widget


def execute(name: str, home: Path) -> list:
    "The cells of the executed notebook."
    out = home / "runs" / "notebooks" / f"{Path(name).name}-page.ipynb"
    out.parent.mkdir(parents=True, exist_ok=True)
    parameters = [word for key, value in PAGES[name].items() for word in ("-p", key, str(value))]
    papermill = [sys.executable, "-m", "papermill", "--log-output", "--no-progress-bar"]
    environment = os.environ | {"DNERF_HOME": str(home)}
    if name in FIRST:
        subprocess.run([sys.executable, "-m", "dnerf.cli", *FIRST[name]], check=True, cwd=home, env=environment)
    subprocess.run([*papermill, str(ROOT / "nbs" / f"{name}.ipynb"), str(out), *parameters], check=True, cwd=home, env=environment)
    return json.loads(out.read_text(encoding="utf-8"))["cells"]


def smaller(png: str, width: int, quality: int) -> dict:
    "A picture at most so many pixels wide, in base64: a PNG with a palette or a JPEG, which is smaller for pictures of faces."
    image = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    if image.width > width:
        image = image.resize((width, round(image.height * width / image.width)), Image.Resampling.LANCZOS)
    palette, photo = io.BytesIO(), io.BytesIO()
    image.quantize(128, dither=Image.Dither.NONE).save(palette, "PNG", optimize=True)
    image.save(photo, "JPEG", quality=quality, optimize=True)
    kind, file = min(("image/png", palette), ("image/jpeg", photo), key=lambda pair: len(pair[1].getvalue()))
    return {kind: base64.b64encode(file.getvalue()).decode()}


def without_folders(text: str, home: Path) -> str:
    "Paths relative to the folder of data and runs, and to the user's own; without what is said of the speed of this machine."
    text = re.sub(r"(?m)^(rendered at .* frames/s .*|.* once per installation)\n", "", text)
    text = re.sub(r"; rendering takes about [^,\n]*", "", text)
    return text.replace(f"{home}/", "").replace(str(Path.home()), "~")


def stored(output: dict, home: Path, size: tuple, films: bool):
    "An output as it is stored in git, or None."
    if output["output_type"] == "stream":
        text = without_folders("".join(output["text"]), home)
        return output | {"text": text.splitlines(True)} if output["name"] == "stdout" else None
    data = {kind: "".join(output["data"][kind]) for kind in KEPT if kind in output["data"]}
    if "<video" in data.get("text/html", "") and not films:
        return None
    if "image/png" in data:
        data = smaller(data["image/png"], *size) | {"text/plain": "<picture>"}
    lines = {kind: without_folders(text, home).splitlines(True) for kind, text in data.items() if kind.startswith("text/")}
    shown = output | {"data": data | lines, "metadata": {}}
    return shown | {"execution_count": None} if "execution_count" in shown else shown


def joined(outputs: list) -> list:
    "Outputs, with lines that were printed one after the other in one."
    out = []
    for output in outputs:
        if out and output["output_type"] == out[-1]["output_type"] == "stream":
            out[-1]["text"] += output["text"]
        else:
            out.append(output)
    return out


def page(notebook: dict, outputs: dict, home: Path, size: tuple, films: bool) -> str:
    "The file of a notebook with the outputs of an executed one, by the ids of its cells."
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            kept = [stored(output, home, size, films) for output in outputs[cell["id"]]]
            cell |= {"outputs": joined([output for output in kept if output]), "execution_count": None}
    return json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def refresh(name: str, home: Path) -> None:
    "Run a notebook and put its outputs into the one in nbs/."
    path = ROOT / "nbs" / f"{name}.ipynb"
    outputs = {cell["id"]: cell["outputs"] for cell in execute(name, home) if cell["cell_type"] == "code"}
    notebook = json.loads(path.read_text(encoding="utf-8"))
    tries = itertools.product((True, False), SIZES)  # with films, with smaller pictures, and at last without films
    fitting = (text for films, size in tries if len((text := page(notebook, outputs, home, size, films)).encode()) < BYTES)
    text = next(fitting, None)
    if text is None or any(folder in text for folder in (str(home), f"{Path.home()}/")):
        sys.exit(f"nbs/{path.name} would be over {BYTES // 1000} kB or name a folder of this machine; it was left as it is")
    path.write_text(text, encoding="utf-8")
    print(f"nbs/{name}.ipynb: {len(text.encode()) // 1000} kB")


def main() -> None:
    names = sys.argv[1:] or list(PAGES)
    if not set(names) <= set(PAGES):
        sys.exit(f"the pages are {', '.join(PAGES)}")
    home = Path(os.environ.get("DNERF_HOME") or ROOT / "runs" / "pages").expanduser().resolve()
    home.mkdir(parents=True, exist_ok=True)
    for name in PAGES:
        if name in names:
            refresh(name, home)


if __name__ == "__main__":
    main()
