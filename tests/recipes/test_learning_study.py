# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""The study's books: what is complete is skipped, what was stopped goes on, and what is drawn is what was logged."""

import json
import subprocess
import sys

import pytest

from recipes.learning_study import study
from recipes.learning_study.comparisons import (
    decided,
    gain_over_seeds,
    table_of_claims,
    table_of_difficulty,
    table_of_gate,
)
from recipes.learning_study.figures import COLOURS, FIGURES, draw_figure, running_mean
from recipes.learning_study.record import (
    HELD_OUT_ACCURACY,
    RecordError,
    RunRecord,
    plan_start,
    read_lines,
    select_metrics,
)
from recipes.learning_study.run import example_of, follow, last_checkpoint, main, means_by_group, results_of
from recipes.learning_study.run_all import runs_left, sweep
from recipes.learning_study.study_run import StudyRun, find_run, read_runs, wilson
from recipes.learning_study.tables import main as tables_main
from recipes.learning_study.tables import phase_seconds, table_of_phases, table_of_runs, trajectories
from verl_videomtr.evaluation.statistics import Estimate
from verl_videomtr.settings import load_settings
from verl_videomtr.verl_plugin.compose import compose
from verl_videomtr.verl_plugin.pools_command import read_job

ATTEMPT = {"from_step": 0}
STEPS = study.STUDY.steps


def lines_to(last, *, evaluated=()):
    """Lines of the steps 0 to `last`."""
    return [
        {
            "step": step,
            "data": {"videomtr/episode/turns": 1.0, **({HELD_OUT_ACCURACY: 0.5} if step in evaluated else {})},
        }
        for step in range(last + 1)
    ]


def test_complete_run_is_kept():
    start = plan_start(lines_to(4, evaluated=(0, 4)), steps=4, checkpoint_step=0)
    assert start.complete
    assert start.kept == tuple(lines_to(4, evaluated=(0, 4)))


def test_run_without_its_last_evaluation_or_a_step_is_not_complete():
    assert not plan_start(lines_to(4, evaluated=(0,)), steps=4, checkpoint_step=0).complete
    holed = [line for line in lines_to(4, evaluated=(0, 4)) if line["step"] != 2]
    assert not plan_start(holed, steps=4, checkpoint_step=0).complete


def test_stopped_run_goes_on_from_its_checkpoint_and_says_so():
    start = plan_start(lines_to(7), steps=10, checkpoint_step=5)
    assert (start.step, start.complete) == (5, False)
    assert start.kept == tuple(lines_to(5))
    assert start.note == "stopped at step 7: goes on from the checkpoint of step 5"


@pytest.mark.parametrize(
    ("lines", "checkpoint_step"),
    [
        (lines_to(7), 0),  # the checkpoint is gone
        (lines_to(3), 5),  # it is ahead of what was logged: steps would be missing for good
        ([line for line in lines_to(7) if line["step"] != 4], 5),
    ],
)
def test_stopped_run_without_a_fitting_checkpoint_starts_over_and_says_so(lines, checkpoint_step):
    start = plan_start(lines, steps=10, checkpoint_step=checkpoint_step)
    assert (start.step, start.kept, start.complete) == (0, (), False)
    assert "starts from the beginning" in start.note


def test_new_run_is_called_new():
    assert plan_start([], steps=10, checkpoint_step=0).note == "new"


def test_steps_are_on_disk_as_they_are_made_and_attempts_add_up(tmp_path):
    record = RunRecord("full_seed0", tmp_path / "results")
    record.begin(plan_start([], steps=4, checkpoint_step=0), {"steps": 4}, ATTEMPT)
    for line in lines_to(3, evaluated=(0,)):
        record.append(line["step"], line["data"])
    record.update_attempt(wall_seconds=60)
    assert record.lines() == lines_to(3, evaluated=(0,))
    again = RunRecord("full_seed0", tmp_path / "results")
    again.check_settings({"steps": 4})
    again.begin(plan_start(again.lines(), steps=4, checkpoint_step=2), {"steps": 4}, {"from_step": 2})
    again.update_attempt(wall_seconds=30)
    assert again.lines() == lines_to(2, evaluated=(0,))
    assert [attempt["wall_seconds"] for attempt in again.facts()["attempts"]] == [60, 30]
    again.add(examples={"first_step": []})
    assert again.facts()["settings"] == {"steps": 4}
    assert sorted(path.name for path in (tmp_path / "results").iterdir()) == ["full_seed0.json", "full_seed0.jsonl"]


def test_lines_of_an_ended_run_are_packed_and_read_the_same_and_a_new_attempt_unpacks_them(tmp_path):
    record = RunRecord("full_seed0", tmp_path)
    record.begin(plan_start([], steps=4, checkpoint_step=0), {}, ATTEMPT)
    for line in lines_to(4, evaluated=(0, 4)):
        record.append(line["step"], line["data"])
    record.pack()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full_seed0.json", "full_seed0.jsonl.gz"]
    assert record.lines() == lines_to(4, evaluated=(0, 4))
    record.keep_held_out([{"sample": "a", "correct": 1}, {"sample": "b", "correct": 0}])
    assert record.held_out() == [{"sample": "a", "correct": 1}, {"sample": "b", "correct": 0}]
    record.begin(plan_start(record.lines(), steps=6, checkpoint_step=2), {}, ATTEMPT)
    record.append(3, {"videomtr/episode/turns": 2.0})
    assert [line["step"] for line in record.lines()] == [0, 1, 2, 3]
    assert not record.packed_path.exists()
    assert record.held_out() == []


def test_run_begun_with_other_settings_is_refused(tmp_path):
    record = RunRecord("full_seed0", tmp_path)
    record.check_settings({"seed": 0})
    record.begin(plan_start([], steps=4, checkpoint_step=0), {"seed": 0, "overrides": ("a",)}, ATTEMPT)
    record.check_settings({"seed": 0, "overrides": ["a"]})
    with pytest.raises(RecordError, match=r"\['overrides'\] differ; expected the same; .*remove its files"):
        record.check_settings({"seed": 0, "overrides": ["b"]})


def test_line_cut_at_the_end_is_left_out_and_a_broken_one_before_it_is_named(tmp_path):
    path = tmp_path / "run.jsonl"
    whole = '{"step": 1, "data": {"a": 1.0}}\n'
    path.write_text(whole + '{"step": 2, "da')
    assert read_lines(path) == [{"step": 1, "data": {"a": 1.0}}]
    path.write_text('{"step": 1}\n' + whole)
    with pytest.raises(RecordError, match=r"line 1 is '\{\"step\": 1\}'; expected a JSON object with `step`"):
        read_lines(path)
    assert read_lines(tmp_path / "none.jsonl") == []


def test_metrics_of_the_study_are_kept_and_rounded():
    data = {
        "videomtr/episode/turns": 1.23456789,
        "timing_s/gen": 2,
        "val-core/synthetic_needle/acc/mean@1": 0.5,
        "actor/entropy": float("nan"),
        "perf/throughput": 3.0,
        "timing_per_token_ms/gen": 0.1,
    }
    assert select_metrics(data) == {
        "videomtr/episode/turns": 1.2346,
        "timing_s/gen": 2.0,
        "val-core/synthetic_needle/acc/mean@1": 0.5,
    }


def test_follower_sees_only_what_this_process_writes(tmp_path):
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text('{"step": 99, "data": {}}\n')
    code = (
        "import sys, time, pathlib; path = pathlib.Path(sys.argv[1])\n"
        "while path.exists(): time.sleep(0.01)\n"
        'file = open(path, \'w\'); file.write(\'{"step": 1, "data": {}}\\n{"step"\'); file.flush(); time.sleep(1.5)\n'
        "file.write(': 2, \"data\": {}}\\n'); file.close()"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(metrics)])
    assert [entry["step"] for entry in follow(metrics, process)] == [1, 2]


def test_checkpoint_counts_once_it_is_announced(tmp_path):
    assert last_checkpoint(tmp_path) == 0
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "latest_checkpointed_iteration.txt").write_text("40")
    assert last_checkpoint(tmp_path) == 40


def test_sweep_skips_what_is_complete(tmp_path):
    variant, seed = study.ORDER[1]
    record = RunRecord(study.run_name(variant, seed), tmp_path)
    record.begin(plan_start([], steps=2, checkpoint_step=0), {}, ATTEMPT)
    for line in lines_to(2, evaluated=(0, 2)):
        record.append(line["step"], line["data"])
    assert runs_left(tmp_path, steps=2) == [study.ORDER[0], *study.ORDER[2:]]
    assert runs_left(tmp_path, steps=3) == list(study.ORDER)


def test_sweep_goes_on_after_a_failure_and_ends_with_its_time(capsys):
    played = []

    def play(variant, seed):
        played.append((variant, seed))
        return int(variant == "no_gate")

    assert sweep([("full", 0), ("no_gate", 1), ("grpo", 0)], play, seconds=60) == ["no_gate_seed1"]
    assert played == [("full", 0), ("no_gate", 1), ("grpo", 0)]
    assert sweep([("full", 0)], play, seconds=0) == []
    assert len(played) == 3
    assert "1 runs are left" in capsys.readouterr().out


def test_every_variant_is_run_and_those_of_the_main_claims_with_three_seeds():
    assert {variant for variant, _ in study.ORDER} == set(study.VARIANTS)
    assert len(set(study.ORDER)) == len(study.ORDER)
    for variant in study.MAIN:
        assert sum(name == variant for name, _ in study.ORDER) == 3


@pytest.mark.parametrize("variant", study.VARIANTS)
def test_every_variant_composes_and_trains_on_as_many_trajectories(variant):
    config = compose(study.overrides_of(variant, 3))
    assert config.data.train_batch_size * config.actor_rollout_ref.rollout.n == study.BATCH
    assert config.actor_rollout_ref.actor.ppo_mini_batch_size == config.data.train_batch_size
    turns = {"single_turn": 1, "single_turn_mixture": 1, "gated": 5, "ungated": 5}
    assert config.videomtr.episode.max_turns == turns.get(variant, study.MAX_TURNS)
    assert (config.data.seed, config.actor_rollout_ref.rollout.seed) == (3, 3)
    without = variant.startswith("no_bootstrapping") or variant in ("single_turn", "single_turn_mixture", "grpo")
    assert config.videomtr.bootstrap.enabled != without


def test_frames_decoded_beforehand_are_those_that_the_runs_ask_for(tmp_path):
    _, _, module, command, *overrides = study.pools_command(tmp_path)
    assert (module, command) == ("verl_videomtr.cli", "pools")
    job = read_job(compose(overrides[: overrides.index("--files")]))
    config = compose([*study.overrides_of("full", 0), f"videomtr.video.cache.dir={study.pools(tmp_path)}"])
    video = load_settings(config).video
    assert (job.config, job.form) == (video.pool, video.cache.form)
    assert job.directory == str(video.cache.dir)


def test_base_with_other_habits_is_taught_with_them(tmp_path):
    options = study.VARIANTS["full_unaimed"].base_options
    assert options == ("--rate", "0.01", "--aim", "0")
    plain = study.base_command(tmp_path, study.VARIANTS["full"])
    assert study.base_command(tmp_path, study.VARIANTS["full_unaimed"]) == [*plain, *options]


def test_what_cannot_be_read_is_in_the_videos_and_not_in_the_lessons(tmp_path):
    option = ["--unreadable-percent", "50"]
    command = study.data_command(tmp_path, study.GATE)
    assert command[command.index(option[0]) :][:2] == option
    for variant in ("gated", "ungated"):
        assert option[0] not in study.base_command(tmp_path, study.VARIANTS[variant])
    with_gate, without = study.overrides_of("gated", 1), study.overrides_of("ungated", 1)
    assert without == [*with_gate, "+reward.custom_reward_function.reward_kwargs.gate=none"]


def test_trial_may_not_enter_the_studys_results(capsys):
    with pytest.raises(SystemExit):
        main(["full", "--steps", "2"])
    assert "give --results" in capsys.readouterr().err


def test_printed_command_is_verls_own_trainer(capsys):
    assert main(["no_gate", "--print-command"]) == 0
    printed = capsys.readouterr().out
    assert "-m \\\n  verl.trainer.main_ppo" in printed
    assert "reward_kwargs.gate=none" in printed


TRAJECTORY = {
    "question": "Which shape in the red part?\nA. square\nB. dot",
    "ground_truth": "B",
    "turn_rewards": [0.6, 1.1],
    "correct": True,
    "episode": {
        "frames": [[0, 18], [20, 22]],
        "responses": ["<think> red18 nothing</think><retrieve>16,31</retrieve>", "<think> red18 dot</think>"],
        "retrieval_ious": [0.2, None],
        "stop_reason": "answered",
        "frame_budget": 16,
    },
}


@pytest.fixture
def runs(tmp_path):
    """Two finished runs of the full method and a stopped one without the gate, with figures that are easy to check."""
    for variant, last in (("full", STEPS), ("full_unaimed", STEPS), ("no_gate", 30)):
        record = RunRecord(study.run_name(variant, 0), tmp_path)
        record.begin(plan_start([], steps=STEPS, checkpoint_step=0), {}, ATTEMPT)
        for step in range(last + 1):
            held_out = {
                HELD_OUT_ACCURACY: 0.25 if step == 0 else 0.75,
                "val-aux/synthetic_needle/turns/mean@1": 2.5,
                "val-aux/synthetic_needle/best_iou/mean@1": 0.4,
            }
            training = {"timing_s/step": float(step), "videomtr/reward/episode": 1.5, "videomtr/episode/turns": 2.0}
            record.append(step, (training if step else {}) | (held_out if step % study.TEST_EVERY == 0 else {}))
        record.update_attempt(wall_seconds=600)
        record.add(examples={"first_step": [example_of(TRAJECTORY)]})
    return read_runs(tmp_path)


def test_table_of_runs_has_a_line_per_run(runs):
    _, _, full, no_gate, _, _, bounds = table_of_runs(runs)
    low, high = wilson(0.75, 256)
    assert full == f"| full | 0 | {STEPS} | 10 | 0.25 | 0.75 ({low:.2f}-{high:.2f}) | 2.50 | 0.40 | 1.50 |"
    assert no_gate.startswith(f"| no_gate | 0 | 30 of {STEPS} | 10 | 0.25 | 0.75")
    assert "the best blind sweep 0.452, one look at all 22 frames 0.433" in bounds


def test_phases_are_medians_of_the_steps(runs):
    # The steps 1 to n take 1 to n seconds; of an even number the upper middle one is taken.
    *_, line = table_of_phases(find_run(runs, "full", 0))
    assert line == f"| whole step | {STEPS // 2 + 1:.2f} |"
    with pytest.raises(ValueError, match="no run grpo_seed0"):
        find_run(runs, "grpo", 0)


def test_what_no_phase_accounts_for_is_a_phase_of_its_own():
    steps = [{"timing_s/gen": 2.0, "timing_s/adv": 1.0, "timing_s/step": 4.0 + extra} for extra in (0.0, 1.0, 5.0)]
    assert phase_seconds([{"videomtr/episode/turns": 1.0}, *steps]) == {
        "rollout": 2.0,
        "advantages": 1.0,
        "waiting and the rest": 2.0,
        "whole step": 5.0,
    }


def test_trajectories_are_shown_turn_by_turn(runs):
    text = "\n".join(trajectories(find_run(runs, "full", 0)))
    assert "first step: Which shape in the red part? / A. square / B. dot (right: B)" in text
    assert "frames 0,18: <think> red18 nothing</think><retrieve>16,31</retrieve>  IoU 0.20  reward 0.60" in text
    assert "frames 20,22: <think> red18 dot</think>  reward 1.10" in text


def test_wilson_interval_by_hand():
    # p = 1/2, n = 4, z = 2, z^2/n = 1: centre (1/2 + 1/2) / 2 = 1/2; half width 2 sqrt(1/16 + 1/16) / 2 = 0.353553.
    assert wilson(0.5, 4, z=2.0) == pytest.approx((0.146447, 0.853553), abs=1e-6)
    assert wilson(0.0, 10)[0] == 0.0
    with pytest.raises(ValueError, match="at least one row"):
        wilson(0.5, 0)


def test_running_mean_looks_back_only():
    assert running_mean([1.0, 3.0, 5.0, 7.0], width=2) == [1.0, 2.0, 4.0, 6.0]


@pytest.mark.parametrize("name", FIGURES)
def test_variants_of_one_figure_differ_in_colour(name):
    variants, _ = FIGURES[name]
    assert len({COLOURS[variant] for variant in variants}) == len(variants)


def test_every_variant_is_drawn_somewhere():
    assert {variant for variants, _ in FIGURES.values() for variant in variants} == set(study.VARIANTS)


@pytest.mark.parametrize("name", FIGURES)
def test_figures_draw_a_line_per_run_and_panel(runs, name, tmp_path):
    variants, panels = FIGURES[name]
    figure = draw_figure(runs, variants, panels)
    figure.savefig(tmp_path / "figure.png")
    assert len([axes for axes in figure.axes if axes.get_visible()]) == len(panels)
    turns = [axes for axes, panel in zip(figure.axes, panels, strict=False) if panel.key == "videomtr/episode/turns"]
    for axes in turns:
        drawn = [line for line in axes.get_lines() if not line.get_label().startswith("_")]
        assert len(drawn) == len([run for run in runs if run.variant in variants])
        if drawn:  # Of some figures no run has begun.
            assert list(drawn[0].get_ydata()) == [2.0] * STEPS


def played(sample, video, group, correct, rewards):
    return {
        "sample_id": sample,
        "video": video,
        "groups": {"evidence": group},
        "correct": correct,
        "turn_rewards": rewards,
    }


def test_episodes_are_kept_by_group_and_wrong_ones_apart():
    first = [played("b", "v1", "unreadable", False, [0.6, 0.1]), played("a", "v0", "readable", True, [0.6, 0.6, 1.1])]
    results = results_of(first, ["evidence"])
    assert [entry["sample"] for entry in results] == ["a", "b"]
    assert results[1] == {
        "sample": "b", "video": "v1", "group": "unreadable", "correct": 0, "turns": 2, "reward": 0.7
    }  # fmt: skip
    means = means_by_group([results, results_of(first[1:], ["evidence"])])
    assert means["readable"] == {"turns": [3.0, 3.0], "reward": [2.3, 2.3], "correct": [1.0, 1.0]}
    assert means["unreadable"]["reward"] == means["wrong answers"]["reward"] == [0.7, None]


def test_episodes_of_a_mixture_are_kept_with_both_groups():
    episode = played("a", "v0", "readable", True, [1.1])
    episode["groups"] |= {"length": "short", "detail": "multi"}
    (entry,) = results_of([episode], study.MIXTURE.group_by)
    assert entry["group"] == "short multi"
    with pytest.raises(KeyError, match="length"):
        results_of([played("a", "v0", "readable", True, [1.1])], study.MIXTURE.group_by)


def test_table_of_the_gate_sets_pairs_of_runs_beside_the_prediction(tmp_path):
    for variant, reward, turns, rights in (("gated", 1.0, 3.0, 3), ("ungated", 1.4, 3.5, 2)):
        record = RunRecord(study.run_name(variant, 1), tmp_path)
        record.begin(plan_start([], steps=60, checkpoint_step=0), {}, ATTEMPT)
        for step in range(1, 61):
            record.append(step, {"videomtr/reward/episode": reward if step > 40 else 0.0})
        held_out = [
            {
                "sample": f"s{i}",
                "video": f"v{i}",
                "group": "unreadable" if i == 4 else "readable",
                "correct": int(i < rights),
            }
            for i in range(5)
        ]
        series = {"turns": [9.0] * 20 + [turns] * 40, "reward": [reward] * 60}
        record.keep_held_out(held_out)
        record.add(by_group={"unreadable": series, "wrong answers": series})
    _, _, gated, ungated, change, predicted = table_of_gate(read_runs(tmp_path))
    assert gated == "| 1 | gated | 1.00 | 3.00 | 1.00 | 0.75 |"
    assert ungated == "| 1 | ungated | 1.40 | 3.50 | 1.40 | 0.50 |"
    assert change.startswith("| 1 | without - with | 0.40 | 0.50 | 0.40 | -0.25 (")
    assert "at least .25" in predicted


def write_held_out(folder, variant, seed, rights, samples="abcdefghijkl"):
    """A run whose held-out questions about twelve videos of six kinds are right as said."""
    record = RunRecord(study.run_name(variant, seed), folder)
    record.begin(plan_start([], steps=STEPS, checkpoint_step=0), {}, ATTEMPT)
    record.append(0, {HELD_OUT_ACCURACY: 0.5})
    kinds = [f"{length} {detail}" for length in ("short", "medium", "long") for detail in ("single", "multi")]
    record.keep_held_out(
        [
            {"sample": samples[i], "video": f"v{i}", "group": kinds[i % 6], "correct": int(right)}
            for i, right in enumerate(rights)
        ]
    )


def test_table_of_difficulty_is_the_gain_on_the_same_questions(tmp_path):
    # Of four answers of each kind, by turns and over two seeds, the full method has 0, 1, 1, 2, 2 and 4 more right.
    write_held_out(tmp_path, "single_turn_mixture", 0, [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
    write_held_out(tmp_path, "full_mixture", 0, [1, 0, 1, 1, 1, 1, 0, 0, 0, 0, 0, 1])
    write_held_out(tmp_path, "single_turn_mixture", 1, [0] * 12)
    write_held_out(tmp_path, "full_mixture", 1, [0, 1, 0, 0, 1, 1, 0, 0, 0, 1, 0, 1])
    write_held_out(tmp_path, "full_mixture", 2, [1] * 12)
    lines = list(table_of_difficulty(read_runs(tmp_path)))
    assert lines[0] == "2 seeds, 12 held-out videos"
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[4:]]
    assert rows[0][:3] == ["all", "4.2", "45.8"]
    assert {row[0]: row[3].split(" ")[0] for row in rows} == {
        "all": "+41.7",
        "single": "+25.0",
        "multi": "+58.3",
        "short": "+12.5",
        "medium": "+37.5",
        "long": "+75.0",
        "short single": "+0.0",
        "short multi": "+25.0",
        "medium single": "+25.0",
        "medium multi": "+50.0",
        "long single": "+50.0",
        "long multi": "+100.0",
        "multi less single": "+33.3",
        "long less short": "+62.5",
    }
    assert [rows[i][4] for i in (0, 1, 2, -2, -1)] == ["+3.8", "+7.5", "+8.1", "+0.6", "+1.7"]


def test_table_of_difficulty_needs_pairs_that_were_held_to_the_same_questions(tmp_path, capsys):
    write_held_out(tmp_path, "full_mixture", 0, [1] * 12)
    with pytest.raises(SystemExit, match="2"):
        tables_main(["difficulty", "--results", str(tmp_path)])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("no seed has both runs to their end, single_turn_mixture and full_mixture; expected")
    write_held_out(tmp_path, "single_turn_mixture", 0, [1] * 12, samples="abcdefghijkm")
    with pytest.raises(ValueError, match="seed=0 were held to different questions"):
        list(table_of_difficulty(read_runs(tmp_path)))


def test_interval_of_a_run_whose_episodes_were_kept_is_over_videos(tmp_path):
    record = RunRecord("full_seed0", tmp_path)
    record.begin(plan_start([], steps=STEPS, checkpoint_step=0), {}, ATTEMPT)
    record.append(0, {HELD_OUT_ACCURACY: 0.5})
    (run,) = read_runs(tmp_path)
    assert run.held_out_interval(0.5) == wilson(0.5, 256)
    record.keep_held_out([{"video": f"v{i // 4}", "correct": int(i < 8)} for i in range(16)])
    (run,) = read_runs(tmp_path)
    # Two of four videos right, all questions of one alike: as good as four answers, not sixteen.
    assert run.held_out_interval(0.5) == pytest.approx((0.0, 1.0), abs=0.01)


def test_a_claim_is_decided_where_videos_and_seeds_agree(tmp_path):
    rights = {
        # On the same eight videos more with every seed: decided.
        "full": ([1] * 10 + [0, 0], [1] * 10 + [0, 0], [1] * 11 + [0]),
        "single_turn": ([1, 1] + [0] * 10, [1, 1] + [0] * 10, [1, 1] + [0] * 10),
        # As much in the mean as with one seed alone: the seeds do not decide it.
        "no_gate": ([1] * 10 + [0, 0], [1] * 10 + [0, 0], [0] * 12),
    }
    for variant, seeds in rights.items():
        for seed, own in enumerate(seeds):
            write_held_out(tmp_path, variant, seed, own)
    write_held_out(tmp_path, "no_turn_reward", 0, [0] * 12)  # one seed: no line
    head, _, look, gate = table_of_claims(read_runs(tmp_path))
    assert head == "| A less B | seeds | mean | over videos | over seeds | decided |"
    cells = [cell.strip() for cell in look.split("|")[1:-1]]
    # Gains 8/12, 8/12, 9/12; their standard error is (1/12) / 3 = .0278, times 4.303 is .12.
    assert cells[:3] == ["full, single_turn", "+0.67, +0.67, +0.75", "+0.69"]
    assert cells[4:] == ["0.57 to 0.81", "yes"]
    low, high = (float(bound) for bound in cells[3].split(" to "))
    assert 0 < low < 25 / 36 < high < 1
    cells = [cell.strip() for cell in gate.split("|")[1:-1]]
    assert cells[:3] == ["full, no_gate", "+0.00, +0.00, +0.92", "+0.31"]
    assert float(cells[3].split(" to ")[0]) > 0
    assert cells[4:] == ["-1.01 to 1.62", "no"]


def test_claims_need_two_variants_with_two_seeds(tmp_path, capsys):
    write_held_out(tmp_path, "full", 0, [1] * 12)
    write_held_out(tmp_path, "single_turn", 0, [1] * 12)
    with pytest.raises(SystemExit, match="2"):
        tables_main(["claims", "--results", str(tmp_path)])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("no two variants were run to their end with two seeds; expected at least one pair of full")
    with pytest.raises(ValueError, match="1 seeds; expected 2 to 5"):
        gain_over_seeds([0.1])


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        ([(0.1, 0.2), (0.01, 0.5)], True),
        ([(-0.2, -0.1), (-0.5, -0.01)], True),
        ([(0.1, 0.2), (-0.01, 0.5)], False),
        ([(0.1, 0.2), (-0.2, -0.1)], False),
        ([(0.1, 0.2), (None, None)], False),
        ([(0.0, 0.2), (0.1, 0.2)], False),
    ],
)
def test_intervals_decide_together(bounds, expected):
    assert decided(*(Estimate(value=0.0, num=3, low=low, high=high) for low, high in bounds)) is expected


@pytest.mark.slow
def test_short_trial_of_a_variant_runs_stops_and_is_skipped(tmp_path):
    command = [sys.executable, "-m", "recipes.learning_study.run", "no_gate", "--steps", "2"]
    command += ["--results", str(tmp_path / "results"), "--outputs", str(tmp_path / "outputs")]
    assert subprocess.run(command, timeout=3000).returncode == 0
    record = RunRecord("no_gate_seed0", tmp_path / "results")
    assert [line["step"] for line in record.lines()] == [0, 1, 2]
    assert HELD_OUT_ACCURACY in record.lines()[0]["data"]
    assert record.facts()["attempts"][0]["exit_code"] == 0
    assert len(record.facts()["examples"]["last_step"]) == 4
    json.dumps(record.facts())
    again = subprocess.run(command, timeout=300, capture_output=True, text=True)
    assert again.returncode == 0
    assert "complete, 2 steps: kept as it is" in again.stdout


def test_run_reads_its_own_lines(runs):
    run = runs[0]
    assert isinstance(run, StudyRun)
    assert run.series("videomtr/episode/turns")[0] == list(range(1, STEPS + 1))
    assert run.end("no/such/metric") is None
    assert run.wall_seconds == 600
