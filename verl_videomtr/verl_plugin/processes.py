# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""The Ray actors of a run as the watchdog sees them: alive or not, answering or not, and where they log."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, OutOfMemoryError, RayActorError, RayError, WorkerCrashedError

from verl_videomtr.watchdog import Health

_DEATHS = (RayActorError, OutOfMemoryError, WorkerCrashedError)
"""What Ray answers for an actor whose process is gone; a node that is short of memory kills with one of its own."""


class RayProcess:
    """One actor. It is asked one thing at a time, so a busy one has no queue of questions to work off."""

    def __init__(
        self,
        name: str,
        actor: Any,
        *,
        ask: Callable[[], Any] | None = None,
        take: Callable[[Any], None] | None = None,
    ) -> None:
        """
        Args:
            ask: send the actor a question and return Ray's reference to the answer; by default Ray's own, whether it
                is ready.
            take: what to do with an answer.
        """
        self.name = name
        self._actor = actor
        self._ask = ask or (lambda: actor.__ray_ready__.remote())
        self._take = take or (lambda answer: None)
        self._answer: Any = None
        self._lock: threading.Lock = threading.Lock()
        self._whereabouts: Any = actor.__ray_call__.remote(_whereabouts)
        self._where: str = ""

    def look(self) -> Health:
        """Collect the answer to the last question, and ask the next."""
        with self._lock:
            if self._answer is None:
                self._answer = self._ask()
            done, _ = ray.wait([self._answer], timeout=0)
            if not done:
                return Health(state="silent")
            try:
                answer = ray.get(self._answer)
            except ActorUnavailableError:
                self._answer = None  # the connection broke; Ray does not know yet whether the process did
                return Health(state="silent")
            except _DEATHS as error:
                return Health(state="dead", cause=_say_cause(error))
            self._answer = self._ask()
        self.where()
        self._take(answer)
        return Health(state="answers")

    def where(self) -> str:
        """Say its pid, its node and its log."""
        if not self._where:
            done, _ = ray.wait([self._whereabouts], timeout=0)
            if done:
                try:
                    self._where = "pid {pid} on {node}, its log: {log}".format(**ray.get(self._whereabouts))
                except _DEATHS:
                    self._where = f"{self._actor}, its log is among Ray's"
        return self._where or f"{self._actor}, which has not answered since it was started"


def _whereabouts(_actor: object = None) -> dict[str, Any]:
    """Run inside an actor: Ray has put its log where its standard error goes."""
    try:
        log = os.readlink("/proc/self/fd/2")
    except OSError:
        log = "not known"
    return {"pid": os.getpid(), "node": ray.util.get_node_ip_address(), "log": log}


def _say_cause(error: RayError, *, most: int = 400) -> str:
    """Find the sentence that says why in Ray's report of a death: behind its list of ids, or its traceback."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip()
    if "Traceback" in text or "creation task" in text:
        text = text.splitlines()[-1]
    _, found, rest = text.partition("The actor is dead because ")
    words = " ".join((rest if found else text).split()).partition(" Some common causes include")[0]
    return words if len(words) <= most else words[:most] + " ..."
