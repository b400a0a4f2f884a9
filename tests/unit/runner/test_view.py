"""`mlld sandbox view`: the page shows everything, and nothing of what it shows can act."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import stat
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.cli.app import execute
from runner.plan import SandboxPlan, to_json
from runner.record import Event, RunRecord, Verdict
from runner.report_page import MOST_ROWS, WIDTH, page_html, page_of
from tests.support.plans import good

WHOLE = Verdict(lines=9, head="f" * 64, faults=())
HOSTILE = [
    "<script>document.title='pwned'</script>",
    "</pre></style></title></svg><img src=x onerror=alert(1)>",
    "\"'><a href=javascript:alert(1)>",
    "{{ 7 * 7 }}{% include 'page.css' %}",
    "<!-- <![CDATA[ &lt;b&gt; &#60;",
    "\x1b[31m\u202egnp.exe\x00",
]


def events(text: str = "open tickets", calls: int = 1, plan: SandboxPlan | None = None) -> list[dict[str, Any]]:
    """A run that says `text` wherever somebody inside can say something."""
    made = good() if plan is None else plan
    call = {
        "event": "call", "session": text, "method": "tools/call", "server": "tickets", "name": text, "at": 1005.0,
        "labels": ["src:mcp", "pii", text], "bytesIn": 1, "bytesOut": 2, "ms": 500.0, "isError": False,
        "decision": "allow", "rule": None, "arguments": {text: [text]}, "result": text, "trace": text,
    }  # fmt: skip
    told: list[dict[str, Any]] = [
        {"event": "run", "name": "kubodan", "env": text, "agent": "scripted"},
        {"event": "plan", "digest": "sha256:1", "plan": json.loads(to_json(made))},
        {"event": "canary", "member": "agent", "name": "routes-v4", "ok": True, "saw": text},
        {"event": "server", "at": 1001.0, "server": "tickets", "state": "exited", "reason": text, "processes": 0},
        *(dict(call) for _ in range(calls)),
        {**call, "decision": "deny", "rule": f"guard @x {text}", "result": text},
        {
            "event": "denied",
            "method": "tools/call",
            "name": text,
            "decision": "deny",
            "rule": "unknown",
            "reason": text,
        },
        {"event": "egress", "member": "agent", "host": text, "port": 443, "decision": "deny", "rule": text},
        {"event": "asked", "server": "tickets", "method": text, "decision": "allow"},
        {"event": "narrowed", "labels": [text], "withdrawn": [{"name": text}]},
        {"event": "error", "where": text, "error": text},
        {"event": "log", "member": "tickets", "line": text},
        {"event": "log", "member": text, "line": text},
        {"event": "answer", "text": text, "exit": 0, "taint": ["pii", text]},
        {"event": "left", "containers": [], "networks": [], "volumes": []},
        {"event": "closed", "exit": 0},
    ]
    return [{"n": number, "t": 1000.0 + min(number, 10)} | event for number, event in enumerate(told)]


class Parsed(HTMLParser):
    """The page as a browser takes it apart."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.comments: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def handle_comment(self, data: str) -> None:
        self.comments.append(data)

    @property
    def shape(self) -> list[tuple[str, tuple[str, ...]]]:
        """Every element with the names of its attributes: what escaped text cannot change."""
        return [(tag, tuple(attributes)) for tag, attributes in self.tags]


SAFE_TAGS = {
    "html", "head", "meta", "title", "style", "body", "header", "main", "h1", "h2", "p", "dl", "dt", "dd", "pre", "ul",
    "li", "details", "summary", "div", "span", "svg", "a", "rect", "table", "thead", "tbody", "tr", "th", "td",
}  # fmt: skip
SAFE_ATTRIBUTES = {
    "lang", "charset", "http-equiv", "content", "name", "class", "id", "tabindex", "viewbox", "preserveaspectratio",
    "role", "aria-label", "href", "x", "y", "width", "height",
}  # fmt: skip


def faults(text: str) -> list[str]:
    """What in a page could act, or reach out."""
    page = Parsed(text)
    found = [f"<{tag}>" for tag, _ in page.tags if tag not in SAFE_TAGS]
    found += [f"{name}=" for _, attributes in page.tags for name in attributes if name not in SAFE_ATTRIBUTES]
    links = [attributes["href"] for tag, attributes in page.tags if "href" in attributes]
    return found + [f"href={link}" for link in links if not re.fullmatch(r"#n\d+", str(link))] + page.comments


@pytest.mark.parametrize("text", HOSTILE)
def test_cannot_act_on_the_page(text: str) -> None:
    page = page_html(events(text), WHOLE)
    assert faults(page) == []
    assert Parsed(page).shape == Parsed(page_html(events("harmless"), WHOLE)).shape
    shown = "".join(Parsed(page).text)
    visible = "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)
    assert visible in shown
    assert not re.search("[\x00\x1b\u202e]", page)


def test_the_check_can_fail() -> None:
    page = page_html(events(HOSTILE[1]), WHOLE).replace("&lt;", "<").replace("&gt;", ">")
    assert "<img>" in faults(page)
    assert "onerror=" in faults(page)


@settings(max_examples=25)
@given(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\n"), min_size=1, max_size=60))
def test_whatever_is_said_changes_no_element(text: str) -> None:
    assert faults(page_html(events(text), WHOLE)) == []


def test_the_policy_lets_nothing_but_its_own_style_in() -> None:
    page = page_html(events(), WHOLE)
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)
    assert policy
    assert style
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert policy[1] == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    assert "url(" not in style[1]
    assert "@import" not in style[1]


def test_every_link_leads_to_its_row() -> None:
    page = Parsed(page_html(events(calls=5), WHOLE))
    rows = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    links = {str(attributes["href"])[1:] for tag, attributes in page.tags if tag == "a"}
    assert links
    assert links <= rows
    assert len(rows) == len([1 for _, attributes in page.tags if "id" in attributes])


def test_what_held_is_told_with_its_proof() -> None:
    page = page_of(events(), WHOLE)
    told = {promise.text: promise for promise in page.promises}
    assert all(promise.held for promise in page.promises)
    assert "nothing was left behind" in told
    assert told["1 facts proved it from 1 seats before anything of the user's ran"].proofs == (
        "agent: routes-v4: open tickets",
    )
    assert [(flow.label, flow.row, flow.answered) for flow in page.labels][1] == ("pii", 4, True)
    assert page.answer == "open tickets"


def test_what_did_not_hold_is_told_as_loudly() -> None:
    broken = events()
    broken[2]["ok"] = False
    left = {"containers": ["mlld-kubodan-agent"]}
    page = page_of(
        [*broken, {"event": "left", "n": 99, "t": 1010.0, **left}], Verdict(lines=3, head="x", faults=("cut",))
    )
    assert [promise.text for promise in page.promises if not promise.held] == [
        "1 of 1 facts of the self-test were wrong: the run was ended",
        "something was left behind",
        "the record is not whole",
    ]


def test_a_run_without_a_fence_says_so() -> None:
    (first, *_) = page_of(events(plan=SandboxPlan(run="x", environment="y", provider="local")), WHOLE).promises
    assert (first.text, first.held) == ("nothing was isolated: the provider was `local`", False)


def test_every_mark_is_on_its_lane_and_where_it_was_in_time() -> None:
    page = page_of(events(), WHOLE)
    marks = [mark for lane in page.lanes for mark in lane.marks]
    assert all(mark.left >= 0 and mark.width > 0 and mark.left + mark.width <= WIDTH for mark in marks)
    tickets = next(lane for lane in page.lanes if lane.member == "tickets")
    call = next(mark for mark in tickets.marks if mark.kind == "call")
    assert (call.left, call.width) == (450.0, 50.0)  # half a second before the fifth of ten


def test_a_long_run_makes_no_endless_page() -> None:
    page = page_of(events("x" * 3_000, calls=MOST_ROWS * 2), WHOLE)
    assert len(page.rows) == MOST_ROWS
    assert page.omitted > MOST_ROWS


def test_a_record_of_nothing_has_a_page() -> None:
    assert faults(page_html([{"event": "run", "n": 0, "t": 1.0, "name": "x", "env": "y"}], WHOLE)) == []


# ----------------------------------------------------------------------------------------------------------- the command


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunRecord:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    record = RunRecord.create(tmp_path / "data" / "mlld" / "runs", now=lambda: 1_700_000_000.0)
    told: list[Event] = events()[:-1]
    for event in told:
        record.append(str(event["event"]), **{key: value for key, value in event.items() if key != "event"})
    record.close(exit=0)
    return record


def test_the_page_lies_beside_the_record_for_its_owner_alone(
    run: RunRecord, capsys: pytest.CaptureFixture[str]
) -> None:
    assert execute(["sandbox", "view", "last"]) == 0
    path = run.path.with_suffix(".html")
    assert capsys.readouterr().out == f"{path.as_uri()}\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "the record is whole" in path.read_text()
    assert execute(["sandbox", "ps", "--all", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 1  # a page is no record


def test_the_page_goes_where_it_is_wanted(run: RunRecord, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["sandbox", "view", run.name, "--out", str(tmp_path / "run.html")]) == 0
    capsys.readouterr()
    assert execute(["sandbox", "view", run.name, "--out", "-"]) == 0
    assert capsys.readouterr().out == (tmp_path / "run.html").read_text()
