# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""The tiny model on whole batches of transcripts, with every picture's visual feature computed once.

Equal to the model's own forward pass over pixels (a test compares them), at a fraction of the cost: a batch shows a few
hundred frames, of a few dozen distinct pictures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import DynamicCache, Qwen2_5_VLForConditionalGeneration

from recipes.learning_study.pictures import PictureBook
from recipes.learning_study.transcript import NO_PICTURE, Transcript


def picture_features(model: Qwen2_5_VLForConditionalGeneration, book: PictureBook) -> torch.Tensor:
    """Encode every variant of every picture: (num_pictures, num_variants, hidden_size)."""
    num_pictures, num_variants = book.pixel_values.shape[:2]
    grid = torch.tensor([[1, 2, 2]] * (num_pictures * num_variants))
    features = model.model.get_image_features(book.pixel_values.flatten(0, 2), grid).pooler_output
    if not isinstance(features, torch.Tensor):
        features = torch.cat(list(features))
    return features.view(num_pictures, num_variants, -1)


class FastPolicy:
    """Hidden states, logits and samples.

    Args:
        model: the tiny model; used as it is, so gradients flow where they are on.
        features: (num_pictures, num_variants, hidden_size), from `picture_features`.
        variant: which variant of every picture to show.
    """

    def __init__(self, model: Qwen2_5_VLForConditionalGeneration, features: torch.Tensor, variant: int = 0) -> None:
        self.model = model
        self.features = features[:, variant]

    def hidden(self, transcripts: Sequence[Transcript]) -> torch.Tensor:
        """Return the last layer's states, (batch, longest, hidden_size); rows are padded on the right."""
        return self._pass(self._embed(transcripts)).last_hidden_state

    def _embed(self, transcripts: Sequence[Transcript]) -> torch.Tensor:
        """Embed tokens and pictures: (batch, longest, hidden_size)."""
        longest = max(len(transcript.ids) for transcript in transcripts)
        ids = torch.zeros(len(transcripts), longest, dtype=torch.long)
        pictures = torch.full_like(ids, NO_PICTURE)
        for row, transcript in enumerate(transcripts):
            ids[row, : len(transcript.ids)] = torch.tensor(transcript.ids)
            pictures[row, : len(transcript.ids)] = torch.tensor(transcript.pictures)
        text = self.model.get_input_embeddings()(ids)
        return torch.where((pictures >= 0)[..., None], self.features[pictures.clamp(min=0)], text)

    def _pass(self, embeddings: torch.Tensor, *, positions: torch.Tensor | None = None, **cache: Any) -> Any:
        # A frame is one visual token, so all three position axes count tokens, as get_rope_index has it.
        if positions is None:
            positions = torch.arange(embeddings.shape[1]).expand(len(embeddings), -1)
        return self.model.model.language_model(
            inputs_embeds=embeddings, position_ids=positions.expand(3, -1, -1), use_cache=bool(cache), **cache
        )

    def label_log_probs(
        self, transcripts: Sequence[Transcript], rows: torch.Tensor, positions: torch.Tensor
    ) -> torch.Tensor:
        """Return log-probabilities of the tokens at (row, position), given what stands before: (n, vocabulary)."""
        states = self.hidden(transcripts)[rows, positions - 1]
        return self.model.lm_head(states).log_softmax(-1)

    @torch.no_grad()
    def sample(
        self,
        transcripts: Sequence[Transcript],
        *,
        generator: torch.Generator,
        forced: Mapping[int, int] | None = None,
        max_tokens: int = 16,
    ) -> list[list[int]]:
        """Sample a response to each transcript at temperature 1, as the rollouts do.

        Args:
            forced: token by its offset in every response, in place of what the policy would say there.
        Returns:
            The tokens, the end of the message included where it came.
        """
        lengths = torch.tensor([len(transcript.ids) for transcript in transcripts])
        embeddings = self._embed(transcripts)
        # Of keys and values of what came before, padding is left out.
        seen = (torch.arange(embeddings.shape[1]) < lengths[:, None]).long()
        cache = DynamicCache()
        outputs = self._pass(embeddings, past_key_values=cache)
        states = outputs.last_hidden_state[torch.arange(len(transcripts)), lengths - 1]
        end = self.model.config.text_config.eos_token_id
        ended = torch.zeros(len(transcripts), dtype=torch.bool)
        responses: list[list[int]] = [[] for _ in transcripts]
        for step in range(max_tokens):
            probabilities = self.model.lm_head(states).softmax(-1)
            tokens = torch.multinomial(probabilities, 1, generator=generator)[:, 0]
            if forced and step in forced:
                tokens = torch.full_like(tokens, forced[step])
            for row in (~ended).nonzero()[:, 0].tolist():
                responses[row].append(int(tokens[row]))
            ended |= tokens == end
            if bool(ended.all()):
                break
            seen = torch.cat([seen, torch.ones(len(seen), 1, dtype=torch.long)], dim=1)
            outputs = self._pass(
                self.model.get_input_embeddings()(tokens)[:, None],
                positions=(lengths + step)[:, None],
                attention_mask=seen,
                past_key_values=cache,
            )
            states = outputs.last_hidden_state[:, 0]
        return responses
