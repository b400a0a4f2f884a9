"""The built-in rules: what must not meet, by name, for policies to switch on."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from interpreter.policy_subjects import Operation

# Data with the first label must not reach an operation with the second.
_APART = {
    "no-secret-exfil": ("secret", "exfil"),
    "no-sensitive-exfil": ("sensitive", "exfil"),
    "no-untrusted-destructive": ("untrusted", "destructive"),
    "no-untrusted-privileged": ("untrusted", "privileged"),
    "no-influenced-advice": ("influenced", "advice"),
}
# The first argument of an operation with the first label (to whom, or what) must carry the second.
_KNOWN = {
    "no-send-to-unknown": ("exfil:send", "known"),
    "no-send-to-external": ("exfil:send", "known:internal"),
    "no-destroy-unknown": ("destructive:targeted", "known"),
}
_WAYS_OUT = {"no-influenced-advice": " — use structured extraction to debias evaluative output"}
BUILT_IN: Mapping[str, str] = MappingProxyType({
    **{name: f"{data} data cannot flow to {target}" for name, (data, target) in _APART.items()},
    **{name: f"the first argument of {target} must be {label}" for name, (target, label) in _KNOWN.items()},
    "untrusted-llms-get-influenced": "what an llm answers to untrusted data is influenced",
})  # fmt: skip


def confined(rule: str) -> str | None:
    """The label of data that a rule keeps from operations whatever their arguments are; None for the other rules."""
    pair = _APART.get(rule)
    return pair[0] if pair else None


def broken_rule(rule: str, taint: tuple[str, ...], targets: tuple[str, ...], operation: Operation) -> str | None:
    """The reason why the operation breaks the rule; None when it does not."""
    if pair := _APART.get(rule):
        data, risk = pair
        if data in taint and any(_is(target, risk) for target in targets):
            return f"Rule '{rule}': label '{data}' cannot flow to '{risk}'{_WAYS_OUT.get(rule, '')}"
    elif pair := _KNOWN.get(rule):
        risk, label = pair
        if any(_is(target, risk) for target in targets):
            first = operation.inputs[0].taint if operation.inputs else ()
            if not any(_is(each, label) for each in first):
                aim = "destination" if risk == "exfil:send" else "target"
                return f"Rule '{rule}': {risk} {aim} must carry '{label}', and the first argument is the {aim}"
    return None


def _is(label: str, wanted: str) -> bool:
    return label == wanted or label.startswith(wanted + ":")
