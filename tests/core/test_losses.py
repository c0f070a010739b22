# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Losses are counted as what was asked for minus what is there, whoever reports what."""

from __future__ import annotations

from verl_videomtr.losses import AskedPrompt, Ledger, LossReport, name_some


def ask(ledger: Ledger, *uids: str, num_sessions: int = 2, partition: str = "train") -> None:
    ledger.ask(
        AskedPrompt(uid=uid, sample_id=f"sample-{uid}", num_sessions=num_sessions, partition=partition) for uid in uids
    )


def make_report(uid: str = "a", *, kind: str = "failed", partition: str = "train", error: str = "boom") -> LossReport:
    return LossReport(
        kind=kind,
        sample_id=f"sample-{uid}",
        uid=uid,
        session=0,
        split="train",
        partition=partition,
        step=1,
        error=error,
    )


def make_ledger(*, batch_prompts: int = 4, max_share: float = 0.2) -> Ledger:
    return Ledger(batch_prompts=batch_prompts, max_share=max_share)


def test_what_nobody_reported_is_lost_all_the_same():
    ledger = make_ledger()
    ask(ledger, "a", "b")
    # Two rows of a's first session (its context slid), none of its second; nothing of b.
    ledger.settle("train", {"a", "b"}, ["a_0_0", "a_0_1"])
    losses = ledger.take("train")
    assert (losses.num_asked, losses.num_lost, losses.reports) == (4, 3, [])


def test_each_prompt_is_counted_once_however_often_it_is_seen():
    ledger = make_ledger()
    ask(ledger, "a", "b")
    assert ledger.settle("train", {"a"}, ["a_0_0"]) == 1
    assert ledger.settle("train", {"a"}, []) == 0
    assert ledger.open_samples() == ["sample-b"]
    assert ledger.take("train").num_lost == 1
    assert ledger.take("train").num_lost == 0


def test_a_prompt_that_a_checkpoint_restored_is_not_this_processs():
    ledger = make_ledger()
    assert ledger.settle("train", {"restored"}, []) == 0
    assert ledger.take("train").num_asked == 0


def test_training_and_validation_are_told_apart():
    ledger = make_ledger()
    ask(ledger, "a")
    ask(ledger, "v", partition="val", num_sessions=1)
    ledger.report([make_report("a"), make_report("v", partition="val", kind="unreadable")])
    # A look at one partition says nothing of the other's prompts.
    ledger.settle("val", {"a", "v"}, [])
    val = ledger.take("val")
    assert (val.num_lost, val.count("unreadable"), val.count("failed")) == (1, 1, 0)
    ledger.settle("train", {"a"}, [])
    train = ledger.take("train")
    assert (train.num_lost, train.count("failed")) == (2, 1)


def test_validation_does_not_stop_a_training_run():
    ledger = make_ledger()
    ask(ledger, *"vwxyz", partition="val")
    ledger.settle("val", set("vwxyz"), [])
    assert ledger.too_many() is None


def test_too_large_a_share_is_told_with_its_reasons_and_a_single_loss_never():
    ledger = make_ledger(max_share=0.2)
    ask(ledger, "a", num_sessions=1)
    ledger.settle("train", {"a"}, [])
    assert ledger.too_many() is None
    ask(ledger, "b", "c", num_sessions=1)
    ledger.settle("train", {"b", "c"}, ["c_0_0"])
    assert ledger.too_many() == (2, 3)
    ledger.report([make_report("b", error="FileNotFoundError: b.mp4")])
    assert ledger.say_too_many(2, 3) == (
        "2 of the last 3 trajectories were lost (67%); expected at most videomtr.video.max_unreadable_share=0.2; "
        "sample 'sample-b': FileNotFoundError: b.mp4; repair the files (python -m data_prep.check lists them), "
        "videomtr.video.root on every node, or the reward function"
    )


def test_failures_that_end_first_are_judged_by_all_that_is_out():
    ledger = make_ledger(batch_prompts=4, max_share=0.2)
    ask(ledger, *(str(n) for n in range(20)), num_sessions=1)
    ledger.settle("train", {"0", "1"}, [])
    assert ledger.too_many() is None
    ledger.settle("train", {"2", "3", "4"}, [])
    assert ledger.too_many() == (5, 20)


def test_a_buffer_that_refills_for_ever_is_stopped():
    # Asynchronous modes replace every failed prompt: no batch ever ends, and nothing else would count.
    ledger = make_ledger(batch_prompts=4)
    for number in range(12):
        ask(ledger, str(number), num_sessions=1)
        if number >= 8:
            ledger.settle("train", {str(number - 8)}, [])
        if ledger.too_many():
            break
    assert number == 10


def test_old_batches_are_forgotten():
    ledger = make_ledger(batch_prompts=1, max_share=0.2)
    for uid in "abcdef":
        ask(ledger, uid, num_sessions=4)
        ledger.settle("train", {uid}, [f"{uid}_{n}_0" for n in range(4 if uid != "a" else 1)])
    assert ledger.too_many() is None


def test_reasons_are_named_once_each():
    reports = [make_report(str(n)) for n in range(3)] + [make_report("x", error=f"other {n}") for n in range(4)]
    text = name_some(reports, 9)
    assert text.startswith("sample 'sample-x': other 3; sample 'sample-x': other 2")
    assert text.endswith("2 other errors")
    assert name_some(reports[:3], 3) == "sample 'sample-2' and 2 more: boom"
    assert name_some([], 3) == "none of the 3 left a reason: see the logs of the agent-loop workers"
