"""What the benchmarks measure does what they say: an error would be quick."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.bench.__main__ import main
from tests.bench.language import GROWTHS, Growth, compared, cost, evaluated, fill, parsed
from tests.bench.soak import growth


@pytest.mark.parametrize("growth", GROWTHS, ids=lambda growth: growth.name)
def test_every_script_runs_to_its_end(growth: Growth, tmp_path: Path) -> None:
    fill(tmp_path / "10", 10)
    text = growth.script(10)
    assert parsed(text) > 0
    assert evaluated(text, tmp_path) > 0


def test_the_least_of_each_is_compared() -> None:
    small, large = iter((3.0, 1.0, 2.0)), iter((5.0, 6.0, 4.0))
    assert compared(lambda: next(small), lambda: next(large), 3) == (1.0, 4.0)


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
    assert abs(growth(noise)) < 2
    assert abs(growth(peaks)) < 2
    assert growth([value + i / 20 for i, value in enumerate(noise)]) > 20
    assert growth([1.0]) == 0
