"""`exe llm` in an environment: what the block around lets a call offer to its model (the rest is in `scripts/models.mld`)."""

from __future__ import annotations

from pathlib import Path

from tests.support.worlds import World


async def test_cannot_offer_a_model_tools_that_the_block_does_not_have(tmp_path: Path) -> None:
    world = World(tmp_path)
    text = 'exe llm @ask(p, config) = `@mx.llm.native`\nenv { tools: ["Read"] } [\n  show @ask("q", { tools: ["TOOL"] })\n]\n'
    done = await world.run(text.replace("TOOL", "Read"))
    assert done.lines == ["Read"]
    refused = await world.run(text.replace("TOOL", "Write"))
    assert refused.error is not None
    assert refused.error.exit_code == 4
    assert "has no tool Write" in refused.error.message
