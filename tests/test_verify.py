"""Whatever happens to a picture after it was saved is found, named, and called repairable only if it is."""

import shutil
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from attrs import evolve
from audited import by_manifest_only, picture, record, rendered, row, saved, write_journal

from krea_async.audit.verify import Problem, VerifyReport, verify
from krea_async.storage.records import Accepted, Intent

OTHER = picture(77, mode="L")  # a smaller file


def only(report: VerifyReport) -> Problem:
    (problem,) = report.problems
    return problem


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def zero_the_end(path: Path) -> None:
    """What a power cut may leave of a file whose name was kept."""
    data = path.read_bytes()
    path.write_bytes(data[:100] + bytes(len(data) - 100))


def put_another(path: Path) -> None:
    path.write_bytes(OTHER)


def put_another_of_the_same_size(path: Path) -> None:
    size = path.stat().st_size
    assert len(OTHER) <= size
    path.write_bytes(OTHER + bytes(size - len(OTHER)))


def put_a_text(path: Path) -> None:
    path.write_bytes(b"<html>not found</html>".ljust(path.stat().st_size))


def put_a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "gone": (Path.unlink, "missing", "missing"),
    "cut": (cut, "size", "structure"),
    "bit": (flip_a_bit, "sha256", "undecodable"),
    "zeroes": (zero_the_end, "sha256", "structure"),
    "text": (put_a_text, "sha256", "structure"),
    "another": (put_another, "size", ""),
    "same-size": (put_another_of_the_same_size, "sha256", ""),
    "directory": (put_a_directory, "unreadable", "unreadable"),
}


def test_a_directory_as_it_was_left_is_well(tmp_path: Path) -> None:
    rendered(tmp_path, 3)
    report = verify(tmp_path)
    assert report.ok
    assert (report.source, report.rows, report.files, report.decoded) == ("journal", 3, 3, 3)
    assert report.bytes == sum(path.stat().st_size for path in tmp_path.glob("*.png"))
    assert report.decoder is not None
    assert report.decoder.startswith("Pillow ")
    by_manifest_only(tmp_path)
    by_manifest = verify(tmp_path)
    assert by_manifest.ok
    assert (by_manifest.source, by_manifest.rows, by_manifest.decoded) == ("manifest", 3, 3)


@pytest.mark.parametrize("name", DAMAGES)
def test_every_damage_is_found_and_is_that_of_its_row_alone(tmp_path: Path, name: str) -> None:
    damage, kind, _ = DAMAGES[name]
    rendered(tmp_path, 3)
    damage(tmp_path / "1.png")
    problem = only(report := verify(tmp_path))
    assert not report.ok
    assert (problem.kind, problem.n, problem.index, problem.file) == (kind, 1, 1, "1.png")
    assert problem.task_id == "task-unified-1-1"
    assert problem.repairable is (kind != "unreadable")
    assert (problem.rerender_credits, problem.rerender_usd) == (0.45, 0.0067)
    assert report.files == (2 if kind in {"missing", "unreadable"} else 3)


@pytest.mark.parametrize("name", [name for name, (_, _, kind) in DAMAGES.items() if kind])
def test_without_recorded_bytes_the_picture_itself_is_judged(tmp_path: Path, name: str) -> None:
    """An old manifest may know no more than the names."""
    damage, _, kind = DAMAGES[name]
    lines = rendered(tmp_path, 2)
    record(tmp_path, [evolve(line, sha256="") for line in lines])
    by_manifest_only(tmp_path)
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text(manifest.read_text().replace('"bytes"', '"bytes_were"'))
    damage(tmp_path / "1.png")
    problem = only(verify(tmp_path))
    assert (problem.kind, problem.n, problem.index) == (kind, None, 1)
    assert not problem.repairable  # there is no journal to note it in


def test_without_decoding_a_flipped_bit_is_found_by_its_digest_alone(tmp_path: Path) -> None:
    lines = rendered(tmp_path, 2)
    flip_a_bit(tmp_path / "1.png")
    assert only(verify(tmp_path, decode=False)).kind == "sha256"
    record(tmp_path, [evolve(line, sha256="") for line in lines])
    report = verify(tmp_path, decode=False)
    assert report.ok
    assert (report.decoder, report.decoded) == (None, 0)
    assert only(verify(tmp_path)).kind == "undecodable"


def test_without_pillow_all_but_the_pixels_is_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rendered(tmp_path, 3)
    flip_a_bit(tmp_path / "0.png")
    cut(tmp_path / "1.png")
    monkeypatch.setitem(sys.modules, "PIL", None)
    report = verify(tmp_path)
    assert [problem.kind for problem in report.problems] == ["sha256", "size"]
    assert (report.decoder, report.decoded, report.files) == (None, 0, 3)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_every_format_is_decoded_to_its_last_pixel(tmp_path: Path, form: str) -> None:
    data = picture(5, form=form)
    name = f"0.{form.lower()}"
    (tmp_path / name).write_bytes(data)
    record(tmp_path, [saved(0, data, files=[name])])
    report = verify(tmp_path)
    assert (report.ok, report.decoded) == (True, 1)


def test_other_pixels_than_recorded_are_damage_and_than_documented_are_not(tmp_path: Path) -> None:
    """The gateway made it so: fetching it again would bring the same."""
    data = picture(pixels=(64, 48))
    lines = [saved(0, data), saved(1, data2 := picture(1, pixels=(64, 48)), width=64, height=48)]
    for line, content in zip(lines, (data, data2), strict=True):
        (tmp_path / line.files[0]).write_bytes(content)
    record(tmp_path, lines)
    recorded, documented = verify(tmp_path).problems
    assert (recorded.kind, recorded.repairable) == ("pixels", True)
    assert recorded.message == "it has 64x48 pixels, not 704x1472 as recorded"
    assert (documented.kind, documented.repairable) == ("other_size", False)
    assert documented.message == "it has 64x48 pixels; 1:2 in 1K is documented as 704x1472"


@pytest.mark.parametrize("what", ["pixels", "checksum"])
def test_wrong_pixels_under_right_checksums_are_found_and_the_other_way_round(tmp_path: Path, what: str) -> None:
    data = bytearray(picture())
    start = data.index(b"IDAT")
    (length,) = struct.unpack(">I", data[start - 4 : start])
    end = start + 4 + length
    if what == "pixels":
        data[start + 4 : end] = bytes(length)
        data[end : end + 4] = struct.pack(">I", zlib.crc32(data[start:end]))
    else:
        data[end] ^= 1
    (tmp_path / "0.png").write_bytes(data)
    record(tmp_path, [saved(0, bytes(data))])
    assert verify(tmp_path, decode=False).ok
    assert only(verify(tmp_path)).kind == "undecodable"


@pytest.mark.parametrize("pixels", [(60_000, 60_000), (2**31 - 1, 2**31 - 1), (9_000, 9_000)])
@pytest.mark.parametrize("decode", [True, False])
def test_a_decompression_bomb_is_called_one_and_not_opened(
    tmp_path: Path, pixels: tuple[int, int], decode: bool
) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", *pixels, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(9999)))
    bomb += chunk(b"IEND", b"")
    (tmp_path / "0.png").write_bytes(bomb)
    record(tmp_path, [saved(0, bomb, width=pixels[0], height=pixels[1])])
    problem = only(verify(tmp_path, decode=decode))
    assert problem.kind == "undecodable"
    assert "too many to be a picture of ours" in problem.message


def test_a_jpeg_with_two_sizes_is_not_decoded_at_the_larger(tmp_path: Path) -> None:
    """The first frame header is what we look at, and the last one is what Pillow believes."""
    data = picture(form="JPEG")
    start = data.index(b"\xff\xc0")
    (length,) = struct.unpack(">H", data[start + 2 : start + 4])
    frame = data[start : start + 2 + length]
    larger = frame[:5] + struct.pack(">HH", 900, 60_000) + frame[9:]
    data = data[: start + 2 + length] + larger + data[start + 2 + length :]
    (tmp_path / "0.jpg").write_bytes(data)
    record(tmp_path, [saved(0, data, files=["0.jpg"])])
    problem = only(verify(tmp_path))
    assert problem.kind == "undecodable"
    assert problem.message.endswith("it is 60000x900 and 704x1472 at the same time")


# --- all of them together ---------------------------------------------------------------------------------------------


def test_one_picture_under_two_tasks_is_a_duplicate_of_the_first(tmp_path: Path) -> None:
    lines = rendered(tmp_path, 3)
    shutil.copy(tmp_path / "0.png", tmp_path / "2.png")
    record(tmp_path, [*lines[:2], evolve(lines[2], bytes=lines[0].bytes, sha256=lines[0].sha256)])
    problem = only(verify(tmp_path))
    assert (problem.kind, problem.n, problem.repairable) == ("duplicate", 2, False)
    assert problem.message == "it is the same picture as 0.png of row 0, which was another task"


@pytest.mark.parametrize("reason", ["copy", "task", "seed", "link"])
def test_pictures_that_may_be_equal_are_no_duplicates(tmp_path: Path, reason: str) -> None:
    """A copy had no task of its own; the same seed may give the same picture; somebody may have linked them."""
    first = rendered(tmp_path, 1)[0]
    second = evolve(first, n=1, files=["1.png"], task_id="task-unified-1-1")
    if reason == "link":
        (tmp_path / "1.png").hardlink_to(tmp_path / "0.png")
    else:
        shutil.copy(tmp_path / "0.png", tmp_path / "1.png")
    if reason in {"copy", "task"}:
        second = evolve(second, task_id=None if reason == "copy" else first.task_id)
    asked = ("fox", 7) if reason == "seed" else ("", None)
    write_journal(tmp_path, *(row(n, asked[0], seed=asked[1]) for n in (0, 1)), first, second)
    assert verify(tmp_path).ok


def test_a_name_that_two_rows_claim_is_told_of_the_row_that_has_lost_it(tmp_path: Path) -> None:
    lines = rendered(tmp_path, 2)
    record(tmp_path, [evolve(lines[0], files=["1.png"]), lines[1]])
    (tmp_path / "0.png").unlink()
    problem = only(verify(tmp_path))
    assert (problem.kind, problem.n, problem.repairable) == ("shared_name", 0, True)
    assert problem.message.startswith("another row's picture has its name, and ")


def test_a_copy_that_is_gone_can_come_from_the_task_of_the_other(tmp_path: Path) -> None:
    first = rendered(tmp_path, 1)[0]
    record(tmp_path, [first, evolve(first, n=1, task_id=None, files=["1.png"], credits=0.0)])
    problem = only(verify(tmp_path))
    assert (problem.kind, problem.n, problem.task_id, problem.repairable) == ("missing", 1, first.task_id, True)
    record(tmp_path, [evolve(first, n=0, task_id=None, files=["1.png"])])
    problem = only(verify(tmp_path))
    assert (problem.kind, problem.task_id, problem.repairable) == ("missing", None, False)


def test_every_file_of_a_row_counts(tmp_path: Path) -> None:
    first = rendered(tmp_path, 1)[0]
    (tmp_path / "0_2.png").write_bytes(picture(9))
    record(tmp_path, [evolve(first, files=["0.png", "0_2.png", "0_3.png"])])
    report = verify(tmp_path)
    problem = only(report)
    assert (problem.kind, problem.file, report.files, report.strays) == ("missing", "0_3.png", 2, ())
    cut(tmp_path / "0_2.png")
    assert [(problem.kind, problem.file) for problem in verify(tmp_path).problems] == [
        ("structure", "0_2.png"),
        ("missing", "0_3.png"),
    ]


def test_what_is_newer_than_the_look_may_be_that_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rendered(tmp_path, 1)
    (tmp_path / "new.png").write_bytes(b"x")
    (tmp_path / "new.part").write_bytes(b"x")
    assert (verify(tmp_path).strays, verify(tmp_path).parts) == (("new.png",), ("new.part",))
    monkeypatch.setattr("time.time_ns", lambda: 0)
    assert (verify(tmp_path).strays, verify(tmp_path).parts) == ((), ())


def test_strays_and_parts_are_told_and_do_no_harm(tmp_path: Path) -> None:
    lines = rendered(tmp_path, 1)
    for name in ("old.PNG", "00001-fox-1-2.png", "other.webp", "x.part", "notes.txt", "dir.png"):
        (tmp_path / name).mkdir() if name == "dir.png" else (tmp_path / name).write_bytes(b"x")
    under_way = Intent(n=1, key="k", at_s=3.0), Accepted(n=1, task_id="t", at_s=4.0)
    write_journal(tmp_path, row(0), row(1), *lines, *under_way)
    report = verify(tmp_path)
    assert report.ok
    assert report.strays == ("old.PNG", "other.webp")  # the other one may be that of the row that is under way
    assert report.parts == ("x.part",)
