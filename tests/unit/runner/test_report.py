"""What is shown: plans in sentences, progress, a page for CI. All of it may be about hostile text."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest

from runner.plan import Refusal, to_json
from runner.planner import plan
from runner.report import Summary, clean, markdown, transcript
from runner.report_plan import plan_diff, plan_text
from runner.report_progress import Progress
from tests.support import plans

EVIL = "\x1b]0;owned\x07\x1b[2J\u202e"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


# ------------------------------------------------------------------------------------------------------------- plans


def test_a_plan_reads_like_sentences_with_their_lines() -> None:
    text = plan_text(plans.good())
    for sentence in (
        "profile full: first permitted (index.mld:4:3)",
        "reaches the MCP endpoint, api.example.com:443,80 (index.mld:5:3)",
        "tickets     command serve (index.mld:20:3)",
        "writes /code/project/tickets at /workspace/tickets (index.mld:21:3)",
        "tools: list_issues",
        "reaches *.github.com:443 (index.mld:22:3)",
        "holds GITHUB_TOKEN from env:GITHUB_TOKEN (index.mld:9:3)",
        "network: one of its own, for the hosts above",
    ):
        assert sentence in text, sentence


def test_a_plan_without_grants_says_so() -> None:
    text = plan_text(plan(plans.readonly(), plans.options()))
    assert "not full: network: policy @p: deny network (main.mld:2:1)" in text
    assert "network: none, no packet leaves" in text
    assert "agent asked for host API.Example.com (index.mld:5:3)" in text
    assert "writes nothing" in text


def test_equal_plans_print_alike_and_a_difference_is_a_diff() -> None:
    before = plans.good()
    assert plan_diff(before, replace(before, run="other")) == ""
    changed = plan_diff(before, plan(plans.full(), plans.options(runtime="runsc", agent="claude")))
    assert "+agent       agent claude" in changed.splitlines()


def test_cannot_drive_the_terminal_through_a_plan() -> None:
    evil = replace(
        plans.good(), environment=EVIL, warnings=(EVIL,), refused=(Refusal(asked=EVIL, member="agent", rule=EVIL),)
    )
    assert clean(EVIL) in plan_text(evil)
    assert not any(char in plan_text(evil) for char in EVIL if not char.isprintable())


# ---------------------------------------------------------------------------------------------------------- transcript


def events(**answer: object) -> list[dict[str, object]]:
    made = plans.good()
    return [
        {"t": 1.0, "event": "run", "name": "kubodan", "env": EVIL, "agent": "scripted"},
        {"t": 1.1, "event": "plan", "digest": "sha256:1", "plan": json.loads(to_json(made))},
        {"t": 2.0, "event": "call", "method": "tools/call", "server": EVIL, "name": EVIL, "decision": "deny",
         "rule": EVIL, "arguments": {EVIL: EVIL}, "labels": [EVIL]},
        {"t": 2.1, "event": "egress", "member": "agent", "host": EVIL, "port": 443, "decision": "deny", "rule": EVIL},
        {"t": 3.0, "event": "answer", "text": f"{EVIL}\n```\n# not a heading", "taint": ["src:mcp"], **answer},
        {"t": 3.5, "event": "left", "containers": [], "networks": ["mlld-kubodan"], "volumes": []},
        {"t": 4.0, "event": "closed", "exit": 0},
    ]  # fmt: skip


def test_cannot_drive_the_terminal_through_a_run() -> None:
    summary = Summary.of(events())
    for text in (transcript(summary), markdown(summary)):
        assert "\\x1b" in text
        assert not any(char in text for char in EVIL if not char.isprintable())


def test_what_is_left_is_named_with_the_command_that_removes_it() -> None:
    assert "left behind: network mlld-kubodan; remove it with: mlld sandbox gc" in transcript(Summary.of(events()))


def test_the_answer_cannot_break_out_of_its_fence_in_markdown() -> None:
    lines = markdown(Summary.of(events())).splitlines()
    opened = lines.index("````text")
    closed = lines.index("````")
    assert opened < lines.index("# not a heading") < closed


def test_who_may_reach_what_is_in_the_transcript() -> None:
    text = transcript(Summary.of(events()))
    assert "may reach *.github.com:443 (index.mld:22:3)" in text
    assert "holds GITHUB_TOKEN (index.mld:9:3)" in text
    assert (
        "tickets  command serve; all its tools; may reach nothing; writes /workspace/tickets (index.mld:21:3)" in text
    )


# ------------------------------------------------------------------------------------------------------------ progress

STATE = {"event": "state", "member": "tickets", "state": "ready"}


@pytest.mark.parametrize(
    ("stream", "style", "env", "said"),
    [
        (io.StringIO(), "auto", {}, ""),  # into a file or a pipe: silence
        (io.StringIO(), "auto", {"CI": "1"}, "   0.00s tickets    ready\n"),
        (io.StringIO(), "plain", {}, "   0.00s tickets    ready\n"),
        (Terminal(), "none", {}, ""),
        (Terminal(), "auto", {}, ""),  # nothing has taken long yet
    ],
)
def test_progress_is_quiet_unless_asked_or_slow(
    stream: io.StringIO, style: str, env: dict[str, str], said: str
) -> None:
    progress = Progress(stream, style, env=env, monotonic=lambda: 5.0)
    progress(STATE)
    assert stream.getvalue() == said


def test_a_terminal_gets_a_line_per_lane_that_is_redrawn_and_taken_away() -> None:
    times = iter([0.0, *[1.0] * 20])
    stream = Terminal()
    progress = Progress(stream, "auto", env={}, monotonic=lambda: next(times))
    progress(STATE)
    progress({"event": "state", "member": EVIL, "state": EVIL})
    drawn = stream.getvalue()
    assert "tickets    ready  1.0 s" in drawn
    assert "\x1b[1A\x1b[J" in drawn
    assert EVIL not in drawn
    progress.clear()
    assert stream.getvalue().endswith("\x1b[2A\x1b[J")
