"""What labels will take away, said before the run: the policy's rules asked about each tool and each label they know."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

from interpreter.declarations import ServerSpec, ToolBinding
from interpreter.names import same_name
from interpreter.policy import Denied, Policy, withdrawn
from interpreter.policy_parse import from_json
from interpreter.policy_rules import confined
from interpreter.policy_subjects import Operation
from runner.plan import Narrowed

_ANY = ""  # a tool that no rule names: what is closed to it is closed to the whole server


def narrowed(
    policy: Mapping[str, object], server: ServerSpec, bindings: tuple[ToolBinding, ...]
) -> tuple[Narrowed, ...]:
    """What of a server is withdrawn from an agent that has seen data with a label, for every label that a rule names."""
    composed = from_json(policy) if policy else Policy()
    named = dict.fromkeys((*(server.tools if server.tools != "*" else ()), *_named(composed, server.name)))
    labelled = (*server.labels, *(binding.tool for binding in bindings))
    names = [_ANY, *dict.fromkeys((*named, *(name for name in labelled if "*" not in name)))]
    found: dict[tuple[str, str], Narrowed] = {}
    for label in _labels(composed):
        denied = {name: _denied(composed, server, bindings, name, label) for name in names}
        whole = denied[_ANY]
        for name, refusal in denied.items():
            if refusal is None or (whole is not None and name != _ANY):
                continue
            former = found.get((label, str(refusal)))
            tools = (*(former.tools if former else ()), *((name,) if name != _ANY else ()))
            but = tuple(name for name, other in denied.items() if other is None)
            found[label, str(refusal)] = Narrowed(
                after=label, tools=tools, but=but if name == _ANY else (), rule=refusal.rule, place=refusal.place
            )
    return tuple(found.values())


def _denied(
    policy: Policy, server: ServerSpec, bindings: tuple[ToolBinding, ...], tool: str, label: str
) -> Denied | None:
    labels = _labels_of(server, bindings, tool)
    return withdrawn(policy, Operation(kind="mcp", name=tool, server=server.name, tool=tool, labels=labels), (label,))


def _labels(policy: Policy) -> tuple[str, ...]:
    said = [rule.label.removesuffix(":*") for layer in policy.layers for rule in layer.labels]
    return tuple(dict.fromkeys((*said, *filter(None, map(confined, policy.rules)))))


def _named(policy: Policy, server: str) -> list[str]:
    """The tools of a server that rules name, and the methods (`resources/read`)."""
    rules = [rule for layer in policy.layers for rule in layer.labels]
    targets = [target for rule in rules for target in (*(rule.deny or ()), *(rule.allow or ()))]
    prefix = f"op:mcp:{server}:"
    return [name for target in targets if target.startswith(prefix) and (name := target.removeprefix(prefix)) != "*"]


def _labels_of(server: ServerSpec, bindings: tuple[ToolBinding, ...], tool: str) -> tuple[str, ...]:
    own = [labels for name, labels in server.labels.items() if same_name(name, tool) or fnmatchcase(tool, name)]
    bound = [binding.labels for binding in bindings if same_name(binding.tool, tool)]
    return tuple(dict.fromkeys(label for labels in (*own, *bound) for label in labels))
