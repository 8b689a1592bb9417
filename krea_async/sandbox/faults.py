"""What can go wrong, and when: probabilities for storms, scripts for single steps, one seeded `Random` for both."""

from bisect import bisect_right
from collections import deque
from collections.abc import Mapping
from itertools import accumulate
from random import Random
from typing import Any, Final

from attrs import evolve, field, frozen, validators

ROUTES: Final = ("create", "read", "batch", "list", "credits", "image")

_REPLY_FAULTS: Final = (
    "drop_before", "drop_after", "error", "error_after", "garbage", "slow", "stalled",
)  # fmt: skip
_IMAGE_FAULTS: Final = (
    "drop", "error", "truncated", "short", "stalled", "slow", "wrong_type", "empty", "expired", "gone",
)  # fmt: skip
_SCRIPTED: Final = {
    "create": (*_REPLY_FAULTS, "status", "fail", "cancelled", "ok"),
    "read": (*_REPLY_FAULTS, "status", "missing", "ok"),
    "batch": (*_REPLY_FAULTS, "status", "missing", "ok"),
    "list": (*_REPLY_FAULTS, "status", "ok"),
    "credits": (*_REPLY_FAULTS, "status", "ok"),
    "image": (*_IMAGE_FAULTS, "status", "ok"),
}
_VALUE_OF: Final = {
    "status": "status", "error": "status", "error_after": "status", "fail": "code", "garbage": "text", "slow": "wait_s",
    "stalled": "at_bytes", "truncated": "at_bytes", "short": "at_bytes",
}  # fmt: skip

_share = validators.and_(validators.ge(0.0), validators.le(1.0))


@frozen
class Fault:
    """One thing that goes wrong with one request.

    status: of an `error` or a `status` (else drawn). at_bytes: where the body is cut (else drawn). wait_s: of a `slow`
    one. code: of a task that is to `fail`, or of a `status`. text: the body of `garbage` or of a `status`. retry_after:
    that header of a `status`.
    """

    name: str
    status: int | None = field(default=None, kw_only=True)
    at_bytes: int | None = field(default=None, kw_only=True)
    wait_s: float | None = field(default=None, kw_only=True)
    code: str | None = field(default=None, kw_only=True)
    text: str | None = field(default=None, kw_only=True)
    retry_after: str | None = field(default=None, kw_only=True)

    @classmethod
    def of(cls, spec: "str | tuple[str, Any] | Fault") -> "Fault":
        """`spec` as a fault: itself, a name, or a name with its one value, as in ("status", 503)."""
        if isinstance(spec, Fault):
            return spec
        name, value = (spec, None) if isinstance(spec, str) else spec
        if value is None:
            return cls(name)
        if name not in _VALUE_OF:
            raise ValueError(f"the fault {name!r} takes no value")
        return evolve(cls(name), **{_VALUE_OF[name]: value})


@frozen(kw_only=True)
class Faults:
    """How probable each fault is, 0..1. Of the faults of one request at most one strikes, so their sum is at most 1.

    On the API's routes. drop_before: the connection closes before anything is done. drop_after: it is done (a task is
    made and charged), then the connection closes. error: 500, 502, 503 or 504 and nothing done; error_after: the same,
    but done. garbage: broken JSON, a proxy's HTML or JSON without what was asked for; done. slow: `slow_s` late.
    stalled: headers or half a body, then nothing for `stall_s`; done.

    On the image host (`image_…`): drop; error; truncated: the body ends before its Content-Length; short: a cut picture
    with a matching Content-Length; stalled; slow; wrong_type: HTML; empty; expired: 403, and gone: 410, both for good
    for that link, so that only a fresh read of the task helps.

    Of tasks. fail: probability by error code; cancelled; missing: an id is left out of a batch reply though it exists.
    deny_model: every create is answered 403.
    """

    drop_before: float = field(default=0.0, validator=_share)
    drop_after: float = field(default=0.0, validator=_share)
    error: float = field(default=0.0, validator=_share)
    error_after: float = field(default=0.0, validator=_share)
    garbage: float = field(default=0.0, validator=_share)
    slow: float = field(default=0.0, validator=_share)
    stalled: float = field(default=0.0, validator=_share)

    image_drop: float = field(default=0.0, validator=_share)
    image_error: float = field(default=0.0, validator=_share)
    image_truncated: float = field(default=0.0, validator=_share)
    image_short: float = field(default=0.0, validator=_share)
    image_stalled: float = field(default=0.0, validator=_share)
    image_slow: float = field(default=0.0, validator=_share)
    image_wrong_type: float = field(default=0.0, validator=_share)
    image_empty: float = field(default=0.0, validator=_share)
    image_expired: float = field(default=0.0, validator=_share)
    image_gone: float = field(default=0.0, validator=_share)

    fail: Mapping[str, float] = field(factory=dict)
    cancelled: float = field(default=0.0, validator=_share)
    missing: float = field(default=0.0, validator=_share)

    slow_s: float = 1.0
    stall_s: float = 30.0
    deny_model: bool = False

    def __attrs_post_init__(self) -> None:
        for table in (self.on_api, self.on_images, self.on_tasks):
            if sum(table.values()) > 1.0 + 1e-9:
                raise ValueError(f"the probabilities of one request's faults add up to more than 1: {table}")

    @classmethod
    def everywhere(cls, share: float, **more: Any) -> "Faults":  # noqa: ANN401 - this class's own fields
        """Every fault that a good client recovers from, each with probability `share`; tasks themselves do not fail."""
        names = (*_REPLY_FAULTS, *(f"image_{name}" for name in _IMAGE_FAULTS), "missing")
        return cls(**{**dict.fromkeys(names, share), **more})

    @property
    def on_api(self) -> dict[str, float]:
        """Probabilities of the faults of an API request."""
        return {name: getattr(self, name) for name in _REPLY_FAULTS}

    @property
    def on_images(self) -> dict[str, float]:
        """Probabilities of the faults of a picture's request."""
        return {name: getattr(self, f"image_{name}") for name in _IMAGE_FAULTS}

    @property
    def on_tasks(self) -> dict[str, float]:
        """Probabilities of a task's bad ends: error codes, and "cancelled"."""
        return {**self.fail, "cancelled": self.cancelled}


class Dice:
    """Decides which fault strikes next: first what is scripted, then what `faults` makes probable."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self._scripts: dict[str, deque[Fault]] = {route: deque() for route in ROUTES}
        self._faults: Faults | None = None
        self._api = self._images = self._tasks = _Wheel({})

    def script(self, route: str, *specs: str | tuple[str, Any] | Fault) -> None:
        """Let these faults strike the next requests of `route`, in this order. Raises ValueError for unknown names."""
        if route not in _SCRIPTED:
            raise ValueError(f"{route!r} is no route; there are {', '.join(ROUTES)}")
        faults = [Fault.of(spec) for spec in specs]
        for fault in faults:
            if fault.name not in _SCRIPTED[route]:
                raise ValueError(f"{fault.name!r} is no fault of {route!r}; there are {', '.join(_SCRIPTED[route])}")
        self._scripts[route].extend(faults)

    def next_fault(self, route: str, faults: Faults) -> Fault | None:
        """What strikes this request of `route`; None: nothing."""
        if scripted := self._scripts[route]:
            fault = scripted.popleft()
            return None if fault.name == "ok" else fault
        self._read(faults)
        name = (self._images if route == "image" else self._api).spin(self.rng)
        return Fault(name) if name else None

    def next_end(self, faults: Faults, scripted: Fault | None) -> str:
        """How a new task will end: "completed", "cancelled", or an error code."""
        if scripted is not None and scripted.name == "fail":
            return scripted.code or "generation_timeout"
        if scripted is not None and scripted.name == "cancelled":
            return "cancelled"
        self._read(faults)
        return self._tasks.spin(self.rng) or "completed"

    def strikes(self, share: float) -> bool:
        """True with probability `share`."""
        return share > 0.0 and self.rng.random() < share

    def _read(self, faults: Faults) -> None:
        if faults is not self._faults:  # the tables are built once for each settings object
            self._faults = faults
            self._api, self._images, self._tasks = map(_Wheel, (faults.on_api, faults.on_images, faults.on_tasks))


class _Wheel:
    """A wheel of fortune: each name's field is as wide as its probability; the rest of the wheel is empty."""

    def __init__(self, shares: Mapping[str, float]) -> None:
        self._names = [name for name, share in shares.items() if share > 0.0]
        self._edges = list(accumulate(shares[name] for name in self._names))

    def spin(self, rng: Random) -> str | None:
        if not self._edges:
            return None
        place = bisect_right(self._edges, rng.random())
        return self._names[place] if place < len(self._names) else None
