"""`prose:@config { … }`: a program in the words of a model. The text, between two paragraphs about the skills that it is
written for, is what the configuration's `model` is called with; guards, policy and labels see an ordinary call.
"""

from __future__ import annotations

import difflib
from pathlib import PurePosixPath

from interpreter import nodes as n
from interpreter import values_text as vt
from interpreter.errors import EvaluationError
from interpreter.labels import joined
from interpreter.values import Value, type_name

from .calls import invoke
from .core import Env, evaluate, handles
from .functions import CALLABLES
from .templates import Builder, fill

OPEN_PROSE = ("open-prose:prose-boot", "open-prose:prose-compile", "open-prose:prose-run")
UNAVAILABLE = "SKILLS-NOT-AVAILABLE"
KEYS = ("model", "skills", "skillPrompt", "skillPromptEnd")


@handles(n.Prose)
async def prose(node: n.Prose, env: Env) -> Value:
    config = await evaluate(node.config, env)
    model, skills, head, tail = configuration(config, node)
    program = await text(node, env)
    prompt = (
        f"{introduction(skills) if head is None else head}{vt.text(program)}{ending(skills) if tail is None else tail}"
    )
    labels = joined((program.labels, *(config.item(config.data[key]).labels for key in KEYS[1:] if key in config.data)))
    answer = await invoke(model, [Value(prompt, labels)], env, node.span)
    if skills and vt.text(answer).strip().startswith(UNAVAILABLE):
        raise EvaluationError(
            f"Prose execution failed: skills not available: {', '.join(skills)}", span=node.span, code="prose-skills",
            hint="install and approve them for the model's program; OpenProse comes as a plugin of Claude Code",
        )  # fmt: skip
    return answer


def configuration(config: Value, node: n.Prose) -> tuple[Value, list[str], str | None, str | None]:
    """The model, the skills, and what stands before and after the program. Errors: no model, an unknown key."""
    if not isinstance(config.data, dict):
        raise EvaluationError(
            f"the configuration of prose must be an object, got {type_name(config)}", span=node.config.span,
            code="prose", hint="{ model: @yourModel }, where exe @yourModel(prompt) = …",
        )  # fmt: skip
    for key in config.data:
        if key not in KEYS:
            close = difflib.get_close_matches(key, KEYS, n=1)
            raise EvaluationError(
                f"the configuration of prose has no key '{key}'", span=node.config.span, code="prose",
                hint=f"did you mean {close[0]}?" if close else f"known keys: {', '.join(KEYS)}",
            )  # fmt: skip
    model = config.item(config.data["model"]) if "model" in config.data else None
    if model is None or not isinstance(model.data, CALLABLES):
        raise EvaluationError(
            "the configuration of prose needs a `model` that can be called", span=node.config.span, code="prose",
            hint="{ model: @yourModel }, where exe @yourModel(prompt) = …",
        )  # fmt: skip
    said = config.item(config.data["skills"]) if "skills" in config.data else None
    if said is not None and not isinstance(said.data, list | None):
        raise EvaluationError(
            f"the configuration of prose: skills must be an array, got {type_name(said)}", span=node.config.span,
            code="prose", hint='skills: ["name"]',
        )  # fmt: skip
    skills = list(OPEN_PROSE) if said is None or said.data is None else [vt.text(item) for item in said.items()]
    around = [None if config.data.get(key) is None else vt.text(config.item(config.data[key])) for key in KEYS[2:]]
    return model, skills, around[0], around[1]


async def text(node: n.Prose, env: Env) -> Value:
    """The program: written in place and filled in, a file as it stands, or a template file (`.att`, `.mtt`) filled in."""
    if node.path is None:
        builder = Builder()
        await fill(node.parts, env, builder)
        value = builder.value()
        return Value(vt.text(value).strip(), value.labels)
    path = node.path.path if isinstance(node.path, n.TemplateFile) else node.path
    name = vt.text(await evaluate(path, env))
    if isinstance(node.path, n.TemplateFile) or PurePosixPath(name).suffix in (".att", ".mtt"):
        return await evaluate(n.TemplateFile(path=path, span=node.span), env)
    return await evaluate(n.FileLoad(path=(n.Text(text=name, span=path.span),), span=path.span), env)


def introduction(skills: list[str]) -> str:
    if not skills:
        return ""
    listed = "\n".join(f"- {skill}" for skill in skills)
    return (
        f"What follows is a program. Use these skills, in this order, to carry it out:\n{listed}\n"
        f"If one of them cannot be used, answer {UNAVAILABLE} and nothing else.\n\n"
    )


def ending(skills: list[str]) -> str:
    return "\n\nThat was the program. Carry it out now, and answer with its output alone." if skills else ""
