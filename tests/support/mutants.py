# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Do the tests see faults? Plants one fault after the other in a copy of the package and runs the tests named for it.

    python tests/support/mutants.py [words of a fault's name ...]

Every fault must make a test fail, not merely take long; the copy without a fault must pass. What is heavy to import is
imported once, and each fault is tried in a process of its own that is forked from there.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = "verl_videomtr"
COPIED = (PACKAGE, "tests", "data_prep", "recipes", "hydra_plugins", "pyproject.toml")
OUTPUT = "output.txt"
"""What pytest said last, in the copy."""
MOST_SECONDS = 600
"""Of one fault's tests, which take some seconds on a quiet machine."""


@dataclasses.dataclass(frozen=True)
class Fault:
    """One fault, and where it must be seen."""

    name: str
    file: str
    """Below the package."""
    old: str
    """A piece of code that stands once in the file."""
    new: str
    tests: tuple[str, ...]
    """Below tests/, as pytest takes them."""


PATCHES, SIZED, COLUMNS = (
    "core/test_patches.py",
    "verl_plugin/test_sized_images.py",
    "verl_plugin/test_worker_columns.py",
)
_ROWS = ("a_micro_batch_is_the_same_either_way", "an_image_that_several_rows_show_is_one_tensor")
_ROWS += ("images_that_are_no_rgb_images_go_as_patches",)
_ROWS += ("a_size_for_which_patches_differ_goes_as_patches_with_one_warning",)
_ROWS += ("the_event_loop_answers_between_trajectories_that_are_ready_together",)
SHARED = tuple(
    f"verl_plugin/test_shared_frames.py::test_{name}"
    for name in (
        "a_frame_is_stored_with_the_last_row_that_shows_it",
        "frames_come_back_from_rows_of_the_batch_and_of_others",
    )
)
DEVICE = tuple(f"verl_plugin/test_device_patches.py::test_{name}" for name in _ROWS)
POLICY, LOOP, TRAINERS = (
    "verl_plugin/test_token_policy.py",
    "verl_plugin/test_agent_loop.py",
    "verl_plugin/test_trainers.py",
)
PARTS, RECORDS, FILES = (
    "verl_plugin/test_trainer_parts.py",
    "verl_plugin/test_recorder.py",
    "core/test_trajectory_files.py",
)
EPISODE, REWARDS, SCORING, ESTIMATORS = (
    "core/test_episode.py",
    "core/test_rewards.py",
    "core/test_scoring.py",
    "verl_plugin/test_estimators.py",
)
CLIENT, CHAT, EXPORT = "serving/test_client.py", "serving/test_chat.py", "export/test_export.py"
TABLES, EVAL = "evaluation/test_tables.py", "evaluation/test_run.py"
ADAPTER = "integrations/test_lmms_adapter.py"
ROLLOUT, HEADS = "core/test_rollout.py", "verl_plugin/test_value_heads.py"
WATCHDOG, LOSSES, LOOPS = "core/test_watchdog.py", "core/test_losses.py", "verl_plugin/test_loop_workers.py"
KEPT, CHECKPOINTS = "verl_plugin/test_kept_checkpoints.py", "core/test_checkpoints.py"
IMAGES, INPUTS, BUILDER = (
    "verl_plugin/test_image_tokens.py",
    "verl_plugin/test_row_inputs.py",
    "verl_plugin/test_token_builder.py",
)
SPOOL = "serving/test_spool.py"
SHAPES, FAMILY, AGREEMENT = (
    "core/test_model_shapes.py",
    "verl_plugin/doctor/test_family.py",
    "verl_plugin/test_rollout_agreement.py",
)

_BESIDE, _MODELS = (
    "            self.save_beside(folder)\n",
    "            with self._verl_keeps_all():\n                super()._save_checkpoint()\n",
)

FAULTS = (
    Fault("data plane: a frame's rows and columns are swapped", "patches.py",
          ".permute(0, 3, 1, 2)", ".permute(0, 3, 2, 1)", (PATCHES,)),
    Fault("data plane: frames of one size in reverse", "patches.py",
          "torch.stack(list(same))", "torch.stack(list(same)[::-1])", (PATCHES,)),
    Fault("data plane: what the processor is called with is lost", "patches.py",
          "written[\"config\"]), written[\"call\"])", "written[\"config\"]))", (PATCHES,)),
    Fault("data plane: the processor's settings are lost", "patches.py",
          "kind.from_dict(written[\"config\"])", "kind()", (PATCHES,)),
    Fault("data plane: patches stay where the frames are", "patches.py",
          "stack if device is None else stack.to(device)", "stack", (PATCHES,)),
    Fault("data plane: a size is taken without a trial", "patches.py",
          "if not (made.dtype == given[PIXELS].dtype and torch.equal(made, given[PIXELS])):", "if False:", (PATCHES,)),
    Fault("data plane: a grid that is not the size's is taken", "patches.py",
          "if second is None or not torch.equal(first, second):", "if False:", (PATCHES,)),
    Fault("data plane: a processor that computes in numpy is taken", "patches.py",
          "if not isinstance(image_processor, TorchvisionBackend):", "if False:", (PATCHES,)),
    Fault("data plane: a row can be read once only", "verl_plugin/device_patches.py",
          "    row = dict(row)\n", "", DEVICE),
    Fault("data plane: rows that were not asked for", "verl_plugin/device_patches.py",
          "batch_data if indices is None else", "batch_data if True else", DEVICE),
    Fault("data plane: an image that is shown twice is two", "verl_plugin/frame_rows.py",
          "if id(image) not in known:", "if True:", DEVICE),
    Fault("data plane: grey images go as bytes", "verl_plugin/frame_rows.py",
          " or image.mode != \"RGB\":", ":", DEVICE),
    Fault("data plane: grids of the wrong sizes", "verl_plugin/frame_rows.py",
          "self._sizes[frame.shape[1], frame.shape[0]]", "self._sizes[frame.shape[0], frame.shape[1]]", DEVICE),
    Fault("data plane: a size that differs is not warned of", "verl_plugin/frame_rows.py",
          "                    logger.warning(", "                    logger.debug(", DEVICE),
    Fault("data plane: a frame is stored with the first row that shows it", "verl_plugin/shared_frames.py",
          "holders |= {id(frame): (key, place) for place, frame in enumerate(frames or ())}",
          "holders = {id(frame): (key, place) for place, frame in enumerate(frames or ())} | holders", SHARED),
    Fault("data plane: frames come back from the wrong place", "verl_plugin/shared_frames.py",
          "held[part[0]][part[1]]", "held[part[0]][0]", SHARED),
    Fault("data plane: finished trajectories keep the event loop", "verl_plugin/loop_workers.py",
          "            await asyncio.sleep(0)\n", "            pass\n", DEVICE),
    Fault("data plane: tokens of a size whatever the call", "verl_plugin/sized_images.py",
          "key = (size, repr(sorted(kwargs.items())))", "key = (size,)", (SIZED,)),
    Fault("data plane: the real processor looks at no pixels", "verl_plugin/sized_images.py",
          "made = copy.copy(processor)", "made = processor", (SIZED,)),
    Fault("data plane: training workers get no images", "verl_plugin/worker_columns.py",
          "name in READ or not about", "not about", (COLUMNS,)),
    Fault("data plane: training workers get texts", "verl_plugin/worker_columns.py",
          "not about.get(\"is_non_tensor\", False)", "True", (COLUMNS,)),
    Fault("the plan counts all logits of a fused head", "planner.py",
          "min(tokens, FUSED_TOKENS) if trained.fused_head else tokens", "tokens",
          ("core/test_planner.py::test_numbers_of_the_papers_run",)),
    Fault("the plan forgets the padding", "planner.py",
          "if not trained.padded:", "if True:",
          ("core/test_planner.py::test_padding_counts_in_the_fullest_micro_batch",)),
    Fault("a head of its own under FSDP 2 is passed", "verl_plugin/doctor/model.py",
          "or not is_fsdp2 or tied:", "or not is_fsdp2 or True:",
          ("verl_plugin/doctor/test_model.py::test_a_fused_head_under_fsdp_2",)),
    Fault("runs on one machine share a socket", "verl_plugin/weight_sockets.py",
          'f"{context.get_job_id()}-{context.get_node_id()[:12]}"', 'f"{context.get_job_id()}-node"',
          ("verl_plugin/test_weight_sockets.py",)),
    Fault("the engine looks for the weights elsewhere", "verl_plugin/weight_sockets.py",
          "os.environ[JOB_VARIABLE] = own_id()", "pass",
          ("verl_plugin/test_weight_sockets.py",)),
    Fault("data plane: the plan counts patches", "planner.py",
          "self.shape.frame_bytes if self.device_patches else", "self.shape.pixel_bytes_per_frame if True else",
          ("core/test_planner.py::test_numbers_of_the_papers_run",)),
    Fault("lmms: a failed episode answers None", "integrations/lmms_eval.py", '(line["episode"]["answer"] or "")',
          'line["episode"]["answer"]', (ADAPTER,)),
    Fault("lmms: the baseline is not played", "integrations/lmms_eval.py", "single_turn=single_turn",
          "single_turn=False",
          (ADAPTER,)),
    Fault("lmms: only the first address", "integrations/lmms_eval.py", "for url in base_url.split()",
          "for url in base_url.split()[:1]", (ADAPTER,)),
    Fault("lmms: options keep their underscores", "integrations/lmms_eval.py", "name.replace('_', '-')", "name",
          (ADAPTER,)),
    Fault("lmms: a part of a video is taken for the whole", "integrations/lmms_eval.py",
          'media[0].get("start_time") is not None or ', "", (ADAPTER,)),
    Fault("lmms: a second video is dropped", "integrations/lmms_eval.py", "len(media) != 1 or ", "not media or ",
          (ADAPTER,)),
    Fault("lmms: only the question's first text", "integrations/lmms_eval.py",
          '"\\n".join(part["text"] for part in parts if part["type"] == "text")',
          'next(part["text"] for part in parts if part["type"] == "text")', (ADAPTER,)),
    Fault("lmms: a path from where it was started", "integrations/lmms_eval.py", 'os.path.abspath(media[0]["url"])',
          'media[0]["url"]', (ADAPTER,)),
    Fault("lmms: other questions go on with the run", "integrations/lmms_eval.py", "sha256=digest", 'sha256=""',
          (ADAPTER,)),
    Fault("lmms: requests share an id", "integrations/lmms_eval.py", "/{doc_id}/{number}", "", (ADAPTER,)),
    Fault("lmms: failures are not logged", "integrations/lmms_eval.py", 'if line["status"] == "lost":', "if False:",
          (ADAPTER,)),
    Fault("tables: macro counts questions", "evaluation/statistics.py",
          "_estimate(values, videos, groups)\n\n\ndef mcnemar",
          '_estimate(values, videos, ["all"] * len(values))\n\n\ndef mcnemar', (TABLES,)),
    Fault("tables: one-sided p", "evaluation/statistics.py", "2 * tail / 2**num", "tail / 2**num", (TABLES,)),
    Fault("tables: an interval of 90%", "evaluation/statistics.py", "CONFIDENCE = 0.95", "CONFIDENCE = 0.90",
          (TABLES,)),
    Fault("tables: a question of several types counts once", "evaluation/results.py",
          "return [value] if isinstance(value, str) else list(value)",
          "return [value] if isinstance(value, str) else list(value)[:1]", (TABLES,)),
    Fault("tables: lengths in the order of the alphabet", "evaluation/benchmarks.py",
          'order=("short", "medium", "long"),',
          "", (TABLES,)),
    Fault("tables: the paper's rows of another number of frames", "evaluation/benchmarks.py",
          "PAPER.get(benchmark, {}).get(frame_budget, ())", "PAPER.get(benchmark, {}).get(32, ())", (TABLES,)),
    Fault("tables: what was not played is in the second number", "evaluation/tables.py",
          "answered=accuracy(played)", "answered=accuracy(results)", (TABLES,)),
    Fault("tables: an unanswered question is left out of the official file", "evaluation/official.py",
          "for s in samples if s.data_source == source]",
          "for s in samples if s.data_source == source and s.sample_id in answers]", (TABLES,)),
    Fault("tables: positions count from 1", "evaluation/official.py", "LETTERS.index(choice) if choice",
          "1 + LETTERS.index(choice) if choice", (TABLES,)),
    Fault("tables: retrievals count invalid turns", "evaluation/results.py",
          'sum(action == "retrieve" for action', 'sum(action != "answer" for action', (TABLES,)),
    Fault("tables: the overview is no best look", "evaluation/results.py",
          'ious = [episode.get("initial_iou"), *episode',
          "ious = [*episode", (TABLES,)),
    Fault("tables: B - A is A - B", "evaluation/comparison.py", "float(b.correct) - float(a.correct)",
          "float(a.correct) - float(b.correct)", (TABLES,)),
    Fault("tables: a text of the file steers the terminal", "evaluation/rendering.py",
          'one_line(cell).replace("|", "\\\\|")', "cell", (EVAL,)),
    Fault("client: a redirection is followed", "serving/client.py", "            allow_redirects=False,\n", "",
          (CLIENT,)),
    Fault("client: a body in the wrong order", "serving/client.py", "block.append(part)", "block.insert(0, part)",
          (CLIENT, CHAT)),
    Fault("client: the last block is not sent", "serving/client.py", "        if block:\n            yield block\n", "",
          (CLIENT, CHAT)),
    Fault("spool: texts overlap", "serving/spool.py", "segment.num_bytes += len(text)",
          "segment.num_bytes += len(text) - 1",
          (SPOOL,)),
    Fault("spool: a file stays open for ever", "serving/spool.py",
          "        weakref.finalize(self, os.close, self.descriptor)\n", "", (SPOOL,)),
    Fault("spool: a file keeps its name", "serving/spool.py", "        os.unlink(name)\n", "",
          (SPOOL,)),
    Fault("spool: a short write is taken for a whole one", "serving/spool.py",
          "            while written < len(text):\n",
          "            if written < len(text):\n", (SPOOL,)),
    Fault("journal: a cut line stays", "serving/journal.py", "            self._file.truncate(size)\n", "", (CLIENT,)),
    Fault("eval: a locked folder is written to", "evaluation/command.py",
          "            with Journal(args.out / JOURNAL) as journal:\n"
          "                open_run(args.out, described, num_answers=len(journal.entries))\n",
          "            open_run(args.out, described, num_answers=0)\n"
          "            with Journal(args.out / JOURNAL) as journal:\n",
          (EVAL,)),
    Fault("eval: answers are gone on with, of whatever settings", "evaluation/command.py",
          "num_answers=len(journal.entries)", "num_answers=0", (EVAL,)),
    Fault("client: what a paused server cut is an answer", "serving/completion.py",
          'GIVEN_UP = ("abort", "error")', "GIVEN_UP = ()", (CLIENT,)),
    Fault("eval: all begin before it is known what they hold", "evaluation/playing.py",
          "self.largest_bytes if self.largest_bytes else FIRST_EPISODES)",
          "self.largest_bytes if self.largest_bytes else self.max_episodes)", (EVAL,)),
    Fault("pictures: frames of all episodes wait for the encoder", "serving/pictures.py", "Semaphore(MAX_READING)",
          "Semaphore(10**9)", (CHAT,)),
    Fault("a dead idle connection costs an attempt", "serving/client.py",
          "if is_last or not connection[\"reused\"]:", "if True:", (CLIENT,)),
    Fault("an answer without an end is whole", "serving/completion.py",
          "if not isinstance(finish_reason, str) or not finish_reason:", "if False:", (CLIENT,)),
    Fault("Retry-After is not obeyed", "serving/client.py",
          "wait_seconds = max(wait_seconds, passing.wait_seconds)", "pass", (CLIENT,)),
    Fault("a huge answer is read to its end", "serving/client.py", "if len(data) > limit:", "if False:", (CLIENT,)),
    Fault("the key is shown", "serving/server.py", 'text.replace(self.api_key, "[key]") if self.api_key else text',
          "text", (CLIENT,)),
    Fault("drift is judged across a window that slides", "serving/chat.py",
          "self._context_start, self._expected_ids = context_start, None", "self._context_start = context_start",
          (CHAT,)),
    Fault("reasoning is left out", "serving/chat.py", "if thought is not None:", "if False:", (CHAT,)),
    Fault("top_k is left to the server", "serving/endpoints.py", '"top_k": sampling["top_k"], ', "", (CHAT,)),
    Fault("pictures are encoded anew for every episode", "serving/pictures.py",
          "if p not in self._kept and p not in self._coming]", "if p not in self._coming]", (CHAT,)),
    Fault("intervals resample questions", "evaluation/statistics.py", '_estimate(values, videos, ["all"]',
          '_estimate(values, list(map(str, range(len(values)))), ["all"]', (TABLES,)),
    Fault("a failed episode is left out", "evaluation/tables.py", "micro = accuracy(results)",
          "micro = accuracy([one for one in results if one.failure is None] or results)", (TABLES,)),
    Fault("MLVU's headline is micro", "evaluation/benchmarks.py",
          'headline="task",\n        tables=("task", "category"),\n        order',
          'tables=("task", "category"),\n        order', (TABLES,)),
    Fault("a missing answer is a guess", "evaluation/official.py", '(option_letter(answer, sample.options) or "")',
          '(option_letter(answer, sample.options) or "A")', (TABLES,)),
    Fault("an answered turn is asked again", "serving/chat.py",
          "entry = self.journal.get(key) if self.journal is not None else None", "entry = None", (CHAT,)),
    Fault("the scale of adapters is left out", "export/adapters.py", "delta = (alpha / rank) * (", "delta = 1.0 * (",
          (EXPORT,)),
    Fault("the export is not compared", "export/writing.py", "if not torch.equal(loaded[name], tensor)]", "if False]",
          (EXPORT,)),
    Fault("segment between frames takes the frame nearest to its start", "episode.py",
          "middle = (start + end) / 2", "middle = start", (EPISODE,)),
    Fault("segment outside the video counts", "episode.py", " if start < duration_seconds]", "]", (EPISODE,)),
    Fault("window is one turn too long", "episode.py", "len(self.turns) - self.config.window)",
          "len(self.turns) - self.config.window - 1)", (ROLLOUT,)),
    Fault("budget does not bound a retrieval", "episode.py", "min(self.config.frames_per_retrieval, left)",
          "self.config.frames_per_retrieval", (EPISODE,)),
    Fault("answer that just fitted is truncated", "episode.py", "        if isinstance(action, Answer):\n",
          "        if isinstance(action, Answer) and not out_of_room:\n", (EPISODE,)),
    Fault("best IoU moves only past the margin", "rewards.py", "else max(baseline, iou)",
          "else (iou if improves else baseline)", (REWARDS,)),
    Fault("the gate lets wrong answers through", "rewards.py",
          "correct or config.gate is Gate.NONE", "True", (REWARDS,)),
    Fault("the gate takes the last turn's format reward", "rewards.py", "formats[:-1] = [0.0] * (num_turns - 1)",
          "formats = [0.0] * num_turns", (REWARDS,)),
    Fault("a drop costs nothing", "rewards.py", "-config.drop_penalty * max", "0.0 * max", (REWARDS,)),
    Fault("NaN is a reward", "scoring.py", "isinstance(value, numbers.Real) and math.isfinite(value)",
          "isinstance(value, numbers.Real)", (SCORING,)),
    Fault("reward functions run on the shared executor", "scoring.py",
          'threading.Thread(target=work, name="videomtr-reward", daemon=True).start()',
          "loop.run_in_executor(None, work)", (SCORING,)),
    Fault("a failed server is an empty response", "verl_plugin/token_policy.py",
          'FAILED_STOPS = ("error", "abort", "aborted", "cancelled")', "FAILED_STOPS = ()", (LOOP,)),
    Fault("a response is not closed", "verl_plugin/token_policy.py",
          "closed.append(self._turn_end.missing(self._sampled))", "pass", (POLICY,)),
    Fault("special tokens are left out of the text", "verl_plugin/token_policy.py",
          "self._tokenizer.decode(self._turn_end.without_end(self._sampled))",
          "self._tokenizer.decode(self._sampled, skip_special_tokens=True)", (POLICY,)),
    Fault("closing tokens are trained", "verl_plugin/token_policy.py", "self.mask = [*self.mask, *[0] * len(ids)]",
          "self.mask = [*self.mask, *[1] * len(ids)]", (POLICY,)),
    Fault("a slid context may be too long", "verl_plugin/token_policy.py",
          "if self._room(continued) < 1 or continued.num_prompt_tokens > self._limits.segment_prompt:",
          "if self._room(continued) < 1:", (POLICY,)),
    Fault("room is counted without the context's limit", "verl_plugin/token_policy.py",
          "room = min(room, self._limits.context - len(segment.ids))", "pass", (POLICY,)),
    Fault("a slid context keeps a dropped turn's images", "verl_plugin/token_policy.py",
          "for _, images in self._shown[first_turn:] for image in images",
          "for _, images in self._shown for image in images", (POLICY, LOOP)),
    Fault("the opened thought is not seen", "verl_plugin/turn_end.py",
          "return _THOUGHT if", 'return "" if', (POLICY,)),
    Fault("only the newest weights are kept", "verl_plugin/token_policy.py",
          "        if oldest is not None:\n            self.server_fields",
          "        if False:\n            self.server_fields", (POLICY,)),
    Fault("a response of its whole limit counts as cut", "verl_plugin/token_policy.py",
          " and self._sampled[-1] not in self._turn_end.end_ids", "", (POLICY,)),
    Fault("end tokens of the generation config are not known", "verl_plugin/turn_end.py",
          "more = ends if isinstance(ends, list)", "more = [] if isinstance(ends, list)", (POLICY,)),
    Fault("a reward falls on the last token of its row", "verl_plugin/agent_loop.py",
          "place, turn_of_place = (row, end - 1), turn",
          "place, turn_of_place = (row, len(masks[row]) - 1), turn", (LOOP,)),
    Fault("a turn without tokens takes no discount", "verl_plugin/agent_loop.py",
          "gamma_turn ** (turn - turn_of_place) * reward", "reward", (LOOP,)),
    Fault("rows without responses are trained", "verl_plugin/agent_loop.py", "if any(segment.mask)]", "]", (LOOP,)),
    Fault("images and placeholders are not compared", "verl_plugin/agent_loop.py",
          "            self._as_sent(row.ids, row.images)\n", "            pass\n", (LOOP,)),
    Fault("a retrieval that brought nothing back is paid", "trajectory.py",
          ' and bool(self.episode["returned"][turn])', "", (ESTIMATORS,)),
    Fault("the bonus sits behind the retrieval", "verl_plugin/estimators.py",
          "bonus_tokens[row.place, end - 1] = bonus", "bonus_tokens[row.place, end] = bonus", (ESTIMATORS,)),
    Fault("R_acc is whether the answer is right", "verl_plugin/estimators.py",
          'trajectory.components.get("acc", float(trajectory.correct))', "float(trajectory.correct)", (ESTIMATORS,)),
    Fault("rows of a trajectory are told apart", "verl_plugin/estimators.py",
          'key.rsplit("_", 1)[0]', "key", (ESTIMATORS,)),
    Fault("the bonus is not added", "verl_plugin/estimators.py",
          "token_level_rewards + context.bonus.to(token_level_rewards)", "token_level_rewards", (ESTIMATORS,)),
    Fault("padding rows are counted", "verl_plugin/batch_rows.py", 'if tag.get("is_padding", False):', "if False:",
          (PARTS, TRAINERS)),
    Fault("a trajectory counts once a row", "verl_plugin/batch_rows.py", " if row.number == 0]", "]", (PARTS,)),
    Fault("frame counts add up over steps", "verl_plugin/frame_counters.py", "self._before = now", "pass", (PARTS,)),
    Fault("mini-batches keep their size while the context slides", "verl_plugin/mini_batches.py",
          "role.ppo_mini_batch_size = rows // config.actor_rollout_ref.rollout.n", "pass", (PARTS, TRAINERS)),
    Fault("sizes are not put back", "verl_plugin/mini_batches.py", "        role.ppo_mini_batch_size = configured\n",
          "        pass\n", (PARTS,)),
    Fault("the separate trainer divides its batch", "verl_plugin/mini_batches.py", 'if base_mode == "separate_async":',
          "if False:", (PARTS,)),
    Fault("the schedule is not loaded", "verl_plugin/schedule.py", "self.bootstrap.load_state_dict(", "dict(",
          (PARTS, TRAINERS)),
    Fault("another folder's schedule is resumed", "verl_plugin/trainers.py",
          'Path(trainer.resume_from_path) if trainer.resume_mode == "resume_path" else folder', "folder", (TRAINERS,)),
    Fault("the schedule is saved behind verl's announcement", "verl_plugin/kept_checkpoints.py",
          _BESIDE + _MODELS, _MODELS + _BESIDE, (TRAINERS,)),
    Fault("the warm-up pads for the actor", "verl_plugin/trainers.py",
          "self.config.trainer.critic_warmup <= self.global_steps", "True", (TRAINERS,)),
    Fault("verl's step runs outside the context", "verl_plugin/trainers.py",
          "stack.enter_context(batch_context(context))", "batch_context(context)", (TRAINERS,)),
    Fault("credit is taken one token early", "verl_plugin/recorder.py", "(place_of[number], end - 1)",
          "(place_of[number], end - 2)", (RECORDS, TRAINERS)),
    Fault("a resumed step is appended to the old one", "verl_plugin/recorder.py",
          "            write_file(path, records)", "            append_to_file(path, records)", (RECORDS,)),
    Fault("lines of a batch are shuffled", "verl_plugin/recorder.py", "places = sorted(", "places = list(", (RECORDS,)),
    Fault("what ended a run has no line", "verl_plugin/counted_run.py",
          "            self._take(\"train\")\n            raise", "            raise",
          (TRAINERS,)),
    Fault("rows without a record go unsaid", "verl_plugin/recorder.py", "if num_without_record and not",
          "if False and not", (TRAINERS,)),
    Fault("lost trajectories have no line", "verl_plugin/recorder.py",
          "[*played, *_lost_records(lost, step=step)]", "played", (RECORDS,)),
    Fault("a cut line is glued to the next", "trajectory_files.py",
          "        _take_off_cut_line(file, path)\n", "", (FILES,)),
    Fault("a cut line is not counted", "trajectory_files.py",
          "num_cut=len(lines) - len(records)", "num_cut=0", (FILES,)),
    Fault("scoring anew keeps the old advantages", "rescore.py", "    if summary.num_changed:\n        # Only",
          "    if False:\n        # Only", (RECORDS,)),
    Fault("scoring anew believes the record", "rescore.py", "if differ := differences(line[\"episode\"], episode):",
          "if differ := []:", (RECORDS,)),
    Fault("a critic may load without its backbone", "verl_plugin/value_heads.py",
          "    if missing or unexpected or mismatched:\n", "    if False:\n",
          (f"{HEADS}::test_checkpoint_that_does_not_fit_raises",)),
    # Losses, waits and checkpoints.
    Fault("a long update is taken for a rollout that stands still", "watchdog.py",
          "if self._phases and self._phases[-1][1]:", "if True:", (WATCHDOG, TRAINERS)),
    Fault("a dead process waits for the limit", "watchdog.py",
          "                    return self._say_dead(process, health)\n                clock",
          "                    continue\n                clock", (WATCHDOG,)),
    Fault("a look that fails suspends the limit", "watchdog.py",
          "        except Exception:  # the limit holds all the same\n", "        except ValueError:\n", (WATCHDOG,)),
    Fault("a process killed for memory is no death", "verl_plugin/processes.py",
          "(RayActorError, OutOfMemoryError, WorkerCrashedError)", "(RayActorError,)",
          (f"{LOOPS}::test_each_way_in_which_ray_tells_a_death_is_one",)),
    Fault("an interruption that a library tells anew is lost", "watchdog.py",
          "            if self._verdict is None:\n                raise\n", "            raise\n", (WATCHDOG,)),
    Fault("an error of the interruption hides why", "watchdog.py", "message = self._verdict or self", "message = self",
          (WATCHDOG,)),
    Fault("a pause of the watching process counts as silence", "watchdog.py", "min(now - self._last, self._most)",
          "now - self._last", (WATCHDOG,)),
    Fault("whoever swallows the end is left alone", "watchdog.py",
          "if self._dismissed.wait(self._unwind_seconds / 10):", "if True:", (WATCHDOG,)),
    Fault("who does not answer is not named", "watchdog.py", "silent.append(process)", "pass", (WATCHDOG,)),
    Fault("a movement is not heard", "watchdog.py", '"""Say that something went on."""\n        self._clock.reset()\n',
          '"""Say that something went on."""\n', (WATCHDOG,)),
    Fault("the rollout has the limit of an update", "verl_plugin/watched_run.py", "of_episodes=True)",
          "of_episodes=False)", (TRAINERS,)),
    Fault("phases have no names", "verl_plugin/watched_run.py",
          "setattr(self, name, self._in_phase(phase, getattr(self, name)))", "pass", (TRAINERS,)),
    Fault("the samples that are waited for are not named", "verl_plugin/watched_run.py",
          "manager.running_samples() or manager.ledger.open_samples()", "manager.running_samples()", (TRAINERS,)),
    Fault("the last checkpoint is not named", "checkpoints.py", "if not step:", "if True:", (CHECKPOINTS,)),
    Fault("only what was reported is lost", "losses.py",
          "lost = prompt.num_sessions - len(sessions.get(prompt.uid, ()))",
          "lost = sum(report.uid == prompt.uid for report in self._reports[partition])", (LOSSES,)),
    Fault("a prompt is counted at each look", "losses.py", "                del self._open[prompt.uid]\n", "",
          (LOSSES,)),
    Fault("validation's losses stop training", "losses.py",
          'if partition == "train":\n                    self._recent', "if True:\n                    self._recent",
          (LOSSES,)),
    Fault("what is still out is not counted as asked for", "losses.py", "num_asked += sum(prompt", "sum(prompt",
          (LOSSES,)),
    Fault("validation empties the losses of training", "verl_plugin/counted_run.py",
          'self.ledger.take("val")\n        try:', 'self.ledger.take("train")\n        try:',
          (f"{LOOPS}::test_a_validation_leaves_the_losses_of_training_to_their_step",)),
    Fault("the share is not judged where prompts are added", "verl_plugin/counted_run.py",
          "if (judged := self.ledger.too_many()) is not None:", "if (judged := None) is not None:",
          (f"{LOOPS}::test_a_failing_asynchronous_run_ends_instead_of_refilling_for_ever",)),
    Fault("a loop that gives nothing back is finished", "verl_plugin/loop_workers.py",
          "if isinstance(output, list) and not output:", "if False:",
          (f"{LOOPS}::test_what_verl_itself_loses_behind_any_agent_loop_is_counted_too",)),
    Fault("reasons are told twice", "verl_plugin/loop_workers.py", "self.ledger.report(pulse.reports[-new:])",
          "self.ledger.report(pulse.reports)", (f"{LOOPS}::test_answers_that_overlap_tell_a_loss_once",)),
    Fault("an unreadable video counts as any failure", "verl_plugin/loop_workers.py",
          "unreadable = isinstance(error, VideoError)", "unreadable = False",
          (f"{LOOPS}::test_every_kind_of_loss_is_counted_and_has_a_reason",)),
    Fault("a trainer that asks is ended all the same", "verl_plugin/loop_workers.py",
          "    def heard(self) -> None:\n        self._clock.reset()", "    def heard(self) -> None:\n        pass",
          (f"{LOOPS}::test_a_trainer_that_stands_still_is_ended_by_a_worker",)),
    Fault("a dead actor is only silent", "verl_plugin/processes.py",
          'return Health(state="dead", cause=_say_cause(error))', 'return Health(state="silent")',
          (f"{LOOPS}::test_a_killed_actor_is_seen_with_its_pid_and_its_log",)),
    Fault("a failed save leaves its half", "verl_plugin/kept_checkpoints.py",
          "            self._remove_everywhere([folder])\n", "", (KEPT,)),
    Fault("verl drops the older checkpoint first", "verl_plugin/kept_checkpoints.py", "with self._verl_keeps_all():",
          "with contextlib.nullcontext():", (KEPT,)),
    Fault("each process counts its own checkpoints", "verl_plugin/kept_checkpoints.py",
          "checkpoints.plan_removal(root, step, keep=keep)", "[]", (KEPT,)),
    Fault("a half-written checkpoint is resumed from", "checkpoints.py",
          "unfinished = (path / SAVING_MARK).exists() or", "unfinished =", (CHECKPOINTS, KEPT)),
    Fault("an image of another size is taken for any", "verl_plugin/image_tokens.py", "size = (width_px, height_px)",
          "size = (height_px, height_px)", (f"{IMAGES}::test_collapsed_ids_are_the_templates_own[qwen2_vl]",)),
    Fault("image tokens without an image are sent", "verl_plugin/image_tokens.py",
          "if self._image_token_id in rest or len(between) != num_expected:", "if False:",
          (f"{IMAGES}::test_an_image_too_many_is_an_error[qwen2_vl]",)),
    Fault("marks around an image are sent, too", "verl_plugin/image_tokens.py",
          "collapsed += written.short", "collapsed += written.expanded",
          (f"{IMAGES}::test_collapsed_ids_are_the_templates_own[glm4v]",)),
    Fault("token types are all text", "verl_plugin/row_inputs.py", "(input_ids == image_token_id).long()",
          "(input_ids != input_ids).long()",
          (f"{INPUTS}::test_row_inputs_are_what_the_processor_makes_of_the_whole_conversation[gemma4]",)),
    Fault("pixels of the first image stand for all", "verl_plugin/row_inputs.py", "images=list(images)",
          "images=[images[0]] * len(images)",
          (f"{INPUTS}::test_row_inputs_are_what_the_processor_makes_of_the_whole_conversation[qwen2_vl]",)),
    Fault("the blank image counts", "verl_plugin/blank_image.py", "embeds + 0.0 * features.mean()",
          "embeds + features.mean()",
          (f"{INPUTS}::test_a_blank_image_reaches_every_parameter_and_changes_nothing[internvl]",)),
    Fault("the blank image reaches nothing", "verl_plugin/blank_image.py", "embeds + 0.0 * features.mean()",
          "embeds + 0.0 * features.detach().mean()",
          (f"{INPUTS}::test_a_blank_image_reaches_every_parameter_and_changes_nothing[internvl]",)),
    Fault("the tokenizer adds a first token", "verl_plugin/token_builder.py", '"add_special_tokens": False',
          '"add_special_tokens": True', (f"{BUILDER}::test_two_turns_are_the_templates_own[mistral3]",)),
    Fault("templates that alternate are refused", "verl_plugin/token_builder.py", "except TemplateError:",
          "except ZeroDivisionError:", (f"{BUILDER}::test_two_turns_are_the_templates_own[mistral3]",)),
    Fault("every template is asked behind a response", "verl_plugin/token_builder.py",
          "        builder._tokenize_single_non_tool(_USER, add_generation_prompt=True)\n",
          "        raise TemplateError\n",
          (f"{BUILDER}::test_a_builder_whose_template_takes_any_order_keeps_its_way",)),
    Fault("nothing closes a response", "verl_plugin/turn_end.py",
          "closing_ids = tuple(tokenizer.encode(closing, add_special_tokens=False))", "closing_ids = ()",
          (f"{BUILDER}::test_two_turns_are_the_templates_own[internvl]",)),
    Fault("a critic of another layout loads in part", "verl_plugin/value_heads.py",
          "if missing or unexpected or mismatched:", "if unexpected or mismatched:",
          (f"{HEADS}::test_checkpoint_that_does_not_fit_raises",)),
    Fault("a difference that is no number passes", "verl_plugin/rollout_agreement.py",
          "elif not difference <= self._most:", "elif difference > self._most:", (AGREEMENT,)),
    Fault("every step is compared", "verl_plugin/rollout_agreement.py", "        self._is_done = True\n", "",
          (AGREEMENT,)),
    Fault("a tied head is counted twice", "model_shapes.py",
          "is_tied = head is None or head.weight is model.get_input_embeddings().weight", "is_tied = False",
          (f"{SHAPES}::test_any_family_is_counted_as_its_weights_are[gemma4]",)),
    Fault("frames of a model that pools have another grid", "model_shapes.py",
          ' or vision.get("pooling_kernel_size")', "",
          (f"{SHAPES}::test_the_grid_of_a_model_that_is_not_here_is_the_papers",)),
    Fault("experts are counted in silence", "model_shapes.py",
          'if getattr(text, "num_experts", None) or getattr(text, "num_local_experts", None):', "if False:",
          (f"{SHAPES}::test_what_does_not_hold_for_a_family_is_said",)),
    Fault("a server that never stops is passed", "verl_plugin/doctor/family.py",
          "if closing and closing[0] not in stops:", "if False:",
          (f"{FAMILY}::test_a_server_that_does_not_stop_where_the_template_ends",)),
    Fault("rows that cannot be joined are passed", "verl_plugin/doctor/family.py",
          "ours[name].shape[1:] != tall[name].shape[1:]", "False", (f"{FAMILY}::test_pixels_that_verl_cannot_join",)),
    Fault("adapters on a vision tower are passed", "verl_plugin/doctor/family.py",
          "elif outside and not is_critic:", "elif False:",
          (f"{FAMILY}::test_adapters_outside_of_the_language_model[internvl]",)),
    Fault("the doctor opens a thought twice", "verl_plugin/doctor/family.py",
          "reply.removeprefix(opened_thought(tokenizer, ids))", "reply",
          (f"{FAMILY}::test_a_family_that_has_been_run_passes[qwen3_vl_thinking]",)),
    Fault("another text than the template's is passed", "verl_plugin/doctor/family.py",
          "if shown != list(case.model.tokenizer.encode(text, add_special_tokens=False)):", "if False:",
          (f"{FAMILY}::test_a_template_that_forgets_what_was_thought",)),
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("words", nargs="*", help="try only the faults whose names hold one of these")
    words = parser.parse_args().words
    faults = [fault for fault in FAULTS if not words or any(word in fault.name for word in words)]
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        copy.mkdir()
        for name in COPIED:
            copy_of = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy_of(ROOT / name, copy / name)
        _import_what_is_heavy()
        return _try_all(faults, copy)


def _try_all(faults: list[Fault], copy: Path) -> int:
    if not faults:
        print("no fault has such a name")
        return 2
    whole = sorted({test for fault in faults for test in fault.tests})
    began = time.monotonic()
    if _result_of(whole, copy, most_seconds=5 * MOST_SECONDS) != "survived":
        print((copy / OUTPUT).read_text(errors="replace")[-3000:])
        print("the tests fail without any fault; repair them first")
        return 2
    num_seen = 0
    for fault in faults:
        path = copy / PACKAGE / fault.file
        text = path.read_text(encoding="utf-8")
        if text.count(fault.old) != 1:
            print(f"STALE     {fault.name}: {fault.file} holds its piece {text.count(fault.old)} times; expected once")
            continue
        path.write_text(text.replace(fault.old, fault.new), encoding="utf-8")
        started = time.monotonic()
        result = _result_of(list(fault.tests), copy)
        path.write_text(text, encoding="utf-8")
        num_seen += result == "seen"
        said = result if result == "seen" else result.upper()
        print(f"{said:9} {time.monotonic() - started:5.1f} s  {fault.name}", flush=True)
    print(f"{num_seen} of {len(faults)} faults seen in {time.monotonic() - began:.0f} s")
    return int(num_seen < len(faults))


def _import_what_is_heavy() -> None:
    """Import everything but this project, so that a forked process need not."""
    os.environ["VERL_USE_EXTERNAL_PLUGINS"] = "none"
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() not in (ROOT, ROOT / "tests/support")]
    sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in getattr(finder, "__name__", "").lower()]
    import warnings

    warnings.simplefilter("ignore")
    import hydra  # noqa: F401
    import hypothesis  # noqa: F401
    import pytest  # noqa: F401
    import verl.experimental.agent_loop.agent_loop
    import verl.trainer.ppo.v1
    import verl.utils.dataset.rl_dataset  # noqa: F401


def _result_of(tests: list[str], copy: Path, *, most_seconds: float = MOST_SECONDS) -> str:
    """Run tests against the copy in a forked process: "seen" by a failing test, "survived", or "too long"."""
    child = os.fork()
    if child == 0:
        _run_tests(tests, copy)
    deadline = time.monotonic() + most_seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return "seen" if os.waitstatus_to_exitcode(status) else "survived"
        time.sleep(0.05)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return "too long"


def _run_tests(tests: list[str], copy: Path) -> None:
    """Never returns."""
    code = 3
    try:
        os.chdir(copy)
        os.environ["PYTHONPATH"] = os.pathsep.join([str(copy), str(copy / "tests/support")])
        sys.path[:0] = [str(copy), str(copy / "tests/support")]
        import pytest

        _register()
        options = ["-q", "-x", "-p", "no:cacheprovider", "-p", "no:hypothesispytest"]
        with open(OUTPUT, "w") as output, contextlib.redirect_stdout(output):
            code = int(pytest.main([*options, *(f"tests/{test}" for test in tests)]))
    finally:
        os._exit(code)


def _register() -> None:
    """Register the copy's plugin; what was imported before it has taken verl's own `hf_processor` by its name."""
    import verl.utils

    importlib.import_module("verl_videomtr.verl_plugin.register")
    for module in list(sys.modules.values()):
        if "hf_processor" in vars(module):
            vars(module)["hf_processor"] = verl.utils.hf_processor


if __name__ == "__main__":
    sys.exit(main())
