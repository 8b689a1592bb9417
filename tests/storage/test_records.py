"""A line says what it is, proves itself, comes back as it was, and holds no secret."""

import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krea_async import ImageRequest
from krea_async.models import MAX_SEED, QUALITIES, SIZES
from krea_async.storage.records import (
    Accepted,
    Completed,
    Failed,
    Header,
    Intent,
    Left,
    Line,
    Row,
    RunBegun,
    RunEnded,
    Same,
    Saved,
    Sums,
    content_digest_of,
    decode,
    digest_of,
    encode,
    request_facts,
    request_of,
)

LINES: list[Line] = [
    Header(at_s=1.0),
    RunBegun(pid=7, version="0.1.0", balance=12.5, at_s=1.0),
    Row(n=0, index=4, request=ImageRequest('狐狸\n\u2028 "quoted" \\ , back', seed=7, id="a,b")),
    Intent(n=0, key="kr-0123456789abcdef", at_s=2.0004),
    Accepted(n=0, task_id="task-unified-1-a", credits=0.45, created_s=3, at_s=3.0),
    Completed(n=0, links=["https://x.y/z.png"], expires_s=9.0, at_s=4.0),
    Saved(
        n=0, credits=0.45, files=["狐.png"], bytes=3, sha256="00ff", width=1, height=2, seconds=[1, 2.00049], at_s=5.0
    ),
    Failed(n=0, credits=0.0, charged="no", error="TaskFailedError", message="\ud800 no", retryable=True, at_s=5.0),
    Left(n=0, charged="unknown", error="ServiceError", code="503", message="", at_s=6.0),
    Same(n=1, of=0),
    RunEnded(balance=None, stopped_by="insufficient_quota", at_s=7.0),
    Sums(settled=1.5, unknown=0.45),
]
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda text: bool(text.strip()))
REQUESTS = st.builds(
    ImageRequest,
    TEXT,
    size=st.sampled_from(SIZES),
    quality=st.sampled_from(QUALITIES),
    seed=st.none() | st.integers(0, MAX_SEED),
    nsfw_check=st.booleans(),
    callback_url=st.none() | st.just("https://example.com/hook?token=1"),
    id=st.none() | TEXT,
)


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.event)
def test_a_line_comes_back_as_it_was_and_has_the_shape_that_readers_rely_on(line: Line) -> None:
    data = encode(line)
    assert decode(data) == line
    assert data.count(b"\n") == 1
    facts = json.loads(data)
    numbered = [f'"n":{line.n}'] if hasattr(line, "n") else []
    assert data.decode().startswith("{" + ",".join([f'"e":"{line.event}"', *numbered]) + ",")
    body, _, trailer = data.partition(b',"crc"')
    assert trailer == b':"%08x"}\n' % zlib.crc32(body)
    assert [*facts][-1] == "crc"


def test_what_a_reader_takes_by_its_place_is_there() -> None:
    """Part of the format: changing it needs a new version."""
    row, saved, failed, left = (encode(LINES[place]).split(b",", 3) for place in (2, 6, 7, 8))
    assert (row[2][:10], row[3][:11]) == (b'"digest":"', b'"content":"')
    assert saved[2] == b'"credits":0.45'
    assert (failed[2], failed[3][:14]) == (b'"credits":0.0', b'"charged":"no"')
    assert left[2] == b'"charged":"unknown"'


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.event)
def test_every_changed_byte_is_noticed(line: Line) -> None:
    data = encode(line).removesuffix(b"\n")
    for place in range(len(data)):
        for mask in (0x01, 0x20, 0xFF):
            with pytest.raises(ValueError, match="checksum"):
                decode(data[:place] + bytes([data[place] ^ mask]) + data[place + 1 :])


@pytest.mark.parametrize("line", LINES)
def test_a_line_is_the_compact_json_of_its_values(line: Line) -> None:
    """Lines are written by hand, for speed; a JSON encoder would write the same bytes."""
    written = encode(line).removesuffix(b"\n")
    compact = json.dumps(json.loads(written), ensure_ascii=False, separators=(",", ":"))
    assert written == compact.encode(errors="backslashreplace")


@pytest.mark.parametrize("amount", [float("nan"), float("inf")])
def test_what_is_no_number_in_json_is_not_written(amount: float) -> None:
    """A reader could not read the line."""
    with pytest.raises(ValueError, match="JSON compliant"):
        encode(Sums(settled=amount, unknown=0.0))


@given(REQUESTS)
def test_a_request_comes_back_as_it_was(request: ImageRequest) -> None:
    assert request_of(json.loads(json.dumps(request_facts(request)))) == request
    assert decode(encode(Row(n=0, index=0, request=request))) == Row(n=0, index=0, request=request)


def test_only_what_differs_from_the_defaults_is_written() -> None:
    assert request_facts(ImageRequest("a fox")) == {"prompt": "a fox"}
    assert request_facts(ImageRequest("a fox", id="x", seed=0)) == {"prompt": "a fox", "seed": 0, "id": "x"}


def test_a_row_is_recognised_by_its_id_or_else_by_what_makes_the_picture() -> None:
    fox = ImageRequest("a fox", seed=1)
    assert digest_of(fox) == content_digest_of(fox) == content_digest_of(ImageRequest("a fox", seed=1, id="x"))
    assert digest_of(fox) == digest_of(ImageRequest("a fox", seed=1, callback_url="https://example.com/"))
    assert digest_of(ImageRequest("a fox", seed=0)) == digest_of(ImageRequest("a fox"))
    assert digest_of(ImageRequest("a fox", id="x")) == digest_of(ImageRequest("an owl", id="x"))
    others = [
        fox,
        ImageRequest("a fox"),
        ImageRequest("a fox", seed=1, size="16:9"),
        ImageRequest("a fox", seed=1, quality="2K"),
        ImageRequest("a fox", seed=1, nsfw_check=True),
        ImageRequest("a fox", seed=1, id="x"),
        ImageRequest("id", id="y"),
    ]
    assert len({digest_of(request) for request in others}) == len(others)
    assert all(0 <= digest_of(request) < 2**64 for request in others)


def test_a_digest_is_the_same_in_every_process_and_version() -> None:
    assert f"{digest_of(ImageRequest('a fox')):016x}" == "d750fdbb51d8e465"


def test_no_signature_and_no_credentials_of_a_link_are_written() -> None:
    link = "https://user:secret@files.example/a.png?Signature=secret&Expires=1#secret"
    message = f"cannot read {link}, nor 'HTTPS://x.y?secret=1' (status 500)?"
    for line in (
        Completed(n=0, links=[link], expires_s=1.0, at_s=1.0),
        Failed(n=0, credits=0, charged="yes", error="E", message=message, retryable=False, at_s=1.0),
        Left(n=0, charged="yes", error="E", message=message, at_s=1.0),
    ):
        data = encode(line)
        assert b"secret" not in data
        assert b"https://files.example/a.png" in data
    assert b"(status 500)?" in data


@pytest.mark.parametrize("text", ['{"e":"dance","n":0', '{"e":"intent","n":0,"t":1', '{"e":"intent","n":0,"t":1]'])
def test_what_this_version_does_not_write_is_refused(text: str) -> None:
    body = text.encode()
    with pytest.raises(ValueError, match=r"unknown|missing|delimiter"):
        decode(b'%b,"crc":"%08x"}\n' % (body, zlib.crc32(body)))


def test_a_number_that_json_has_not_is_refused() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        encode(Sums(settled=float("nan"), unknown=0.0))
