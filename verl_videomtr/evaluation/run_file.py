# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""`run.json`: everything that moves a number, beside the numbers; and the one line that says it in a report."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from verl_videomtr.evaluation.setup import Questions, Setup
from verl_videomtr.serving.endpoints import Endpoint
from verl_videomtr.subtitles import Subtitles
from verl_videomtr.trajectory_files import RUN_FILE, write_run
from verl_videomtr.versions import installed_versions

PACKAGES = ("verl-videomtr", "verl", "av", "torchcodec", "decord", "pillow", "numpy", "aiohttp")
IDENTITY = ("videomtr", "reward", "sampling", "prompts", "model", "image_format", "subtitles", "data")
"""Parts in which two runs must agree to share a journal."""
_MOVES_NOTHING = ("bootstrap", "credit", "dump", "poll_seconds")
_VIDEO_MOVES_NOTHING = ("workers", "open_pools", "max_unreadable_share", "root")


class RunError(ValueError):
    """The folder holds another run."""


def describe_run(
    setup: Setup, questions: Questions, endpoints: Sequence[Endpoint], *, image_format: str, subtitles: Subtitles | None
) -> dict[str, Any]:
    """Collect what a reader needs to repeat the run, and a resumed run to be the same one."""
    section = OmegaConf.to_container(setup.config.videomtr, resolve=True)
    assert isinstance(section, dict)
    templates = setup.prompts.templates
    return {
        "kind": "eval",
        "videomtr": section,
        "reward": setup.reward,
        "sampling": setup.sampling,
        "prompts": {"name": setup.settings.prompts, "sha256": _hash(templates), "templates": templates},
        "model": endpoints[0].model,
        "image_format": image_format,
        "subtitles": None if subtitles is None else subtitles.describe(),
        "data": [{"path": str(questions.path), "sha256": questions.sha256}],
        "video_root": setup.settings.video.root,
        "servers": [
            {"base_url": e.base_url, "kind": e.kind, "version": e.version, "max_model_len": e.max_model_len}
            for e in endpoints
        ],
        "packages": installed_versions(PACKAGES),
    }


def open_run(folder: Path, run: Mapping[str, Any], *, num_answers: int) -> None:
    """Write run.json into a new folder, or check that the folder's run is this one.

    Args:
        num_answers: in the folder's journal.
    Raises:
        RunError: the folder holds another run; the message names what differs.
    """
    path = folder / RUN_FILE
    if not path.exists():
        if num_answers:
            raise RunError(
                f"the folder holds {num_answers} answers, and no {RUN_FILE} says of which settings; expected both or "
                f"neither; {folder}; restore {RUN_FILE}, or give another --out"
            )
        write_run(folder, run)
        return
    try:
        changed = changes(json.loads(path.read_text(encoding="utf-8")), run)
    except (ValueError, AttributeError) as error:
        raise RunError(
            f"not a run's description ({error}); expected what eval writes; {path}; give another --out"
        ) from None
    if changed:
        shown = "; ".join(changed[:3]) + ("; ..." if len(changed) > 3 else "")
        raise RunError(
            f"the folder holds another run ({shown}); expected the same settings to go on with it; {path}; "
            "give another --out, or the same settings"
        )


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What moves a number and differs between two runs: `key: before -> now`."""
    first, second = [dict(_leaves(_identity(each))) for each in (before, now)]
    return [
        f"{key}: {first.get(key)!r} -> {second.get(key)!r}"
        for key in sorted(first.keys() | second.keys())
        if first.get(key) != second.get(key)
    ]


def say_run(run: Mapping[str, Any], *, drift: str) -> str:
    """Say everything that moves a number, in one line."""
    episode, pool = run["videomtr"]["episode"], run["videomtr"]["video"]["pool"]
    cache = run["videomtr"]["video"].get("cache") or {}
    sampling = run["sampling"]
    size = f"size {pool['size']}" if pool.get("size") else f"{_range(pool)}"
    frames = {key: value for key, value in episode.items() if value is not None}
    servers = sorted({f"{server['kind']} {server['version'] or '?'}" for server in run["servers"]})
    form = cache.get("form") if cache.get("dir") else "none"
    parts = [
        f"episode {' '.join(f'{key}={value}' for key, value in frames.items())}",
        f"pool {pool['mode']} {size} decoder {pool['decoder']} cache {form}",
        f"images {run['image_format']}",
        f"subtitles {_say_subtitles(run.get('subtitles'))}",
        f"prompts {run['prompts']['name']} {run['prompts']['sha256'][:8]}",
        f"sampling temperature={sampling['temperature']} top_p={sampling['top_p']} top_k={sampling['top_k']}",
        f"response limit {run['videomtr']['max_response_tokens']}",
        f"model {run['model']}",
        f"server {', '.join(servers)}",
        f"packages {' '.join(f'{name} {version}' for name, version in run['packages'].items())}",
        f"data {Path(run['data'][0]['path']).name} {run['data'][0]['sha256'][:8]}",
        f"drift {drift}",
    ]
    return "; ".join(parts)


def _say_subtitles(subtitles: Mapping[str, Any] | None) -> str:
    if subtitles is None:
        return "off"
    counted = f"{subtitles['num_files']} of {subtitles['num_videos']} videos"
    return f"of the frames shown, {counted}, {subtitles['sha256'][:8]}"


def _range(pool: Mapping[str, Any]) -> str:
    limits = {key: value for key, value in pool.items() if key.startswith(("min_", "max_")) and value is not None}
    return " ".join(f"{key}={value}" for key, value in limits.items())


def _identity(run: Mapping[str, Any]) -> dict[str, Any]:
    parts = {name: run.get(name) for name in IDENTITY}
    # A training's description has its validation's sampling beside that of its rollouts.
    sampling = run.get("val_sampling") or run.get("sampling") or {}
    parts["sampling"] = {name: sampling.get(name) for name in ("temperature", "top_p", "top_k")}
    section = {key: value for key, value in dict(run.get("videomtr") or {}).items() if key not in _MOVES_NOTHING}
    video = {key: value for key, value in dict(section.get("video") or {}).items() if key not in _VIDEO_MOVES_NOTHING}
    cache = video.pop("cache", None) or {}
    # Where frames are kept moves nothing; that they are kept as JPEG does.
    section["video"] = {**video, "cache_form": cache.get("form") if cache.get("dir") else "raw"}
    return {**parts, "videomtr": section, "data": [file.get("sha256") for file in run.get("data") or ()]}


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
