"""`prose:@config { … }`: programs in words, which a model carries out."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.worlds import World, denied, fine

HEAD = "exe llm @model(prompt) = `[@prompt]`\nvar @c = { model: @model, skills: [] }\n"


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    world.write("plain.prose", "review @code\n")
    world.write("hole.prose.att", "review @code\n")
    world.write("moustache.prose.mtt", "review {{code}}\n")
    return world


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ("prose:@c { review @code }", ["[review x = 1]"]),
        ("prose:@c {\n  session one\n  input @code\n}", ["[session one", "  input x = 1]"]),
        ('prose:@c "./plain.prose"', ["[review @code", "]"]),
        ('prose:@c "./hole.prose.att"', ["[review x = 1", "]"]),
        ('prose:@c template "./hole.prose.att"', ["[review x = 1", "]"]),
        ('prose:@c "./moustache.prose.mtt"', ["[review x = 1", "]"]),
    ],
)
async def test_the_model_is_given_the_program(world: World, body: str, wanted: list[str]) -> None:
    assert fine(await world.run(f'{HEAD}exe @review(code) = {body}\nshow @review("x = 1")')) == wanted


async def test_skills_are_named_around_it(world: World) -> None:
    script = HEAD.replace("[] }", '["my:boot", "my:run"] }') + "exe @f() = prose:@c { go }\nshow @f()"
    said = "\n".join(fine(await world.run(script)))
    assert said.index("- my:boot\n- my:run") < said.index("go") < said.index("answer with its output alone")
    said = "\n".join(fine(await world.run(script.replace(', skills: ["my:boot", "my:run"]', ""))))
    assert "open-prose:prose-run" in said
    own = script.replace("skills:", 'skillPrompt: "<<", skillPromptEnd: ">>", skills:')
    assert fine(await world.run(own)) == ["[<<go>>]"]


async def test_it_is_a_stage_like_any_other(world: World) -> None:
    assert fine(await world.run(f'{HEAD}exe @f(t) = prose:@c {{ do @t }}\nshow "it" | @f | @upper')) == ["[DO IT]"]


async def test_missing_skills_are_an_error(world: World) -> None:
    script = 'exe @model(p) = "SKILLS-NOT-AVAILABLE"\nvar @c = { model: @model }\nexe @f() = prose:@c { go }\nshow @f()'
    done = await world.run(script)
    assert done.error is not None
    assert "skills not available: open-prose:prose-boot" in done.error.message
    assert "install and approve" in (done.error.hint or "")
    assert done.error.span is not None
    assert (done.error.span.line, done.error.span.column) == (3, 12)


@pytest.mark.parametrize(
    ("config", "message", "hint"),
    [
        ('{ model: "opus" }', "needs a `model` that can be called", "exe @yourModel"),
        ("{ skills: [] }", "needs a `model` that can be called", "exe @yourModel"),
        ("{ model: @model, skils: [] }", "no key 'skils'", "did you mean skills?"),
        ('"opus"', "must be an object, got", "exe @yourModel"),
        ("{ model: @model, skills: 5 }", "skills must be an array, got number", 'skills: ["name"]'),
    ],
)
async def test_a_wrong_configuration_is_told(world: World, config: str, message: str, hint: str) -> None:
    done = await world.run(f"exe @model(p) = `@p`\nvar @c = {config}\nexe @f() = prose:@c {{ go }}\nshow @f()")
    assert done.error is not None
    assert message in done.error.message
    assert hint in (done.error.hint or "")
    assert done.error.span is not None
    assert done.error.span.line == 3


async def test_guards_and_labels_are_those_of_the_call(world: World) -> None:
    script = HEAD + "exe @f(t) = prose:@c { do @t }\nvar secret @k = `key`\nvar @r = @f(@k)\nshow @r.mx.labels"
    assert '"secret"' in "".join(fine(await world.run(script)))
    guard = 'guard before @no for @model = when [ @input.any.mx.labels.includes("secret") => deny "no keys"\n * => allow ]\n'
    assert "no keys" in denied(await world.run(guard + script))
    fine(await world.run(guard + script.replace("secret ", "pii ")))
