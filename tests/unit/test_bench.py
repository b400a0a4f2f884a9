"""What the benchmarks measure does what they say: an error would be quick."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.bench import growth, reference
from tests.bench.__main__ import main
from tests.bench.growth import GROWTHS, Growth, fill, ratio
from tests.bench.process import MLLD, cost
from tests.bench.soak import GROWTH_MIB, Samples
from tests.bench.soak import growth as soak_growth

BESIDE_OTHERS = 3.0
"""The limit of a row here, where other tests share the caches with it, which costs the larger input more. 4 is quadratic."""


@pytest.mark.parametrize("row", GROWTHS, ids=lambda row: row.name)
def test_twice_the_input_takes_about_twice_the_time(row: Growth, tmp_path: Path) -> None:
    for size in (row.size, 2 * row.size) if row.measure is growth.evaluated else ():
        if "/*.md>" in row.make(1) or "import " in row.make(10):
            fill(tmp_path / str(size), size)
    small, large, found = ratio(row, tmp_path, turns=2)
    assert found <= BESIDE_OTHERS, f"{small * 1000:.0f} ms, then {large * 1000:.0f} ms"


def test_what_is_quadratic_is_noticed(tmp_path: Path) -> None:
    def slow(text: str, root: Path) -> float:
        return len(text) ** 2 / 1000

    assert ratio(Growth(name="slow", make=lambda n: "x" * n, measure=slow, size=10), tmp_path)[2] == 4


def test_what_fails_is_no_result(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="no"):
        growth.evaluated("bail `no`\n", tmp_path)


@pytest.mark.parametrize("script", [reference.START, *reference.SCRIPTS], ids=lambda script: script.name)
def test_the_scripts_for_two_implementations_print_what_they_say(script: reference.Script, tmp_path: Path) -> None:
    reference.prepare(tmp_path)
    (tmp_path / "script.mld").write_text(script.text)
    reference.check((*MLLD, "run", str(tmp_path / "script.mld")), script)
    other = reference.Script(name="other", text=script.text, prints="something else")
    with pytest.raises(RuntimeError, match="ended with 0"):
        reference.check((*MLLD, "run", str(tmp_path / "script.mld")), other)


def test_a_process_is_measured_without_the_memory_of_the_one_that_measures() -> None:
    held = bytearray(b"x" * (64 << 20))
    cpu, kib = cost(sys.executable, "-S", "-c", "pass")
    assert cpu > 0
    assert 1 < kib < len(held) // 1024


def test_an_unknown_benchmark_is_refused_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["langauge"]) == 2
    assert "language" in capsys.readouterr().err


def test_growth_is_told_from_noise_and_from_peaks() -> None:
    noise = [100 + (i * 7919) % 11 for i in range(600)]
    peaks = [value + 300 * (i % 50 == 0) for i, value in enumerate(noise)]
    assert abs(soak_growth(noise)) < 2
    assert abs(soak_growth(peaks)) < 2
    assert soak_growth([value + i / 20 for i, value in enumerate(noise)]) > 20
    assert soak_growth([1.0]) == 0


def test_only_the_latest_samples_are_judged() -> None:
    filling = [float(min(i, 60)) for i in range(120)]
    assert not Samples(memory=filling[:60], files=[9.0] * 60, judged=48).flat
    assert Samples(memory=filling, files=[9.0] * 120, judged=48).flat
    leaking = [float(i) for i in range(360)]
    assert Samples(memory=leaking, files=[9.0] * 360, judged=72).memory_growth > GROWTH_MIB
    assert not Samples(memory=[9.0] * 360, files=leaking, judged=72).flat
