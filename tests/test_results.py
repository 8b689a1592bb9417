"""The books of a batch add up, and say which rows may have cost something without a picture."""

import pickle
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from attrs.exceptions import FrozenInstanceError

from krea_async import (
    BatchReport,
    DownloadError,
    GeneratedImage,
    ImageRequest,
    InsufficientCreditsError,
    KreaError,
    ServiceError,
    TaskFailedError,
    TaskTimeoutError,
    Timings,
)
from krea_async.results import Tally

FOX = ImageRequest("a fox")


def saved(index: int = 0, request: ImageRequest = FOX, **more: Any) -> GeneratedImage:
    width, height = request.pixels
    image = GeneratedImage(
        index=index,
        request=request,
        status="saved",
        task_id=f"task-{index}",
        path=Path(f"{index}.png"),
        bytes=1_000,
        width=width,
        height=height,
        credits=request.credits,
    )
    return evolve(image, **more)


def failed(error: KreaError, index: int = 0, **more: Any) -> GeneratedImage:
    return evolve(GeneratedImage(index=index, request=FOX, status="failed", error=error), **more)


def report_of(*images: GeneratedImage, stopped_by: KreaError | None = None) -> BatchReport:
    tally = Tally()
    for image in images:
        tally.add(image)
    return tally.report(wall_s=1.5, calls={"create": len(images)}, stopped_by=stopped_by)


def test_timings_add_up() -> None:
    assert Timings(queued_s=0.5, waiting_s=0.5, generating_s=2.0, downloading_s=0.25).total_s == 3.25
    assert Timings().total_s == 0.0


def test_a_picture_is_as_requested_only_with_the_pixels_that_were_asked_for() -> None:
    assert saved().as_requested
    assert not saved(width=1023).as_requested
    assert not saved(width=768, height=1344, request=ImageRequest("x", size="16:9")).as_requested
    assert not saved(request=FOX, width=None, height=None).as_requested
    assert not evolve(saved(), request=None).as_requested


def test_results_are_values_that_cross_processes_and_cannot_be_changed() -> None:
    image = failed(TaskTimeoutError("too long", task_id="task-7"))
    copy = pickle.loads(pickle.dumps(image))
    assert (copy.index, copy.request, str(copy.error)) == (image.index, image.request, str(image.error))
    report = report_of(image)
    assert pickle.loads(pickle.dumps(report)).unknown == report.unknown
    with pytest.raises(FrozenInstanceError):
        image.status = "saved"  # type: ignore[misc]


def test_the_links_signature_is_not_in_the_repr() -> None:
    assert "sig=" not in repr(saved(url="https://images.example/x.png?sig=secret"))


def test_an_empty_batch_is_fine() -> None:
    report = report_of()
    assert report.ok
    assert (report.rows, report.credits, report.usd, report.failures, report.unknown) == (0, 0.0, 0.0, {}, ())


def test_rows_credits_dollars_and_bytes_add_up() -> None:
    large = ImageRequest("a lighthouse", size="16:9", quality="2K")
    report = report_of(*(saved(index) for index in range(3)), saved(3, large))
    assert (report.rows, report.saved, report.bytes) == (4, 4, 4_000)
    assert report.credits == 3.15  # and not 3.1500000000000004
    assert report.usd == pytest.approx(3 * 0.0067 + 0.027)
    assert report.ok
    assert report.calls == {"create": 4}


def test_ten_thousand_rows_add_up_to_round_numbers() -> None:
    assert report_of(*[saved()] * 10_000).credits == 4_500.0


def test_failures_are_grouped_by_code_most_frequent_first_with_the_first_as_the_example() -> None:
    policy = [TaskFailedError(f"no {n}", code="content_policy_violation") for n in range(2)]
    report = report_of(failed(ServiceError("down")), *map(failed, policy), saved())
    assert [*report.failures.items()] == [("content_policy_violation", 2), ("ServiceError", 1)]
    assert report.examples["content_policy_violation"] is policy[0]
    assert (report.saved, report.failed, report.rows, report.ok) == (1, 3, 4, False)


def test_skipped_rows_are_no_failures_and_no_success() -> None:
    reason = InsufficientCreditsError("empty", status=402)
    report = report_of(saved(), GeneratedImage(index=1, request=FOX, status="skipped", error=reason), stopped_by=reason)
    assert (report.saved, report.failed, report.skipped, report.rows) == (1, 0, 1, 2)
    assert report.failures == {}
    assert report.unknown == ()
    assert not report.ok


def test_a_batch_that_was_stopped_is_not_ok_even_if_every_row_was_saved() -> None:
    assert not report_of(saved(), stopped_by=KreaError("the run was stopped by a signal")).ok


@pytest.mark.parametrize(
    ("error", "charged"),
    [
        (TaskFailedError("refused", code="generation_timeout"), None),
        (ServiceError("down", charged="no"), None),
        (TaskTimeoutError("too long", task_id="task-1"), "unknown"),
        (ServiceError("the answer was lost", charged="unknown"), "unknown"),
        (DownloadError("no room", code="disk_error", task_id="task-1"), "yes"),
    ],
)
def test_rows_that_may_have_cost_something_are_named(error: KreaError, charged: str | None) -> None:
    report = report_of(failed(error, 5))
    assert [row.charged for row in report.unknown] == ([] if charged is None else [charged])
    for row in report.unknown:
        assert (row.index, row.prompt, row.task_id, row.reason) == (5, "a fox", error.task_id, str(error))


def test_the_task_of_a_lost_row_is_found_wherever_it_is_noted() -> None:
    error = ServiceError("unreadable", charged="unknown", task_id="task-error")
    by_row, by_error = report_of(failed(error, task_id="task-row"), failed(error)).unknown
    assert (by_row.task_id, by_error.task_id) == ("task-row", "task-error")


def test_a_failed_row_that_was_charged_is_paid_for_in_the_books() -> None:
    report = report_of(failed(DownloadError("no room"), credits=0.45))
    assert (report.credits, report.usd, report.saved) == (0.45, 0.0067, 0)


def test_pictures_of_another_size_are_saved_and_counted() -> None:
    report = report_of(saved(), saved(1, width=512))
    assert (report.saved, report.other_size, report.ok) == (2, 1, True)


def test_a_report_is_a_snapshot() -> None:
    tally, calls = Tally(), {"create": 1}
    tally.add(failed(ServiceError("down", charged="unknown")))
    before = tally.report(wall_s=1.0, calls=calls, stopped_by=None)
    tally.add(failed(ServiceError("down", charged="unknown")))
    calls["create"] = 2
    assert (before.failed, before.failures, len(before.unknown), before.calls) == (
        1,
        {"ServiceError": 1},
        1,
        {"create": 1},
    )


def test_a_row_that_was_no_request_is_counted_like_any_other() -> None:
    report = report_of(GeneratedImage(index=2, status="failed", error=KreaError("?", charged="unknown")))
    assert (report.failed, report.unknown[0].prompt, report.unknown[0].index) == (1, None, 2)
