"""The demo's databases: a folder of its own for each world and number of places."""

from pathlib import Path

import pytest

from rsdnet.synthetic import demo


def test_each_world_and_number_of_places_has_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, ...]] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "_call", lambda *words: calls.append(words))
    made = [demo.prepare(), demo.prepare(7), demo.prepare(7, 32)]
    assert made == [Path(f"data/{name}/db") for name in ("demo", "demo-7-300", "demo-7-32")]
    scenes = [words for words in calls if words[0] == "rsdnet.scenes"]
    assert [(words[2], words[-1]) for words in scenes] == [
        ("--places=300", "--seed=0"), ("--places=300", "--seed=7"), ("--places=32", "--seed=7"),
    ]  # fmt: skip
    made[0].mkdir(parents=True)
    (made[0] / "catalog.parquet").touch()
    calls.clear()
    assert demo.prepare() == made[0]
    assert calls == []
