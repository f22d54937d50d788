"""Build wheel and sdist so that the same source gives the same bytes: `dist.py FOLDER [--sdist]`, of the working directory.

Times are those of the last commit, or of SOURCE_DATE_EPOCH; owner, permissions and order of the files in the sdist are fixed.
"""
import gzip
import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path


def normalised(sdist: bytes, epoch: int) -> bytes:
    "The same .tar.gz with nothing in it of the machine and the moment."
    packed = io.BytesIO()
    with (tarfile.open(fileobj=io.BytesIO(sdist)) as old,
          gzip.GzipFile("", "wb", 9, packed, mtime=epoch) as zipped,
          tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as new):
        for member in sorted(old.getmembers(), key=lambda m: m.name):
            content = old.extractfile(member) if member.isfile() else None
            member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            member.mtime, member.uid, member.gid, member.uname, member.gname, member.pax_headers = epoch, 0, 0, "", "", {}
            new.addfile(member, content)
    return packed.getvalue()


def main(folder: str, *words: str) -> None:
    epoch = os.environ.get("SOURCE_DATE_EPOCH") or subprocess.check_output(["git", "log", "-1", "--format=%ct"], text=True).strip()
    os.environ["SOURCE_DATE_EPOCH"] = epoch
    os.umask(0o022)
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, *words, "."]
    subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
    for sdist in Path(folder).glob("*.tar.gz"):
        sdist.write_bytes(normalised(sdist.read_bytes(), int(epoch)))


if __name__ == "__main__":
    main(*sys.argv[1:])
