"""`anytag.scale.estimates`: what a run would take, told without one."""

from __future__ import annotations

from pathlib import Path

import pytest

from anytag.scale import Task, estimate
from anytag.scale.estimates import Estimate
from tests.scale.inputs import jpeg, write_parquet, write_tar
from tests.tiny import make_tiny_model

pytest.importorskip("pyarrow")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_tiny_model(tmp_path_factory.mktemp("models") / "tiny"))


def test_units_rows_and_bytes_are_those_of_the_input(model: str, tmp_path: Path) -> None:
    write_parquet(f"{tmp_path}/in/rows.parquet", {"jpg": [jpeg(k) for k in range(30)]}, group=7)
    members = {f"{k}.{kind}": body for k in range(50) for kind, body in (("jpg", jpeg(k)), ("json", b"{}"))}
    write_tar(f"{tmp_path}/in/shard.tar", members)  # whose photos are a part of its bytes
    write_parquet(f"{tmp_path}/in/odd.parquet", {"left": [b"x"], "right": [b"y"]})
    (tmp_path / "in" / "photo.jpg").write_bytes(b"no photo")
    found = estimate([str(tmp_path / "in")], Task(model=model), sample=60)
    assert found.units == 8
    assert found.rows == pytest.approx(30 + 50 + 1 + 1, rel=0.1)
    assert found.failed == 1
    assert 30 < found.sample <= 80
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]  # nothing was written


def test_time_is_that_of_the_start_and_of_rounds_of_units() -> None:
    found = Estimate(
        units=10, rows=5000, bytes=1, sample=1000, failed=0, start=20, seconds=0.01, unit_seconds=1
    )
    assert found.hours(1) * 3600 == pytest.approx(20 + 5000 * 0.01 + 10 * 1)
    assert found.hours(4) * 3600 == pytest.approx(20 + 3 * (5 + 1))  # 4, 4 and 2 units
    assert found.hours(99) == found.hours(10)


def test_units_are_tried_all_over_the_input(model: str, tmp_path: Path) -> None:
    """The second half of the files is broken: so is the half of a sample."""
    for number in range(30):
        cells = [jpeg(number) if number < 15 else b"broken"] * 4
        write_parquet(f"{tmp_path}/in/{number:02d}.parquet", {"jpg": cells})
    found = estimate([str(tmp_path / "in")], Task(model=model), sample=40)
    assert (found.units, found.rows, found.sample, found.failed) == (30, 120, 40, 20)
