import math

import pytest

from rsdnet import console


def test_progress_in_a_pipe_is_a_line_every_ten_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    clock = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: clock[0])
    with console.progress("reading", 400, "entries", done=100) as show:
        for clock[0], done in ((4.0, 110), (20.0, 200), (29.0, 300)):
            show(done, "2 damaged")
    written = capsys.readouterr()
    assert not written.out
    assert written.err.splitlines() == ["reading 200/400, 5 entries/s, 2 damaged, 0:00:40 to go"]


@pytest.mark.parametrize(
    ("count", "decimal", "binary"),
    [
        (0, "0 bytes", "0 bytes"),
        (999, "999 bytes", "999 bytes"),
        (1024, "1.0 KB", "1.0 KiB"),
        (3.2e9, "3.2 GB", "3.0 GiB"),
        (5e15, "5,000.0 TB", "4,547.5 TiB"),
        (-2e6, "-2.0 MB", "-1.9 MiB"),
    ],
)
def test_bytes_are_told_in_powers_of_1000_or_1024(count: float, decimal: str, binary: str) -> None:
    assert console.size(count) == decimal
    assert console.size(count, binary=True) == binary


def test_shares_and_durations_in_words() -> None:
    assert [console.percent(0.834), console.percent(0.834, 1), console.percent(math.nan)] == ["83 %", "83.4 %", "–"]
    assert [console.duration(seconds) for seconds in (0, 59.6, 3723, 90061)] == [
        "0:00:00",
        "0:01:00",
        "1:02:03",
        "25:01:01",
    ]
    assert console.duration(math.inf) == "–"
