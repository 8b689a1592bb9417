"""What a disk may hold after a power cut, by the steps of a run: a model that believes in nothing but fsync.

Bytes are safe once their file is synced, names once their directory is. Of everything else any part may be there.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from random import Random
from typing import Any, Final

from attrs import define, field
from disk_steps import Cut, DirectoryMade, DirectorySynced, Linked, Made, Renamed, Step, Synced, Unlinked, Written

Names = dict[str, int]
"""The file, or directory, by its path."""
Survivors = dict[str, bytes]
"""The bytes of each file by its path, and b"" under a directory's, which ends in a slash."""

_DIRECTORY: Final = 0


@define
class Recording:
    """Every step of a run, in its order. Told by `disk_steps.watched`."""

    steps: list[Step] = field(factory=list)

    def before(self, step: Step) -> None:
        """Nothing has happened yet."""

    def after(self, step: Step) -> None:
        self.steps.append(step)


class Disk:
    """The disk while the steps happen: what is safe, and what has happened since."""

    def __init__(self, held: Survivors) -> None:
        """`held` is there, and safe."""
        self._names: Names = {}
        self._renamings: list[tuple[str, Names, list[str]]] = []  # where, what it adds, what it removes
        self._bytes: dict[int, bytes] = {}
        self._writings: dict[int, list[Cut | Written]] = {}
        self._numbers: dict[int, int] = {}  # ours of files that were there before, by those that the steps give them
        for number, (path, data) in enumerate(held.items(), 1):
            if path.endswith("/"):
                self._names[path.rstrip("/")] = _DIRECTORY
            else:
                self._names[path] = -number
                self._bytes[-number] = data
                self._writings[-number] = []
        self._safe_names = dict(self._names)
        self._safe_bytes = dict(self._bytes)

    def happened(self, step: Step) -> None:
        """Let `step` happen."""
        match step:
            case Made(path, file):
                self._bytes[file] = self._safe_bytes[file] = b""
                self._writings[file] = []
                self._rename(path, {path: file})
            case DirectoryMade(path):
                self._rename(path, {path: _DIRECTORY})
            case Linked(source, path):
                self._rename(path, {path: self._names[source]})
            case Renamed(source, path):
                self._rename(path, {path: self._names[source]}, [source])
            case Unlinked(path):
                self._rename(path, {}, [path])
            case Cut() | Written():
                file = self._number(step)
                self._bytes[file] = _written(self._bytes[file], step)
                self._writings[file].append(step)
            case Synced():
                file = self._number(step)
                self._safe_bytes[file] = self._bytes[file]
                self._writings[file] = []
            case DirectorySynced(directory):
                for where, added, removed in self._renamings:
                    if where == directory:
                        _renamed(self._safe_names, added, removed)
                self._renamings = [one for one in self._renamings if one[0] != directory]

    def _number(self, step: Cut | Written | Synced) -> int:
        if step.file not in self._bytes:
            self._numbers.setdefault(step.file, self._names[step.path])
        return self._numbers.get(step.file, step.file)

    def _rename(self, path: str, added: Names, removed: Iterable[str] = ()) -> None:
        self._renamings.append((str(Path(path).parent), added, [*removed]))
        _renamed(self._names, added, removed)

    def after(self, cut: "PowerCut") -> Survivors:
        """What is there when the power is back."""
        names = dict(self._safe_names)
        for _, added, removed in self._renamings:
            if cut.keeps_name():
                _renamed(names, added, removed)
        return {
            path if file else f"{path}/": self._bytes_after(cut, file) if file else b""
            for path, file in names.items()
            if all(str(parent) in names for parent in Path(path).parents if str(parent) in self._names)
        }

    def _bytes_after(self, cut: "PowerCut", file: int) -> bytes:
        data = self._safe_bytes[file]
        for number, step in enumerate(self._writings[file], 1):
            kept = cut.of_write(step, is_last=number == len(self._writings[file]))
            data = data if kept is None else _written(data, kept)
        return data


def _renamed(names: Names, added: Names, removed: Iterable[str]) -> None:
    for path in removed:
        names.pop(path, None)
    names.update(added)


def _written(data: bytes, step: Cut | Written) -> bytes:
    if isinstance(step, Cut):
        return data[: step.size_bytes].ljust(step.size_bytes, b"\0")
    return data[: step.offset].ljust(step.offset, b"\0") + step.data + data[step.offset + len(step.data) :]


OfWrite = Callable[..., Cut | Written | None]


@define
class PowerCut:
    """What a power cut does to steps that were not synced. keeps_name: asked for each; of_write: what is left of it."""

    name: str
    keeps_name: Callable[[], bool]
    of_write: OfWrite


def _kept(step: Cut | Written, **_: Any) -> Cut | Written:
    return step


def _lost(_: Cut | Written, **__: Any) -> None:
    return None


def _torn(step: Cut | Written, *, is_last: bool) -> Cut | Written:
    return _with(step, step.data[: len(step.data) // 2]) if is_last and isinstance(step, Written) else step


def _hollow(step: Cut | Written, **_: Any) -> Cut | Written:
    """The file has grown, and the bytes never came."""
    return _with(step, bytes(len(step.data))) if isinstance(step, Written) else step


def _with(step: Written, data: bytes) -> Written:
    return Written(step.path, step.file, step.offset, data, step.fd)


def _at_random(rng: Random) -> PowerCut:
    of_writes: tuple[OfWrite, ...] = (_kept, _lost, _torn, _hollow)

    def of_write(step: Cut | Written, *, is_last: bool) -> Cut | Written | None:
        return rng.choice(of_writes)(step, is_last=is_last)

    return PowerCut("at random", lambda: rng.random() < 0.5, of_write)


POWER_CUTS: Final = (
    PowerCut("all lost", lambda: False, _lost),
    PowerCut("all kept", lambda: True, _kept),
    PowerCut("last write torn", lambda: True, _torn),
    PowerCut("names kept, bytes lost", lambda: True, _lost),
    PowerCut("names kept, bytes hollow", lambda: True, _hollow),
    PowerCut("bytes kept, names lost", lambda: False, _kept),
    _at_random(Random(1)),
    _at_random(Random(2)),
)


def held_in(root: Path) -> Survivors:
    """All that is in a directory."""
    paths = list(root.rglob("*"))
    directories = {f"{path}/": b"" for path in paths if path.is_dir()}
    return directories | {str(path): path.read_bytes() for path in paths if path.is_file()}


def restored(survivors: Survivors, was: Path, now: Path) -> None:
    """Write what is left of directory `was` into `now`."""
    for path, data in survivors.items():
        place = now / Path(path).relative_to(was)
        if path.endswith("/"):
            place.mkdir(parents=True, exist_ok=True)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
