"""Policy: what may happen, decided with a reason.

A `Policy` is a tuple of layers, one for each `policy` that was declared. A layer is judged by itself, most specific
entry first, and an operation is allowed when *every* layer allows it. That is what composition means here: deny lists
unite, allow lists intersect by meaning, an absent list constrains nothing, an empty one permits nothing, and no layer
can widen another, however specific its entries are. There is nothing to merge and so nothing to merge wrongly.

An operation passes four gates in this order: the danger list, capabilities (`allow`, `deny`, `default`), the built-in
rules, the label rules. Only the last two can be lifted, by a privileged guard, and not even then when a layer is
`locked`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Literal

from interpreter.declarations import AuthDecl, HostRule, Limits, Place
from interpreter.labels import Labels
from interpreter.policy_danger import dangers, opens
from interpreter.policy_patterns import Pattern, Subject, covers, meet, meet_lists
from interpreter.policy_rules import BUILT_IN, broken_rule, confined
from interpreter.policy_subjects import Operation

Gate = Literal["capability", "danger", "rule", "label", "environment", "keychain"]


@dataclass(frozen=True, kw_only=True)
class Allowed:
    """Yes, and why."""

    reason: str = "no policy is in force"


@dataclass(frozen=True, kw_only=True)
class Denied:
    """No: the rule in the policy's own words, where it stands, and the reason for people."""

    rule: str
    reason: str
    gate: Gate
    place: Place | None = None
    overridable: bool = False  # by a privileged guard
    label: str | None = None  # of the data, where it decided alone: the answer is the same for any arguments

    def __str__(self) -> str:
        return f"{self.rule} ({self.place})" if self.place else self.rule


Decision = Allowed | Denied


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One entry of an allow, deny or danger list."""

    pattern: Pattern
    text: str  # as written
    place: Place | None = None


@dataclass(frozen=True, kw_only=True)
class LabelRule:
    """Where data with a label may go. `None` = not stated; an `allow` beside a `deny` is its exception, alone it is
    exhaustive.
    """

    label: str
    allow: tuple[str, ...] | None = None
    deny: tuple[str, ...] | None = None
    place: Place | None = None

    def concerns(self, label: str) -> bool:
        return under(self.label, label)


@dataclass(frozen=True, kw_only=True)
class Names:
    """An allow and a deny list of tool or server names."""

    allow: tuple[str, ...] | None = None
    deny: tuple[str, ...] = ()
    place: Place | None = None


@dataclass(frozen=True, kw_only=True)
class EnvRules:
    """`policy.env`: what narrows every environment."""

    default: str | None = None
    providers: Mapping[str, bool] = field(default_factory=lambda: MappingProxyType({}))  # name → allowed
    tools: Names = Names()
    mcps: Names = Names()
    hosts_allow: tuple[HostRule, ...] | None = None
    hosts_deny: tuple[HostRule, ...] = ()
    no_network: bool = False
    limits: Limits = field(default_factory=Limits)
    place: Place | None = None


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One declared policy."""

    name: str  # without `@`
    place: Place | None = None
    default: Literal["allow", "deny"] = "allow"
    allow: tuple[Entry, ...] | None = None
    deny: tuple[Entry, ...] = ()
    danger: tuple[Entry, ...] | None = None
    labels: tuple[LabelRule, ...] = ()
    operations: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))  # risk → labels
    rules: tuple[str, ...] = ()
    unlabeled: Literal["trusted", "untrusted"] | None = None
    run_wide: bool = False  # a label that one session has seen counts in every session of the run
    keychain_allow: tuple[str, ...] | None = None
    keychain_deny: tuple[str, ...] = ()
    env: EnvRules = EnvRules()
    auth: Mapping[str, AuthDecl] = field(default_factory=lambda: MappingProxyType({}))
    locked: bool = False
    # As it was written (plain data) and where each path of it stands: what `json` hands on.
    written: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}), repr=False)
    places: Mapping[str, Place] = field(default_factory=lambda: MappingProxyType({}), repr=False)

    def permits(self, subject: Subject, what: str) -> Denied | None:
        """Why this layer's capability lists refuse the operation; None when they do not."""
        deny = _heaviest(e for e in self.deny if e.pattern.matches(subject))
        allow = _heaviest(e for e in self.allow or () if e.pattern.matches(subject))
        if deny and not (allow and allow.pattern.weight > deny.pattern.weight):
            return self.refusal("deny", deny, f"{what} is denied by policy @{self.name}")
        if allow:
            return None
        if self.allow is not None and self._lists(subject):
            listed = ", ".join(e.text for e in self.allow) or "nothing"
            return self.refusal("allow", None, f"{what} is not allowed by policy @{self.name}, which allows {listed}")
        if self.default == "deny":
            return self.refusal("default", None, f"{what} is not allowed by policy @{self.name}, whose default is deny")
        return None

    def _lists(self, subject: Subject) -> bool:
        # Tools of servers, reading and the keychain have rules of their own (`env.tools`, the danger list,
        # `keychain.allow`); an allow list speaks of them when it names one of them.
        if subject.kind in ("mcp", "keychain") or (subject.kind == "filesystem" and subject.tokens[0] == "read"):
            return not self.allow or any(e.pattern.kind == subject.kind for e in self.allow)
        return True

    def requires(self, pattern: Pattern, what: str, *, whole: bool = False) -> Denied | None:
        """Why this layer does not permit a requirement of a profile: it is denied entirely, or nothing of it is
        allowed.
        """
        for entry in self.deny:
            if covers(entry.pattern, pattern):
                return self.refusal("deny", entry, f"{what} is denied by policy @{self.name}")
        if self.allow is not None or self.default == "deny":
            fits = covers if whole else meet
            if not any(fits(entry.pattern, pattern) for entry in self.allow or ()):
                return self.refusal("allow", None, f"{what} is not in the allow list of policy @{self.name}")
        return None

    def refusal(self, part: Literal["allow", "deny", "default"], entry: Entry | None, reason: str) -> Denied:
        said = (
            entry.text if entry else "deny" if part == "default" else f"[{', '.join(e.text for e in self.allow or ())}]"
        )
        place = entry.place if entry else self.places.get(part)
        return Denied(
            rule=f"policy @{self.name}: {part} {said}", reason=reason, gate="capability", place=place or self.place
        )

    def json(self) -> dict[str, object]:
        return {"name": self.name, "policy": dict(self.written), "places": {k: str(v) for k, v in self.places.items()},
                "place": str(self.place) if self.place else None}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Every declared policy in force; no layers means that nothing was said."""

    layers: tuple[Layer, ...] = ()

    def __or__(self, other: Policy) -> Policy:
        """The composition of both."""
        extra = tuple(layer for layer in other.layers if layer not in self.layers)
        return Policy(layers=self.layers + extra) if extra else self

    def renamed(self, name: str) -> Policy:
        """The same rules as one declaration of their own."""
        return Policy(layers=tuple(replace(layer, name=name) for layer in self.layers))

    @property
    def locked(self) -> bool:
        return any(layer.locked for layer in self.layers)

    @property
    def rules(self) -> tuple[str, ...]:
        """Built-in rules that are on, in their own order."""
        on = {rule for layer in self.layers for rule in layer.rules}
        return tuple(rule for rule in BUILT_IN if rule in on)

    @property
    def unlabeled(self) -> Literal["trusted", "untrusted"] | None:
        """What data counts as that came from somewhere and that nobody labelled: `untrusted` wins."""
        said = {layer.unlabeled for layer in self.layers}
        return "untrusted" if "untrusted" in said else "trusted" if "trusted" in said else None

    @property
    def run_wide(self) -> bool:
        """Whether what one session has seen counts in all: one layer that says so is enough."""
        return any(layer.run_wide for layer in self.layers)

    @property
    def allow(self) -> tuple[Pattern, ...] | None:
        """The allow lists of all layers as one list, intersected by meaning: what a plan shows."""
        lists = [tuple(e.pattern for e in layer.allow) for layer in self.layers if layer.allow is not None]
        if not lists:
            return None
        result = lists[0]
        for each in lists[1:]:
            result = meet_lists(result, each)
        return result

    @property
    def deny(self) -> tuple[Pattern, ...]:
        return tuple(dict.fromkeys(e.pattern for layer in self.layers for e in layer.deny))

    @property
    def auth(self) -> Mapping[str, AuthDecl]:
        """`policy.auth`: the later declaration wins; what it says is no permission."""
        return {name: decl for layer in self.layers for name, decl in layer.auth.items()}

    def json(self) -> dict[str, object]:
        """The form that travels into the sidecar; `policy_parse.from_json` reads it."""
        return {"layers": [layer.json() for layer in self.layers]}


NO_POLICY = Policy()


def union(policies: Iterable[Policy]) -> Policy:
    """`union(@a, @b)`."""
    result = NO_POLICY
    for policy in policies:
        result = result | policy
    return result


def judge(policy: Policy, operation: Operation) -> Decision:
    """Whether the operation may happen."""
    if not policy.layers:
        return Allowed()
    taint = effective_taint(policy, operation.incoming)
    targets = operation_targets(policy, operation)
    return (
        _dangers(policy, operation)
        or _capabilities(policy, operation)
        or _keychain(policy, operation)
        or _built_in(policy, operation, taint, targets)
        or _label_flow(policy, taint, targets)
        or Allowed(reason=f"permitted by {', '.join('@' + layer.name for layer in policy.layers)}")
    )


def require(policy: Policy, pattern: Pattern, what: str, *, whole: bool = False) -> Decision:
    """Whether a requirement of a profile is permitted; `whole` = entirely, else in part (each use is judged again)."""
    for layer in policy.layers:
        if refusal := layer.requires(pattern, what, whole=whole):
            return refusal
    return Allowed(reason="permitted by policy") if policy.layers else Allowed()


def added_labels(policy: Policy, operation: Operation) -> tuple[str, ...]:
    """Labels that a rule puts on the operation's result."""
    if "untrusted-llms-get-influenced" in policy.rules and "llm" in operation.labels:
        return ("influenced",) if "untrusted" in effective_taint(policy, operation.incoming) else ()
    return ()


def effective_taint(policy: Policy, labels: Labels) -> tuple[str, ...]:
    """The labels as rules see them: with `untrusted` where the policy says that unlabelled data is."""
    marks = labels.marks
    return (*marks, "untrusted") if unlabelled_as(policy, labels) == "untrusted" else marks


def unlabelled_as(policy: Policy, labels: Labels) -> Literal["trusted", "untrusted"] | None:
    """What the policy labels data with that came from elsewhere and that nobody has labelled; None if it is not such data."""
    if policy.unlabeled is None:
        return None
    from_elsewhere = [mark for mark in labels.marks if mark not in ("src:exe", "src:template")]
    if from_elsewhere and all(mark.startswith(("src:", "dir:", "mcp:")) for mark in from_elsewhere):
        return policy.unlabeled
    return None


def withdrawn(policy: Policy, operation: Operation, taint: Iterable[str]) -> Denied | None:
    """The rule which closes the operation to whoever has seen data with one of the labels, whatever the arguments are.

    What a policy says of data and operations it says of agents too: all that an agent sends may be made of all that it
    has seen, so the answer to such a call is known before it is asked.
    """
    seen = tuple(taint)
    targets = operation_targets(policy, operation)
    found = _built_in(policy, operation, seen, targets)
    return found if found and found.label else _label_flow(policy, seen, targets)


def confining(policy: Policy, taint: Iterable[str], lifting: Iterable[str] = ()) -> frozenset[str]:
    """What of the labels some rule keeps from an operation, in the words of the rules: of `mcp:github:get_issue` a rule
    about `mcp:github` knows no more than that, so whoever has seen a hundred tools of it has seen one thing.

    `lifting` are further words that matter: filters of guards which may lift a rule.
    """
    kept = {label for rule in policy.rules if (label := confined(rule))}
    rules = {rule.label.removesuffix(":*") for layer in policy.layers for rule in layer.labels}
    words = {*rules, *lifting}
    found: set[str] = set()
    for label in taint:
        # The longest word: what concerns it concerns the label, and the other way round.
        word = label if label in kept else max((w for w in words if under(w, label)), key=len, default=None)
        if word is not None:
            found.add(label if word in kept else word)  # a built-in rule is about the very label
    return frozenset(found)


def operation_targets(policy: Policy, operation: Operation) -> tuple[str, ...]:
    """The operation's labels, and the risks under which `operations` files them."""
    targets = dict.fromkeys(operation.operation_labels)
    for layer in policy.layers:
        for risk, labels in layer.operations.items():
            if any(under(label, target) for label in labels for target in operation.operation_labels):
                targets[risk] = None
    return tuple(targets)


def under(rule: str, target: str) -> bool:
    """Whether an operation label falls under a rule: equal, below it, or the rule is `*`."""
    rule = rule.removesuffix(":*")
    return rule in (target, "*") or target.startswith(rule + ":")


def _capabilities(policy: Policy, operation: Operation) -> Denied | None:
    try:
        subjects = tuple(operation.subjects())
        networked = tuple(operation.using_network())
    except ValueError as error:
        if operation.kind == "cmd":
            reason = f"the command cannot be read ({error}), so policy cannot judge it"
            return Denied(rule=f"policy @{policy.layers[0].name}", reason=reason, gate="capability")
        # A shell body may be more than this reader understands: the `sh` capability is what judges it.
        subjects, networked = tuple(Operation(kind="sh").subjects()), ()
    for layer in policy.layers:
        for subject, what in subjects:
            if refusal := layer.permits(subject, what):
                return refusal
        for program in networked:
            # An allow list that names `curl` has decided about it; a ban on the network bans it by whatever list.
            entry = next((e for e in layer.deny if covers(e.pattern, Pattern(kind="network"))), None)
            if entry:
                return layer.refusal("deny", entry, f"network (command '{program}') is denied by policy @{layer.name}")
        if operation.kind == "sh" and (refusal := _denied_in_shell(layer, operation)):
            return refusal
    return None


def _denied_in_shell(layer: Layer, operation: Operation) -> Denied | None:
    """A command that is denied stays denied in a shell body, as far as it can be seen there."""
    try:
        commands = operation.commands
    except ValueError:
        return None
    for words in commands:
        subject = Subject(kind="cmd", tokens=words)
        if entry := _heaviest(e for e in layer.deny if e.pattern.kind == "cmd" and e.pattern.matches(subject)):
            what = f"command '{words[0]}' (matched: {' '.join(words)})"
            return layer.refusal("deny", entry, f"{what} is denied by policy @{layer.name}")
    return None


def _dangers(policy: Policy, operation: Operation) -> Denied | None:
    try:
        found = tuple(dangers(operation))
    except ValueError:
        return None  # of a shell body; a command that cannot be read is refused by the capability lists
    stating = [layer for layer in policy.layers if layer.danger is not None]
    for peril in found:
        closed = next((la for la in stating if not any(opens(e.pattern, peril) for e in la.danger or ())), None)
        if closed or not stating:
            reason = f'{peril.what} is dangerous ({peril.why}); only a policy with danger: ["{peril.entry}"] opens it'
            place = closed.place if closed else None
            return Denied(rule=f"danger list: {peril.entry}", reason=reason, gate="danger", place=place)
    return None


def _keychain(policy: Policy, operation: Operation) -> Denied | None:
    if operation.kind != "secret":
        return None
    for layer in policy.layers:

        def fits(glob: str) -> bool:
            return fnmatchcase(operation.name, glob.replace("{projectname}", operation.project or "{projectname}"))

        denied = next(filter(fits, layer.keychain_deny), None)
        allowed = layer.keychain_allow is None or any(map(fits, layer.keychain_allow))
        if denied or not allowed:
            said = f"deny {denied}" if denied else f"allow [{', '.join(layer.keychain_allow or ())}]"
            reason = f"keychain entry '{operation.name}' is not permitted by policy @{layer.name}"
            return Denied(
                rule=f"policy @{layer.name}: keychain.{said}", reason=reason, gate="keychain", place=layer.place
            )
    return None


def _built_in(policy: Policy, operation: Operation, taint: tuple[str, ...], targets: tuple[str, ...]) -> Denied | None:
    for rule in policy.rules:
        if reason := broken_rule(rule, taint, targets, operation):
            layer = next(layer for layer in policy.layers if rule in layer.rules)
            place = layer.places.get(f"defaults.rules.{layer.rules.index(rule)}") or layer.place
            return Denied(rule=f"rule {rule} of policy @{layer.name}", reason=reason, gate="rule", place=place,
                          overridable=not policy.locked, label=confined(rule))  # fmt: skip
    return None


def _label_flow(policy: Policy, taint: tuple[str, ...], targets: tuple[str, ...]) -> Denied | None:
    if not targets:
        return None
    for layer in policy.layers:
        for label in taint:
            if found := _flow(layer, label, targets):
                rule, key, target = found
                verb = "cannot flow to" if key == "deny" else "may flow only where it is allowed, not to"
                return Denied(
                    rule=f"policy @{layer.name}: labels.{rule.label}.{key}",
                    reason=f"Label '{label}' {verb} '{target}'",
                    gate="label", place=rule.place or layer.place, overridable=not policy.locked, label=label,
                )  # fmt: skip
    return None


def _flow(layer: Layer, label: str, targets: tuple[str, ...]) -> tuple[LabelRule, Literal["allow", "deny"], str] | None:
    """The rule of one layer that stops the label, with the operation label that it stops it at."""
    deny: tuple[tuple[int, int], LabelRule, str] | None = None
    allow: tuple[int, int] | None = None
    exhaustive: LabelRule | None = None
    for rule in layer.labels:
        if not rule.concerns(label):
            continue
        for target in targets:
            for said in rule.deny or ():
                if under(said, target) and (deny is None or _weight(rule.label, said) > deny[0]):
                    deny = (_weight(rule.label, said), rule, said)
            for said in rule.allow or ():
                if under(said, target):
                    allow = max(allow or (0, 0), _weight(rule.label, said))
        if rule.allow is not None and rule.deny is None:
            exhaustive = rule
    if deny and not (allow and allow > deny[0]):
        return deny[1], "deny", deny[2]
    if exhaustive and allow is None:
        return exhaustive, "allow", targets[0]
    return None


def _weight(label: str, target: str) -> tuple[int, int]:
    return _parts(label), _parts(target)


def _parts(said: str) -> int:
    return 0 if said == "*" else len(said.removesuffix(":*").split(":"))


def _heaviest(entries: Iterable[Entry]) -> Entry | None:
    return max(entries, key=lambda entry: entry.pattern.weight, default=None)
