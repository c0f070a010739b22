# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Which episodes a page shows: all, or a sample with whole groups, every step, and the same samples in every run."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence

from verl_videomtr.report.episodes import Facts
from verl_videomtr.report.statistics import group_by


def choose(facts: Sequence[Facts], number: int, *, first: Collection[str] = ()) -> list[Facts]:
    """Choose at most `number` episodes, in the order of `facts`.

    The rollouts of one prompt come together. Each (run, phase, step) gives its groups in turn, in the order of a hash
    of the sample, so that runs and steps which played the same samples show the same ones.

    Args:
        first: samples that go before all others, such as those that flipped between two runs.
    """
    if len(facts) <= number:
        return list(facts)
    queues = [
        sorted(
            group_by(part, lambda fact: (fact.sample_id, fact.prompt)).values(),
            key=lambda group: (group[0].sample_id not in first, hash_sample(group[0].sample_id), group[0].prompt),
        )
        for part in group_by(facts, lambda fact: (fact.run, fact.phase, fact.step)).values()
    ]
    chosen: set[int] = set()
    for rank in range(max(map(len, queues))):
        groups = [queue[rank] for queue in queues if rank < len(queue)]
        size = sum(map(len, groups))
        if len(chosen) + size > number:
            # Half a round would show more of the first run than of the others; the first one is thinned by step.
            if rank:
                break
            steps = sorted({group[0].step or 0 for group in groups})
            kept = set(steps[:: -(-size // number)])
            groups = [group for group in groups if (group[0].step or 0) in kept]
        for group in groups:
            if len(chosen) + len(group) <= number:
                chosen.update(map(id, group))
    return [fact for fact in facts if id(fact) in chosen]


def hash_sample(sample_id: str) -> str:
    """Give a sample its place in an order that is the same in every run, step and process."""
    return hashlib.blake2b(sample_id.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
