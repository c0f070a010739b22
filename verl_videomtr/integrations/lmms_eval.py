# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""The agent as a model of lmms-eval: its video tasks played as episodes against a served model.

lmms_eval --model video_mtr --model_args "base_url=http://host/v1,out=runs/lmms,overrides=+videomtr/budget=b32" ...

The question is the task's own text, the answer goes to the task's own scorer, and the episode is the one of
`videomtr eval`. Sampling and response length are the overrides': a task's 16 tokens hold no thought. A failed episode
answers "". lmms-eval finds this module by the entry point group `lmms_eval.models`; it needs an environment of its
own, as its pins differ from the lock's (docs/evaluate.md).
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import logging
import os
from pathlib import Path
from typing import Any

from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest

from verl_videomtr.evaluation.command import add_arguments, play_questions
from verl_videomtr.evaluation.setup import Questions, compose_setup
from verl_videomtr.sample import Sample

logger = logging.getLogger(__name__)

MANIFEST = ModelManifest(model_id="video_mtr", chat_class_path=f"{__name__}.VideoMTR")


class VideoMTR(lmms):
    """Plays lmms-eval's video questions.

    Args:
        out: folder of the journal; given again, the run goes on.
        base_url: as for `videomtr eval`; several are separated by blanks.
        overrides: Hydra overrides, separated by blanks.
        single_turn: the uniform baseline.
        others: further options of `videomtr eval` by name, such as `concurrency` or `image_format`.
    """

    is_simple = False

    def __init__(
        self,
        out: str,
        base_url: str = "",
        overrides: str = "",
        *,
        single_turn: bool = False,
        batch_size: Any = None,
        max_batch_size: Any = None,
        device: Any = None,
        **others: Any,
    ) -> None:
        super().__init__()
        parser = argparse.ArgumentParser(prog="video_mtr")
        add_arguments(parser)
        named = {f"--{name.replace('_', '-')}": value for name, value in others.items()}
        options = [name if value is True else f"{name}={value}" for name, value in named.items()]
        options += [f"--base-url={url}" for url in base_url.split()]
        self.args = parser.parse_args(["lmms_eval", *overrides.split(), f"--out={out}", *options])
        self.setup = compose_setup(self.args.overrides, single_turn=single_turn)

    def generate_until(self, requests: list[Any]) -> list[str]:
        """Answer all requests.

        Raises:
            ValueError: a request is no question about one video.
            AskError: no request is of use.
        """
        samples = tuple(self._sample(number, request) for number, request in enumerate(requests))
        texts = "\0".join(f"{sample.sample_id}\0{sample.video}\0{sample.question}" for sample in samples)
        digest = hashlib.sha256(texts.encode()).hexdigest()
        questions = Questions(path=Path("lmms_eval"), sha256=digest, samples=samples, has_answers=False)
        lines, _ = asyncio.run(play_questions(self.setup, questions, None, self.args))
        for line in lines:
            if line["status"] == "lost":
                logger.error("%s has no answer: %s", line["sample_id"], line["error"])
        return [(line["episode"]["answer"] or "") if line["status"] == "played" else "" for line in lines]

    def generate_until_multi_round(self, requests: list[Any]) -> list[str]:
        raise NotImplementedError("video_mtr answers questions of one round; expected a task of generate_until")

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        raise NotImplementedError("video_mtr has no likelihoods; expected a task of generate_until")

    def _sample(self, number: int, request: Any) -> Sample:
        _, doc_to_messages, _, doc_id, task, split = request.args
        parts = [
            part for message in doc_to_messages(self.task_dict[task][split][doc_id]) for part in message["content"]
        ]
        media = [part for part in parts if part["type"] != "text"]
        if len(media) != 1 or media[0]["type"] != "video" or not isinstance(media[0]["url"], str):
            kinds = [part["type"] for part in media]
            raise ValueError(f"a question with {kinds}; expected one video file; document {doc_id} of {task}")
        if media[0].get("start_time") is not None or media[0].get("end_time") is not None:
            raise ValueError(f"a question about a part of a video; expected the whole; document {doc_id} of {task}")
        return Sample(
            data_source=task,
            sample_id=f"{task}/{split}/{doc_id}/{number}",
            index=number,
            split=str(split),
            video=os.path.abspath(media[0]["url"]),
            question="\n".join(part["text"] for part in parts if part["type"] == "text"),
            # The task keeps its answers to itself.
            answer="unknown",
            question_type="free_text",
        )
