# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Kill or stop each process of a real training run, and see how the run ends: python -m benchmarks.kills

Each run is verl's own trainer on the CPU with the tests' tiny model. At a moment drawn at random one of its processes
gets SIGKILL or SIGSTOP; what counts is how long it takes until the trainer's command has ended by itself, what its last
error says, and which processes are left. A run is a line of OUT; the table is of all lines there, so runs add up.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]
ROLES = {
    "command": r"verl\.trainer\.main_ppo",
    "trainer": r"^ray::TaskRunnerV1",
    "agent-loop worker": r"^ray::LoopWorker",
    "reward worker": r"^ray::RewardLoopWorker",
    "vLLM server": r"^ray::\S*(vLLM|Http)\S*Server",
    "training worker": r"^ray::\S*(WorkerDict|FusedWorker|create_colocated)",
    "TransferQueue controller": r"^ray::TransferQueueController",
    "TransferQueue storage": r"^ray::SimpleStorage",
    "load balancer": r"^ray::\S*LoadBalancer",
    "decoding process": r"multiprocessing|verl_videomtr\.video",
    "raylet": r"raylet/raylet",
    "GCS": r"gcs_server",
}
"""What a process of a run is, by its command line."""
LIMIT_SECONDS = 360.0
STALL_MINUTES, PHASE_MINUTES = 1.5, 3.0
"""Longer than the start of a run on a busy machine."""
STOPPED_SECONDS = 60.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunEnd:
    """One run."""

    role: str
    signal: str
    moment: str
    """When the signal came."""
    seconds: float | None
    """From the signal to the end of the command; None where it had to be ended."""
    said: str
    """The error that the command ended with."""
    left: list[str]
    """Processes of the run ten seconds after its end."""


def role_of(process: psutil.Process) -> str:
    try:
        line = " ".join(process.cmdline())
    except psutil.Error:
        return "gone"
    return next((role for role, pattern in ROLES.items() if re.search(pattern, line)), line[:60])


def kill_one(run: Path, data: Path, base: Path, *, role: str, number: signal.Signals, rng: random.Random) -> RunEnd:
    """Start a run, send one signal, and wait for its end."""
    from trainer_runs import command_of, environment_of, processes_of

    run.mkdir(parents=True)
    overrides = [
        "trainer.save_freq=1", "trainer.max_actor_ckpt_to_keep=1", "trainer.max_critic_ckpt_to_keep=1",
        "data.train_batch_size=4", "trainer.total_training_steps=100000", "trainer.total_epochs=100000",
        f"videomtr.stall_minutes={STALL_MINUTES}", f"videomtr.phase_minutes={PHASE_MINUTES}",
    ]  # fmt: skip
    command = command_of(run, *overrides, data=data, model=base, probe=None)
    log = run / "train.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment_of(run, None), stdout=file, stderr=subprocess.STDOUT
        )
    try:
        moment = wait_for_moment(process, run, rng)
        targets = [member for member in processes_of(run) if role_of(member) == role]
        if not targets:
            return RunEnd(role=role, signal=number.name, moment=moment, seconds=None, said="no such process", left=[])
        target, steps = rng.choice(targets), count_steps(run)
        target.send_signal(number)
        began = time.monotonic()
        if role == "decoding process" or (role, number) == ("command", signal.SIGSTOP):
            # The run goes on: another process decodes in its place; a command that is stopped only waits, as by Ctrl-Z.
            time.sleep(STOPPED_SECONDS)
            said = f"nothing; {count_steps(run) - steps} more steps in {STOPPED_SECONDS:g} s"
            return RunEnd(role=role, signal=number.name, moment=moment, seconds=None, said=said, left=[])
        try:
            process.wait(timeout=LIMIT_SECONDS)
            seconds = time.monotonic() - began
        except subprocess.TimeoutExpired:
            seconds = None
        time.sleep(10 if seconds is not None else 0)
        left = sorted({role_of(member) for member in processes_of(run)}) if seconds is not None else []
        return RunEnd(role=role, signal=number.name, moment=moment, seconds=seconds, said=last_error(log), left=left)
    finally:
        for member in processes_of(run):
            member.kill()
        process.wait()


def wait_for_moment(process: subprocess.Popen, run: Path, rng: random.Random) -> str:
    """Wait until some seconds after the first step; return what was reached."""
    deadline = time.monotonic() + 400
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SystemExit(f"the run ended before its signal: see {run / 'train.log'}")
        if count_steps(run):
            break
        time.sleep(0.2)
    else:
        raise SystemExit(f"no step in 400 s: see {run / 'train.log'}")
    time.sleep(rng.uniform(0, 15))
    return f"after step {count_steps(run)}"


def count_steps(run: Path) -> int:
    return sum(len(path.read_bytes().splitlines()) for path in run.glob("metrics_*.jsonl"))


def last_error(log: Path) -> str:
    """The message of the last exception in a log, without what Ray puts around it."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", log.read_text(errors="replace"))
    ended = re.findall(r"RunEndedError: (.*)|(the trainer's process .* has not been heard of .*)", text)
    if ended:
        return "".join(ended[-1])
    errors = re.findall(r"^(?:\S*\s)?(?:[\w.]+\.)?((?:\w*Error|\w*Exception)\b.*)$", text, re.MULTILINE)
    return errors[-1][:400] if errors else " ".join(text.splitlines()[-2:])[:400]


def print_table(out: Path) -> None:
    outcomes = [RunEnd(**json.loads(line)) for line in out.read_text().splitlines()]
    print(f"{len(outcomes)} runs, {sum(outcome.seconds is not None for outcome in outcomes)} ended by themselves")
    print("| process | signal | moment | ended after | what it said | left behind |")
    print("|---|---|---|---|---|---|")
    for outcome in outcomes:
        ended = "not at all" if outcome.seconds is None else f"{outcome.seconds:.0f} s"
        said = outcome.said.replace("|", "\\|")
        left = ", ".join(outcome.left) or "-"
        print(f"| {outcome.role} | {outcome.signal} | {outcome.moment} | {ended} | {said} | {left} |")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.kills", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=ROOT / ".cache" / "kills.jsonl", help="file that runs are appended to"
    )
    parser.add_argument("--runs", type=int, default=30, help="runs in all (default: %(default)s)")
    parser.add_argument("--first", type=int, default=0, help="number of the first run in the order of the seed")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the order (default: %(default)s)")
    parser.add_argument("--keep", type=Path, help="folder for the runs' logs; by default they go")
    arguments = parser.parse_args()
    sys.path.insert(0, str(ROOT / "tests/support"))
    from trainer_runs import build_model, make_data

    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    cases = [(role, number) for role in ROLES for number in (signal.SIGKILL, signal.SIGSTOP)]
    rng = random.Random(arguments.seed)
    rounds = 1 + (arguments.first + arguments.runs) // len(cases)
    plan = [case for _ in range(rounds) for case in rng.sample(cases, len(cases))]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = arguments.keep or Path(name)
        data = make_data(Path(name) / "data", num_train=16)
        for place in range(arguments.first, arguments.first + arguments.runs):
            role, number = plan[place % len(plan)]
            run = folder / f"{place:02d}_{role.replace(' ', '_')}_{number.name}"
            outcome = kill_one(
                run, data, build_model(), role=role, number=number, rng=random.Random(f"{arguments.seed} {place}")
            )
            with arguments.out.open("a") as file:
                file.write(json.dumps(dataclasses.asdict(outcome)) + "\n")
    print_table(arguments.out)


if __name__ == "__main__":
    main()
