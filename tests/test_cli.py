"""The command `dnerf`: the parameters of the notebooks, a whole round on a tiny run, wrong usage, Ctrl-C, and the doctor."""
import ast
import inspect
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dnerf.audio.mel import synthetic_speech
from dnerf.cli import VERBS, main
from dnerf.core import locked
from dnerf.nerf.places import PARTS_OF_A_RUN
from dnerf.subject import toy_subject, write_wav
from dnerf.video.media import probe
from toys import copied_home

NBS = Path(__file__).resolve().parents[1] / "nbs"


def shell(home: Path, *words, **kwargs):
    "Arguments of a process that runs the command in a project of its own."
    env = {k: v for k, v in os.environ.items() if k != "IN_TEST"} | {"DNERF_HOME": str(home)}
    args = [sys.executable, "-m", "dnerf", *map(str, words)]
    return dict(args=args, env=env, cwd=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kwargs)


def dnerf(home: Path, *words):
    "The finished process."
    return subprocess.run(**shell(home, *words))


def parameters(notebook: str) -> dict:
    "Names and defaults in the cell of a notebook that is tagged `parameters`."
    cells = json.loads((NBS / f"{notebook}.ipynb").read_text(encoding="utf-8"))["cells"]
    (cell,) = [c for c in cells if "parameters" in c["metadata"].get("tags", [])]
    return {a.targets[0].id: ast.literal_eval(a.value) for a in ast.parse("".join(cell["source"])).body}


@pytest.mark.parametrize("verb", [v for v in VERBS if (NBS / f"{v}.ipynb").is_file()])
def test_a_verb_has_the_parameters_of_its_notebook(verb):
    found = {p.name: p.default for p in inspect.signature(VERBS[verb]).parameters.values()}
    assert found == parameters(verb)
    assert {k: type(v) for k, v in found.items()} == {k: type(v) for k, v in parameters(verb).items()}     # 1 is not True


def test_threads_are_told_to_wait_briefly_in_time(tmp_path):
    "OpenMP reads its setting when PyTorch is loaded: `main` must come before."
    (tmp_path / "program.py").write_text(
        "import os, sys, dnerf.cli as cli\n"
        "def doctor(\n    json:bool=False, # Not used\n): print(os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules)\n"
        "cli.VERBS['doctor'] = doctor\n"
        "cli.main(['doctor'])\n")
    for given, said in ((None, "5000 False"), ("70", "70 False")):
        env = {k: v for k, v in os.environ.items() if k != "GOMP_SPINCOUNT"} | ({"GOMP_SPINCOUNT": given} if given else {})
        done = subprocess.run([sys.executable, "program.py"], env=env, cwd=tmp_path, capture_output=True, text=True)
        assert done.stdout.strip() == said


def test_help_is_there_without_torch():
    code = ("import sys, dnerf.cli\n"
            "for words in (['--help'], ['train', '--help'], ['drive', '--help'], ['--version']):\n"
            "    try: dnerf.cli.main(words)\n"
            "    except SystemExit as e: assert e.code == 0\n"
            "heavy = {'torch', 'numpy', 'librosa', 'matplotlib', 'mediapipe', 'cv2', 'av', 'IPython'}\n"
            "print(sorted(heavy & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == "[]" and lines[-2].startswith("dnerf ")
    assert all(f"dnerf {verb}" in done.stdout for verb in VERBS)


REFUSED = [
    "drive nobody x.wav", "drive me gone.wav", "drive gone.portrait x.wav", "drive me .", "live nobody", "live me --speech gone.wav",
    "train nobody", "train gone.mp4", "train ./gone.mp4", "train me --video gone.mp4", "prepare gone.mp4", "evaluate nobody", "open nobody",
    "pack nobody", "compare me nobody", "rm nobody", "rm me/nobody", "table1 nobody", "train nobody --audio mel"]


def test_a_wrong_name_is_refused_before_large_libraries_are_loaded(dnerf_home):
    "A run whose files are there and empty, which is enough for its name."
    for part in PARTS_OF_A_RUN:
        (dnerf_home / "runs" / "me" / "first" / part).parent.mkdir(parents=True, exist_ok=True)
        (dnerf_home / "runs" / "me" / "first" / part).touch()
    code = ("import sys, dnerf.cli\n"
            "heavy = {'torch', 'lightning', 'mediapipe', 'cv2', 'scipy', 'librosa', 'matplotlib', 'hydra', 'omegaconf', 'IPython'}\n"
            "for words in sys.argv[1:]:\n"
            "    print(dnerf.cli.main(words.split()), sorted(heavy & set(sys.modules)), words)")
    done = subprocess.run([sys.executable, "-c", code, *REFUSED], capture_output=True, text=True, cwd=dnerf_home)
    assert done.stdout.splitlines() == [f"1 [] {words}" for words in REFUSED], done.stderr
    assert done.stderr.count("\n") == len(REFUSED) and done.stderr.count("dnerf: ") == len(REFUSED)


@pytest.mark.parametrize("verb", VERBS)
def test_help_has_examples_that_are_understood(verb, capsys):
    import shlex

    from dnerf.cli import EXAMPLES, parse_command

    with pytest.raises(SystemExit) as e:
        main([verb, "--help"])
    text = capsys.readouterr().out
    assert e.value.code == 0 and "examples:" in text
    named = [name for name in inspect.signature(VERBS[verb]).parameters if name != "overrides"]
    assert all(f"--{name}" in text or name.upper() in text for name in named)
    for line in EXAMPLES[verb]:
        assert line in text and parse_command(shlex.split(line)[1:])[0] == verb


@pytest.mark.parametrize("words, part", [
    ([], "examples:"),
    (["fly"], "no verb 'fly'; the verbs are prepare, train, drive, live, app, evaluate, table1, "),
    (["rm"], "required: NAME"),
    (["--fly"], "--fly"),
    (["train", "--fly", "1"], "--fly"),
    (["train", "--minutes", "many"], "'many'"),
    (["train", "--steps", "1.5"], "'1.5'"),
    (["train", "--steps"], "expected one argument"),
    (["train", "demo", "x=1"], "x=1"),
    (["evaluate", "a/b", "c/d"], "c/d"),
    (["drive", "a/b", "c.wav", "--", "x=1"], "takes no overrides"),
    (["prepare", "a.mp4", "--si", "64"], "--si"),
    (["doctor", "all"], "all")])
def test_wrong_usage(words, part, capsys):
    with pytest.raises(SystemExit) as e:
        main(words)
    out, err = capsys.readouterr()
    assert e.value.code == 2 and out == "" and part in err and "usage: dnerf" in err


@pytest.mark.parametrize("words, part", [
    (["train", "nobody", "--audio", "mel"], "prepared are: toy"),
    (["train", "toy", "--audio", "noise"], "noise"),
    (["train", "../toy"], "there is no video ../toy; give the path of one, or the name of a subject (prepared are: toy)"),
    (["train", "toy.MP4", "--audio", "mel"], "give the path of the video, or the subject's name, 'toy'"),
    (["train", "Toyy", "--audio", "mel"], "did you mean toy?"),
    (["train", "toy", "--name", "größe"], "for example 'first'"),
    (["drive", "toy", "hello.wav"], "no trained run of 'toy' yet; dnerf train toy makes one"),
    (["drive", __file__, "toy"], "is a file, not a trained run; give the run first, then the speech"),
    (["train", "toy", "--steps", "-3"], "the setting steps is -3, not a whole number"),
    (["train", "toy", "--", "data.rayz=1"], "rayz"),
    (["train", "toy", "--preset", "tpu"], "the presets are"),
    (["drive", "toy/nobody", "hello.wav"], "no trained run 'toy/nobody'; known are: none yet"),
    (["evaluate", "toy/nobody"], "no trained run 'toy/nobody'; known are: none yet"),
    (["prepare", "gone.mp4"], "gone.mp4"),
    (["table1", "toy", "--seeds", "few"], "'few' are no seeds")])
def test_what_a_person_can_mend_is_one_sentence(dnerf_home, words, part, capsys):
    toy_subject(dnerf_home / "data" / "toy", n=22)
    assert main(words) == 1
    err = capsys.readouterr().err
    assert part in err and err.startswith("dnerf: ") and err.count("\n") == 1
    assert main([*words[:2], "--debug", *words[2:]]) == 1
    err = capsys.readouterr().err
    assert err.startswith("Traceback") and part in err.splitlines()[-1]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    "A project with a subject that speaks, and a second of other speech."
    home = tmp_path_factory.mktemp("project")
    toy = toy_subject(home / "data" / "toy", n=88)
    write_wav(toy.folder / "audio.wav", synthetic_speech(88 / 25)[0])
    write_wav(home / "hello.wav", synthetic_speech(1.0, seed=3)[0])
    return home


@pytest.fixture(scope="module")
def trained(project):
    "What `dnerf train` says."
    return dnerf(project, "train", "toy", "--audio", "mel", "--steps", 3, "--preset", "tiny", "--name", "small")


def test_train(project, trained):
    run = project / "runs" / "toy" / "small"
    assert trained.returncode == 0, trained.stderr
    assert "video: runs/toy/small/video.mp4" in trained.stdout.splitlines()[-1]
    assert probe(run / "video.mp4").audio_codec == "aac"
    config = (run / "config.yaml").read_text()
    assert "steps: 3" in config and "rays: 64" in config and "audio: mel" in config


def test_drive(project, trained):
    done = dnerf(project, "drive", "toy/small", "--out", "said.mp4", "hello.wav", "--size", 48)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "the video is said.mp4"
    info = probe(project / "said.mp4")
    assert (info.n_frames, info.width, info.audio_codec) == (25, 48, "aac")


def test_evaluate(project, trained, monkeypatch, capsys):
    monkeypatch.setenv("DNERF_HOME", str(project))
    assert main(["evaluate", "toy/small", "--split", "val", "--measures", "pixels"]) == 0
    page = project / "runs" / "toy" / "small" / "report_val.html"
    assert page.is_file() and capsys.readouterr().out.splitlines()[-1].endswith(f"page: {page}")


def test_unknown_runs_are_told_the_known_ones(project, trained, monkeypatch, capsys):
    monkeypatch.setenv("DNERF_HOME", str(project))
    assert main(["evaluate", "toy/smal"]) == 1 and "known are: toy/small" in capsys.readouterr().err


def test_ctrl_c_in_a_training(project):
    "The state is saved, and the shell hears 130."
    words = ["train", "toy", "--audio", "mel", "--minutes", 5, "--steps", 0, "--preset", "tiny", "--name", "long", "--", "checks=500"]
    process = subprocess.Popen(**shell(project, *words), preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    curves, deadline = project / "runs" / "toy" / "long" / "metrics.csv", time.monotonic() + 120

    def begun():
        "Has a row of curves been written?"
        return curves.is_file() and curves.read_text().count("\n") > 1

    while not begun() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, out + err
    assert "saved in" in out and err.splitlines()[-1] == "dnerf: stopped" and "Traceback" not in err


def test_prepare_and_table1_ask_for_what_was_typed(dnerf_home, monkeypatch, capsys):
    "Stand-ins for the long part; it is tested where it is made."
    import dnerf.evaluation.statistics as statistics
    import dnerf.evaluation.table as table
    import dnerf.video.prepare as room

    asked = []
    toy = toy_subject(dnerf_home / "data" / "toy", n=22)
    video = str(write_wav(dnerf_home / "me.mp4", synthetic_speech(0.1)[0]))
    monkeypatch.setattr(room, "prepare", lambda *args, force: asked.append((*args, force)) or toy)
    assert main(["prepare", video, "--subject", "toy", "--size", "64"]) == 0
    assert asked == [(video, "toy", 64, False)] and capsys.readouterr().out == f"the subject toy is in {toy.folder}\n"

    class StandIn(table.Table):
        "A table that is not filled."
        def embed(self):
            return {"deepspeech": "no weights; fetch them"}
        def fill(self, jobs):
            return asked.append((self.rows, self.seeds, self.budget, self.overrides, jobs))
        def results(self):
            return {}
        def pictures(self):
            return {}

    monkeypatch.setattr(table, "Table", StandIn)
    for name, text in (("show_table", "the table"), ("show_differences", "the differences"), ("findings", ["a finding"])):
        monkeypatch.setattr(statistics, name, lambda results, text=text: text)
    words = ["table1", "toy", "--seeds", "0 4", "--rows", "mel silence", "--steps", "7", "--jobs", "2", "--", "data.rays=64"]
    assert main(words) == 0
    assert asked[1] == (["mel", "silence"], [0, 4], {"steps": 7}, ["data.rays=64"], 2)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:-1] == ["deepspeech is missing: no weights", "the table", "the differences", "a finding"]
    assert lines[-1] == f"results: {dnerf_home / 'runs' / 'toy' / 'table1'}"


def test_doctor(dnerf_home, monkeypatch, capsys):
    "Every line has a state and each fault a remedy; the number for the shell is that of what is needed."
    from dnerf.doctor import all_checks, examine, verdict

    toy_subject(dnerf_home / "data" / "toy", n=22)
    checks = list(examine())
    assert [c.name for c in checks] == list(all_checks()) and {c.state for c in checks} <= {"ok", "missing", "problem"}
    assert all((c.state == "ok") == (c.remedy == "") for c in checks)
    assert main(["doctor"]) == verdict(checks)[1]
    out = capsys.readouterr().out
    assert "ok       subjects          toy\n" in out and out.splitlines()[-1] == verdict(checks)[0]
    assert not (dnerf_home / "runs").exists()
    (dnerf_home / "file").touch()
    monkeypatch.setenv("DNERF_HOME", str(dnerf_home / "file"))
    few = {k: v for k, v in all_checks().items() if k in ("Python", "data", "results", "subjects")}
    monkeypatch.setattr("dnerf.doctor.all_checks", lambda: few)
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert out.count("set DNERF_HOME to it") == 2 and out.splitlines()[-1].endswith("need: data, results")


def test_doctor_sees_what_was_installed_beside_it(tmp_path, monkeypatch):
    "A second OpenCV and an old package, as pip would leave them."
    from dnerf.doctor import check_opencv, check_packages

    assert check_opencv().state == check_packages(["numpy"]).state == "ok"
    for name, version in (("opencv-python-headless", "4.10.0"), ("av", "9.0.0")):
        folder = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = check_opencv()
    assert found.state == "problem" and "opencv-python-headless" in found.text and "pip uninstall -y" in found.remedy
    found = check_packages()
    assert found.state == "problem" and found.text.startswith("av is 9.0.0, not >=")


@pytest.mark.parametrize("words", ["drive|toy/run|", "train| ", "train|toy|--name=", "prepare|a.mp4|--subject|"])
def test_an_empty_argument_is_no_default(words, capsys):
    with pytest.raises(SystemExit) as e:
        main(words.split("|"))
    assert e.value.code == 2 and "is empty; is a variable of the shell not set?" in capsys.readouterr().err


def test_doctor_of_an_installed_package_does_not_ask_for_what_tests_need(tmp_path, monkeypatch):
    "There is no clone: developer's packages are optional, what the library needs is not, and the remedy names no clone."
    from importlib import metadata

    from dnerf import doctor

    asked = ["numpy>=1", "missing-library>=1", 'missing-notebooks>=1; extra == "dev"', 'missing-phones; extra == "phones"']
    monkeypatch.setattr(doctor, "_package", lambda: tmp_path / "dnerf")
    monkeypatch.setattr(metadata, "requires", lambda name: asked)
    library, developers = doctor.check_packages(), doctor.check_developers()
    assert (library.state, library.text, library.remedy) == ("missing", "not installed: missing-library", "pip install --upgrade 'dnerf'")
    assert doctor.verdict([library]) == ("first mend what `dnerf train` needs: packages", 1)
    assert (developers.state, developers.text, developers.needed) == ("missing", "not installed: missing-notebooks", False)
    assert developers.remedy == "pip install --upgrade 'dnerf[dev]'"
    del asked[1]
    assert doctor.check_packages().state == "ok"
    said = "all that `dnerf train` needs is there; of the rest, see notebooks, tests"
    assert doctor.verdict([doctor.check_packages(), developers]) == (said, 0)


def test_the_newest_complete_run_of_a_subject_is_driven(dnerf_home, capsys):
    "Whatever it is called, and with the codes that are needed; a run that is damaged or of a table does not hide one that can be used."
    from dnerf.nerf.config import compose_config
    from dnerf.nerf.run import newest_run
    from omegaconf import OmegaConf

    def run(name, audio, age, parts=PARTS_OF_A_RUN):
        folder = dnerf_home / "runs" / "demo" / name
        (folder / "checkpoints").mkdir(parents=True)
        for part in parts:
            (folder / part).touch()
        OmegaConf.save(compose_config("tiny", subject="demo", audio=audio, name=name), folder / "config.yaml")
        os.utime(folder / "state.json", (time.time() - age,) * 2)

    assert newest_run("demo") is None
    for name, audio, age in (("speechsplit-cpu", "speechsplit", 9), ("long", "mel+speechsplit", 5), ("whisper-gpu", "whisper", 3)):
        run(name, audio, age)
        assert newest_run("demo") == f"demo/{name}"
    run("table1-mel-0", "mel", 2)
    run("broken", "mel", 1, PARTS_OF_A_RUN[:2] + PARTS_OF_A_RUN[3:])
    assert capsys.readouterr().out == ""
    assert newest_run("demo", show=True) == "demo/whisper-gpu" and newest_run("demo", "speechsplit", show=True) == "demo/long"
    assert newest_run("demo", "phones") is None
    first, second = capsys.readouterr().out.splitlines()
    assert first == "demo/whisper-gpu is used, the newest of 5 finished runs of demo"
    assert second == "demo/long is used, the newest of 2 finished runs of demo with speechsplit"


def test_list_open_and_rm(project, trained, tmp_path, monkeypatch, capsys):
    "Tables for people and JSON for scripts, with what is damaged; nothing is removed unasked, nothing that is used, nothing elsewhere."
    home = copied_home(project, tmp_path / "home", monkeypatch)
    shutil.rmtree(home / "runs" / "toy" / "long", ignore_errors=True)  # of another test, if it has run
    (home / "data" / "broken").mkdir()
    (home / "data" / "broken" / "subject.json").write_text("{")
    (home / "runs" / "toy" / "begun").mkdir()
    shutil.copy(home / "runs" / "toy" / "small" / "config.yaml", home / "runs" / "toy" / "begun")
    main(["list"])
    out = capsys.readouterr().out
    first = [line.split()[0] for line in out.splitlines() if line.startswith("  ")]
    assert first == ["name", "broken", "toy", "name", "toy/begun", "toy/small"]
    assert "broken: " in out and " 3 " in out and " dB face " in out and " unfinished " in out
    main(["list", "--json"])
    found = json.loads(capsys.readouterr().out)
    small = found["runs"][1]
    assert (small["audio"], small["steps"], small["state"]) == ("mel", 3, "finished")
    assert small["bytes"] > 100_000 and small["psnr_face"] > 0
    main(["list", "--quiet"])
    assert capsys.readouterr().out.split() == ["broken", "toy", "toy/begun", "toy/small"]

    monkeypatch.setattr("webbrowser.open", lambda address: pages.append(address) or True)
    monkeypatch.setenv("DISPLAY", ":0")
    pages: list = []
    page = home / "runs" / "toy" / "small" / "report.html"
    assert main(["open", "toy"]) == 0 and pages == [page.as_uri()] and str(page) in capsys.readouterr().out
    monkeypatch.delenv("DISPLAY")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert main(["open", "toy/small"]) == 0 and len(pages) == 1 and "there is no browser" in capsys.readouterr().out
    assert main(["open", "toy/begun"]) == 1 and "has no report yet; dnerf evaluate toy/begun" in capsys.readouterr().err

    before = sorted(home.rglob("*"))
    (home / "data" / "link").symlink_to(tmp_path)
    (tmp_path / "subject.json").write_text("{}")
    for words, sentence in ((["toy/small"], "Nobody can be asked here; add --yes"),
                            (["toy/nobody", "--yes"], "runs of toy: toy/begun, toy/small"),
                            (["../data/toy", "--yes"], "names no subject"), (["..", "--yes"], "cannot be a folder name"),
                            (["link", "--yes"], "is a link to")):
        assert main(["rm", *words]) == 1
        err = capsys.readouterr().err
        assert sentence in err and err.count("\n") == 1
    (home / "data" / "link").unlink()
    with locked(home / "runs" / "toy" / "small", "it", shared=True):       # as drive does
        assert main(["rm", "toy/small", "--yes"]) == 1 and "another process is working on the run toy/small" in capsys.readouterr().err
    assert [p for p in before if not p.exists()] == []
    monkeypatch.setattr("sys.stdin", io.StringIO("n\ny\n"))
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    assert main(["rm", "toy/small"]) == 1 and capsys.readouterr().out == "nothing was removed\n"
    assert main(["rm", "toy/small"]) == 0 and not (home / "runs" / "toy" / "small").exists()
    (home / "data" / "toy" / "video.mp4").touch()
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert main(["rm", "toy"]) == 1 and "with your own video.mp4 in it" in capsys.readouterr().err
    assert main(["rm", "toy", "--yes", "--quiet"]) == 0 and capsys.readouterr().out == ""
    assert sorted(p.name for p in (home / "data").iterdir()) == ["broken"]


def test_quiet_prints_what_was_made_and_nothing_else(project, trained, monkeypatch, capfd):
    monkeypatch.setenv("DNERF_HOME", str(project))
    monkeypatch.chdir(project)
    for words, made in ((["drive", "toy/small", "hello.wav", "--out", "quiet.mp4", "--quiet"], "quiet.mp4"),
                        (["train", "toy", "--audio", "mel", "--steps", "3", "--preset", "tiny", "--name", "small", "--quiet"],
                         project / "runs" / "toy" / "small")):
        assert main(words) == 0
        out, err = capfd.readouterr()
        assert out == f"{made}\n" and err == ""
    assert main(["drive", "toy/small", "absent.wav", "--quiet"]) == 1
    out, err = capfd.readouterr()
    assert out == "" and err.startswith("dnerf: there is no file absent.wav") and err.count("\n") == 1


def test_doctor_speaks_json(monkeypatch, capsys):
    from dnerf.doctor import check_python

    monkeypatch.setattr("dnerf.doctor.all_checks", lambda: {"Python": check_python})
    assert main(["doctor", "--json"]) == 0
    (check,) = json.loads(capsys.readouterr().out)
    assert (check["name"], check["state"], check["needed"]) == ("Python", "ok", True)


def test_the_shell_completes_verbs_and_options(tmp_path, capsys):
    "The generated script is asked by bash, as it is when the tabulator key is pressed."
    assert main(["completion", "bash"]) == 0
    (tmp_path / "dnerf.bash").write_text(capsys.readouterr().out)
    ask = ("source dnerf.bash; COMP_WORDS=({0}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); "
           "$(complete -p dnerf | grep -o -- '-F [^ ]*' | cut -c4-); echo ${{COMPREPLY[@]}}")
    for words, found in (("dnerf tr", "train"), ("dnerf prepare --si", "--size"), ("dnerf train me --jo", "--jobs")):
        done = subprocess.run(["bash", "-c", ask.format(words)], cwd=tmp_path, capture_output=True, text=True)
        assert done.stdout.split() == [found], (words, done.stdout, done.stderr)
    assert main(["completion", "zsh"]) == 0 and capsys.readouterr().out.startswith("#compdef dnerf")
    assert main(["completion", "cmd"]) == 1 and "it can be bash, zsh" in capsys.readouterr().err
