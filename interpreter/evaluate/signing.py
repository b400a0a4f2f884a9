"""`sign @prompt by "who"`, `verify @prompt`: is a text of the script still the one that was signed?

What is signed is the text as it is written, with its holes: what is filled in later is data, and nobody vouches for that.
"""

from __future__ import annotations

import datetime

from interpreter import nodes as n
from interpreter import operations
from interpreter.errors import EvaluationError
from interpreter.ports import Signed
from interpreter.values import NULL, Value

from .core import Env, absent, handles
from .observing import observes

METHODS = (None, "sha256")


class NotVerified(EvaluationError):
    """A text is not the one that was signed."""

    code = "verify"


@handles(n.Sign)
@observes("sign")
async def sign(node: n.Sign, env: Env) -> Value:
    if env.ports.signatures is None:
        raise absent("`sign`", node.span, env)
    if node.method not in METHODS:
        raise EvaluationError(
            f"Unsupported signing method: {node.method}",
            span=node.span,
            code="sign",
            hint=f"sign @{node.name} with sha256",
        )
    moment = datetime.datetime.fromtimestamp(env.ports.clock.now(), datetime.UTC)
    signed = Signed(name=node.name, text=written(node, env), by=node.by, at=moment.strftime("%Y-%m-%dT%H:%M:%SZ"))
    try:
        operations.keep_signature(env.ports, signed)
    except OSError as error:
        raise EvaluationError(
            f"the signature of @{node.name} cannot be kept: {error}", span=node.span, code="sign"
        ) from None
    return NULL


@handles(n.Verify)
@observes("verify")
async def verify(node: n.Verify, env: Env) -> Value:
    if env.ports.signatures is None:
        raise absent("`verify`", node.span, env)
    text = written(node, env)
    try:
        signed = operations.read_signature(env.ports, node.name)
    except LookupError:
        raise NotVerified(
            f"@{node.name} was never signed", span=node.span, hint=f"sign @{node.name} with sha256"
        ) from None
    except ValueError as error:
        raise NotVerified(
            f"the signature of @{node.name} does not hold: {error}", span=node.span,
            hint="somebody changed what was signed: compare it with your history before you sign it again",
        ) from None  # fmt: skip
    if signed.text != text:
        raise NotVerified(
            f"@{node.name} is not the text that was signed{f' by {signed.by}' if signed.by else ''} at {signed.at}", span=node.span,
            hint=f"`mlld verify {node.name}` shows what was; sign the new text if you mean it",
        )  # fmt: skip
    return NULL


def written(node: n.Sign | n.Verify, env: Env) -> str:
    """The text of a variable as this file writes it, with its holes. Errors: it is none, or is made elsewhere."""
    value = env.module.written.get(node.name)
    if isinstance(value, n.Literal) and isinstance(value.value, str):
        return value.value
    if isinstance(value, n.Template):
        return "".join(part.text if isinstance(part, n.Text) else part.span.text for part in value.parts)
    if env.scope.find(node.name) is None:
        what = "signing" if isinstance(node, n.Sign) else "verification"
        raise EvaluationError(
            f"Variable not found for {what}: @{node.name}", span=node.span, code="undefined-variable",
            hint=f"var @{node.name} = `…` before it",
        )  # fmt: skip
    raise EvaluationError(
        f"@{node.name} is no text that is written in this file", span=node.span, code="sign",
        hint="sign and verify where `var @name = …` is: what is computed or imported is not the script's own word",
    )  # fmt: skip
