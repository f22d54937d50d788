"Downloads from a server on this machine that does what servers do: break off, stall, send other bytes, have no such file."
import hashlib
import http.server
import os
import resource
import signal
import subprocess
import sys
import threading
import time

import pytest

from dnerf import download
from dnerf.audio.deepspeech import deepspeech_weights
from dnerf.core import InputError, MissingError, StorageError, staged_file
from dnerf.evaluation.syncnet import syncnet_weights
from dnerf.video.sources import fetch_obama

CONTENT = bytes(range(256)) * 1024  # 256 kB
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    "Answers as `kinds` says, one kind for each request, the last of them for all further ones."
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.kinds, self.asked, self.over = ["good"], [], threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address):
        "A client that has gone is no news."


class Answer(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        server = self.server
        kind = server.kinds[min(len(server.asked), len(server.kinds) - 1)]
        server.asked.append(self.path)
        if kind == "silent":  # accepts, and says nothing
            return server.over.wait(20)
        self.send_response({"absent": 404, "busy": 503}.get(kind, 200))
        body = {"other": b"<html>Please log in</html>"}.get(kind, CONTENT)
        if kind != "unsized":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if kind in ("breaks", "stalls"):
            self.wfile.write(body[: len(body) // 2])
            if kind == "stalls":
                server.over.wait(20)
        elif kind == "slow":
            for a in range(0, len(body), 1 << 14):
                self.wfile.write(body[a : a + (1 << 14)])
                server.over.wait(0.05)
        else:
            self.wfile.write(body)


@pytest.fixture
def server(monkeypatch):
    "Running; retries without the pause that pooch makes before them."
    import pooch

    monkeypatch.setattr(pooch.core.time, "sleep", lambda seconds: None)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "DNERF_SYNCNET", "DNERF_DEEPSPEECH", "DNERF_OBAMA_URL"):
        monkeypatch.delenv(name, raising=False)
    made = Server()
    threading.Thread(target=made.serve_forever, daemon=True).start()
    monkeypatch.setenv("DNERF_MIRROR", made.url + "/mirror/")
    yield made
    made.over.set()
    made.shutdown()
    made.server_close()


def left(folder):
    "Files that a user would find."
    return sorted(p.name for p in folder.rglob("*") if not p.name.endswith(".lock"))


def fetched(server, folder):
    with staged_file(folder / "file.bin") as part:
        download.fetch(f"{server.url}/file.bin", part, "the file", "bring it by hand")
    return (folder / "file.bin").read_bytes()


@pytest.mark.parametrize("kinds", [
    ["good"], ["unsized"], ["slow"], ["breaks", "good"], ["breaks", "breaks", "good"], ["stalls", "good"], ["busy", "good"],
    ["silent", "good"]], ids="-".join)
def test_what_mends_itself(server, tmp_path, monkeypatch, kinds):
    "A transfer that breaks off begins again, and a slow one only takes longer than the patience for a single byte."
    monkeypatch.setattr(download, "PATIENCE", 0.3)
    server.kinds = kinds
    assert fetched(server, tmp_path) == CONTENT
    assert len(server.asked) == len(kinds) and left(tmp_path) == ["file.bin"]


@pytest.mark.parametrize("kind, said, attempts", [
    ("absent", "HTTPError 404", 1), ("busy", "HTTPError 503", 3), ("breaks", "ChunkedEncodingError", 3), ("stalls", "ConnectionError", 3),
    ("silent", "ReadTimeout", 3)])
def test_what_does_not_is_one_sentence(server, tmp_path, monkeypatch, kind, said, attempts):
    monkeypatch.setattr(download, "PATIENCE", 0.3)
    server.kinds = [kind]
    with pytest.raises(MissingError) as e:
        fetched(server, tmp_path)
    assert str(e.value) == f"the file could not be downloaded from {server.url}/file.bin ({said}); bring it by hand"
    assert len(server.asked) == attempts and left(tmp_path) == []


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/x", "http://no-such-host.invalid/x", "no-such-protocol://x", "http://[/x", "x"])
def test_without_a_network_nobody_waits(tmp_path, url):
    begin = time.monotonic()
    with pytest.raises(MissingError, match="could not be downloaded") as e, staged_file(tmp_path / "file.bin") as part:
        download.fetch(url, part, "the file", "bring it by hand")
    assert "\n" not in str(e.value) and time.monotonic() - begin < 5 and left(tmp_path) == []


def test_an_older_file_stays(server, tmp_path):
    (tmp_path / "file.bin").write_bytes(b"older")
    server.kinds = ["absent"]
    with pytest.raises(MissingError):
        fetched(server, tmp_path)
    assert (tmp_path / "file.bin").read_bytes() == b"older"


def test_wrong_bytes_are_refused_at_once(server, tmp_path, monkeypatch):
    "A page that asks for a password, sent in place of the file: all three users of the download name it, and nothing stays."
    monkeypatch.setenv("DNERF_HOME", str(tmp_path))
    server.kinds = ["other"]
    for call, said in ((lambda: syncnet_weights(tmp_path), "not the published file"),
                       (lambda: deepspeech_weights(tmp_path), "not the zip file"),
                       (lambda: fetch_obama(server.url + "/Obama.mp4"), "not the expected video")):
        with pytest.raises(InputError, match=said) as e:
            call()
        assert server.url in str(e.value)
    assert [p.rpartition("/")[0] for p in server.asked] == ["/mirror", "/mirror", ""]
    assert left(tmp_path) == ["data"]


def test_the_mirror_gives_the_weights_and_a_damaged_cache_is_named(server, tmp_path):
    server.kinds = ["breaks", "good"]
    path = syncnet_weights(tmp_path, expected=SHA256)
    assert path.read_bytes() == CONTENT and server.asked == ["/mirror/" + path.name] * 2
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(InputError, match="delete it and fetch it again"):
        syncnet_weights(tmp_path, expected=SHA256)
    assert len(server.asked) == 2


CALL = """
import sys
from pathlib import Path
from dnerf.evaluation.syncnet import syncnet_weights
syncnet_weights(Path(sys.argv[1]), expected=sys.argv[2])
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
def test_a_killed_download_leaves_nothing_for_long(server, tmp_path):
    server.kinds = ["stalls", "good"]
    process = subprocess.Popen([sys.executable, "-c", CALL, tmp_path, SHA256], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not any(p.is_file() and p.stat().st_size for p in tmp_path.rglob("*")) and time.monotonic() < deadline:
            threading.Event().wait(0.05)
        assert any(p.stat().st_size for p in tmp_path.rglob("*") if p.is_file())
    finally:
        process.kill()
        process.wait()
    path = syncnet_weights(tmp_path, expected=SHA256)
    assert path.read_bytes() == CONTENT and left(tmp_path) == [path.name]


def test_a_full_disk_is_not_called_a_network_fault(server, tmp_path, monkeypatch):
    monkeypatch.setenv("DNERF_HOME", str(tmp_path))
    before, old = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(CONTENT) // 2, before[1]))
    try:
        for call in (lambda: fetched(server, tmp_path), lambda: syncnet_weights(tmp_path, expected=SHA256),
                     lambda: deepspeech_weights(tmp_path), lambda: fetch_obama(server.url)):
            with pytest.raises(StorageError, match="could not write"):
                call()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, old)
    assert left(tmp_path) == ["data"] and os.listdir(tmp_path / "data") == []
