"""The tiny model on whole batches of transcripts, with every picture's visual feature computed once.

Equal to the model's own forward pass over pixels (a test compares them), at a fraction of the cost: a batch shows a few
hundred frames, of a few dozen distinct pictures.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import Qwen2_5_VLForConditionalGeneration

from recipes.learning_study.pictures import PictureBook
from recipes.learning_study.transcript import NO_PICTURE, Transcript

DECISION_OFFSET = 5
"""Tokens of a response before its action: <think>, colour, place, sign, </think>."""


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
        longest = max(len(transcript.ids) for transcript in transcripts)
        ids = torch.zeros(len(transcripts), longest, dtype=torch.long)
        pictures = torch.full_like(ids, NO_PICTURE)
        for row, transcript in enumerate(transcripts):
            ids[row, : len(transcript.ids)] = torch.tensor(transcript.ids)
            pictures[row, : len(transcript.ids)] = torch.tensor(transcript.pictures)
        return self.states(ids, pictures)

    def states(self, ids: torch.Tensor, pictures: torch.Tensor) -> torch.Tensor:
        """Return the last layer's states of ids and pictures, (batch, length) each; padding must be on the right."""
        text = self.model.get_input_embeddings()(ids)
        embeddings = torch.where((pictures >= 0)[..., None], self.features[pictures.clamp(min=0)], text)
        # A frame is one visual token, so all three position axes count tokens, as get_rope_index has it.
        positions = torch.arange(ids.shape[1]).expand(3, len(ids), -1)
        outputs = self.model.model.language_model(inputs_embeds=embeddings, position_ids=positions, use_cache=False)
        return outputs.last_hidden_state

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
        forced: Sequence[int] | None = None,
        max_tokens: int = 16,
    ) -> list[list[int]]:
        """Sample a response to each transcript at temperature 1, as the rollouts do.

        Args:
            forced: a token that takes the place of the decision, behind the thought of each response; None leaves
                the decision to the policy.
        Returns:
            The tokens, the end of the message included where it came.
        """
        lengths = torch.tensor([len(transcript.ids) for transcript in transcripts])
        total = int(lengths.max()) + max_tokens
        ids = torch.zeros(len(transcripts), total, dtype=torch.long)
        pictures = torch.full_like(ids, NO_PICTURE)
        for row, transcript in enumerate(transcripts):
            ids[row, : lengths[row]] = torch.tensor(transcript.ids)
            pictures[row, : lengths[row]] = torch.tensor(transcript.pictures)
        rows = torch.arange(len(transcripts))
        end = self.model.config.text_config.eos_token_id
        ended = torch.zeros(len(transcripts), dtype=torch.bool)
        responses: list[list[int]] = [[] for _ in transcripts]
        for step in range(max_tokens):
            longest = int(lengths.max()) + step
            states = self.states(ids[:, :longest], pictures[:, :longest])[rows, lengths + step - 1]
            probabilities = self.model.lm_head(states).softmax(-1)
            tokens = torch.multinomial(probabilities, 1, generator=generator)[:, 0]
            if forced is not None and step == DECISION_OFFSET:
                tokens = torch.tensor(list(forced))
            ids[rows, lengths + step] = tokens
            for row in rows[~ended].tolist():
                responses[row].append(int(tokens[row]))
            ended |= tokens == end
            if bool(ended.all()):
                break
        return responses
