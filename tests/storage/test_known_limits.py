"""What is kept of the gateway's limits from one session to the next: a help when true, harmless when not."""

import json
import time
from pathlib import Path

import pytest

from krea_async.control.governor import Limit
from krea_async.storage.known_limits import MAX_AGE_S, KnownLimits

URL, KEY = "https://api.example.com", "sk-evo-a-secret-that-nobody-may-see"
FOUND = Limit("rate", 19.8)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "krea-async"


def kept(cache: Path) -> Path:
    (file,) = cache.iterdir()
    return file


def test_what_was_found_is_known_next_time(cache: Path) -> None:
    assert KnownLimits(URL, KEY).load() is None
    for limit in (FOUND, Limit("unfinished", 8.0)):
        KnownLimits(URL, KEY).save(limit)
        assert KnownLimits(URL, KEY).load() == limit
    assert len(list(cache.iterdir())) == 1, "nothing else is left behind"


@pytest.mark.parametrize(("url", "key"), [(URL, "sk-evo-another"), ("https://other.example.com", KEY)])
def test_another_host_or_key_knows_nothing_of_it(cache: Path, url: str, key: str) -> None:
    KnownLimits(URL, KEY).save(FOUND)
    assert kept(cache).exists()
    assert KnownLimits(url, key).load() is None


def test_the_key_is_nowhere_in_it(cache: Path) -> None:
    KnownLimits(URL, KEY).save(FOUND)
    shown = kept(cache).name + kept(cache).read_text()
    assert not any(KEY[start : start + 6] in shown for start in range(len(KEY) - 5))


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        '{"kind": "rate"}',
        '{"kind": "rate", "value": -1, "at_s": %d}',
        '{"kind": "rate", "value": 0, "at_s": %d}',
        '{"kind": "rate", "value": NaN, "at_s": %d}',
        '{"kind": "rate", "value": 1e999, "at_s": %d}',
        '{"kind": "rate", "value": "many", "at_s": %d}',
        '{"kind": "colour", "value": 1, "at_s": %d}',
        '{"kind": ["rate"], "value": 1, "at_s": %d}',
        '{"kind": "rate", "value": 1, "at_s": "now"}',
        '{"kind": "rate", "value": 1, "at_s": 1e30}',
        '{"kind": "rate", "value": 1, "at_s": -1}',
        "\udcff",
    ],
)
def test_a_broken_file_is_as_good_as_none(cache: Path, content: str) -> None:
    KnownLimits(URL, KEY).save(FOUND)
    text = content % time.time() if "%d" in content else content
    kept(cache).write_bytes(text.encode("utf-8", "surrogateescape"))
    assert KnownLimits(URL, KEY).load() is None


def test_what_is_old_is_not_believed(cache: Path) -> None:
    KnownLimits(URL, KEY).save(FOUND)
    found = json.loads(kept(cache).read_text())
    kept(cache).write_text(json.dumps({**found, "at_s": time.time() - MAX_AGE_S - 1}))
    assert KnownLimits(URL, KEY).load() is None


def test_a_disk_that_refuses_costs_nothing_but_the_knowledge(cache: Path) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_text("a file where the directory should be")
    KnownLimits(URL, KEY).save(FOUND)
    assert KnownLimits(URL, KEY).load() is None
    assert cache.read_text() == "a file where the directory should be"


def test_where_nobody_knows_a_home_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs as a user it does not know."""

    def homeless(_path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", homeless)
    KnownLimits(URL, KEY).save(FOUND)
    assert KnownLimits(URL, KEY).load() is None
