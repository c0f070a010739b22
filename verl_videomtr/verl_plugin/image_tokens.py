# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""How a model's processor writes an image in tokens, found by asking it: image sizes in, token ids out.

A chat template writes one short mark for an image, which the processor expands to as many tokens as the image takes.
Rows hold the expanded form, which the trainer reads. An inference engine expands the short form itself, so that is
what it has to be sent: sent the expanded one, vLLM expands it once more and reads another context than the trainer.
verl collapses expanded ids for Qwen's image processor only (workers/rollout/utils.py); here it is done for any.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image


class ImageTokensError(ValueError):
    """The processor does not write images as this package can follow."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Written:
    """One image in tokens."""

    short: tuple[int, ...]
    """As the chat template has it, and as an engine must be sent it."""
    expanded: tuple[int, ...]
    """As the processor writes it, and as a row holds it."""
    num_image_tokens: int
    """Those of `expanded` that stand for image features; the others are marks around them."""


class ImageTokens:
    """The image tokens of one model; each size is asked for once.

    Args:
        processor: the model's.
        image_token_id: the token that stands for image features.
        processor_kwargs: `data.mm_processor_kwargs`.
        template_kwargs: `data.apply_chat_template_kwargs`.
    """

    def __init__(
        self,
        processor: Any,
        image_token_id: int,
        *,
        processor_kwargs: Mapping[str, Any] | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self._processor = processor
        self._image_token_id = image_token_id
        self._processor_kwargs = dict(processor_kwargs or {})
        self._template_kwargs = dict(template_kwargs or {})
        self._known: dict[tuple[int, int], Written] = {}

    def written(self, width_px: int, height_px: int) -> Written:
        """Return how an image of this size is written.

        Raises:
            ImageTokensError: the template shows no image, or the processor writes none of its image tokens for it.
        """
        size = (width_px, height_px)
        if size not in self._known:
            self._known[size] = self._ask(size)
        return self._known[size]

    def collapse(self, ids: Sequence[int], sizes: Sequence[tuple[int, int]]) -> list[int]:
        """Replace each image's expanded tokens with its short form.

        Args:
            ids: a row's tokens.
            sizes: (width, height) in pixels of the row's images, in their order.
        Raises:
            ImageTokensError: the ids do not hold exactly these images in this order.
        """
        ids = list(ids)
        collapsed: list[int] = []
        place = 0
        for number, size in enumerate(sizes):
            written = self.written(*size)
            start = _find(ids, written.expanded, place)
            if start < 0:
                raise ImageTokensError(
                    f"image {number} of {len(sizes)}, {size[0]} x {size[1]} px, is not where it should be in the row; "
                    f"expected its {len(written.expanded)} tokens behind position {place}; the processor that writes "
                    "the row is not the one that was asked, or it writes an image by what stands around it: compare "
                    "data.mm_processor_kwargs, or use another model"
                )
            collapsed += ids[place:start]
            collapsed += written.short
            place = start + len(written.expanded)
        rest = ids[place:]
        between = [token for token in collapsed if token == self._image_token_id]
        num_expected = sum(self.written(*size).short.count(self._image_token_id) for size in sizes)
        if self._image_token_id in rest or len(between) != num_expected:
            raise ImageTokensError(
                f"the row holds image tokens beside those of its {len(sizes)} images; expected no other; the chat "
                "template or the policy wrote some"
            )
        return collapsed + rest

    def _ask(self, size: tuple[int, int]) -> Written:
        content = [{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}]
        text = self._processor.apply_chat_template(
            [{"role": "user", "content": content}],
            tokenize=False,
            add_generation_prompt=False,
            **self._template_kwargs,
        )
        plain = list(self._processor.tokenizer(text, add_special_tokens=False)["input_ids"])
        made = self._processor(
            text=[text],
            images=[Image.new("RGB", size)],
            add_special_tokens=False,
            return_tensors="pt",
            **self._processor_kwargs,
        )
        full = made["input_ids"][0].tolist()
        image = self._image_token_id
        if image not in full:
            raise ImageTokensError(
                f"{type(self._processor).__name__} writes no image token ({image}) for an image of {size[0]} x "
                f"{size[1]} px; expected at least one; the chat template may leave images out: check the processor "
                "files beside the model"
            )
        num_same = 0
        while plain[num_same] == full[num_same] != image:
            num_same += 1
        num_behind = 0
        most = min(len(plain), len(full)) - num_same
        while num_behind < most and plain[-1 - num_behind] == full[-1 - num_behind] != image:
            num_behind += 1
        expanded = tuple(full[num_same : len(full) - num_behind])
        return Written(
            short=tuple(plain[num_same : len(plain) - num_behind]),
            expanded=expanded,
            num_image_tokens=expanded.count(image),
        )


def _find(ids: list[int], wanted: tuple[int, ...], start: int) -> int:
    """Return where `wanted` begins in `ids` from `start` on, or -1."""
    length = len(wanted)
    while True:
        try:
            start = ids.index(wanted[0], start)
        except ValueError:
            return -1
        if tuple(ids[start : start + length]) == wanted:
            return start
        start += 1
