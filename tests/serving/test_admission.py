from __future__ import annotations

import pytest

from inlay.api.replies import retry_headers
from inlay.errors import Overloaded
from inlay.serving.admission import Admission, ByteBudget


def test_beyond_the_most_requests_the_next_is_refused_with_a_time() -> None:
    admission = Admission(2)
    with admission, admission:
        with pytest.raises(Overloaded) as refusal, admission:
            pass
        assert refusal.value.retry_after is not None
        assert refusal.value.retry_after > 0
        assert admission.num_requests == 2
    with admission:
        assert admission.num_requests == 1


def test_a_request_that_fails_gives_its_place_back() -> None:
    admission = Admission(1)
    for _ in range(3):
        with pytest.raises(ValueError, match="x"), admission:
            raise ValueError("x")
    assert admission.num_requests == 0


def test_the_time_to_come_back_grows_while_nothing_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("inlay.serving.admission.time.monotonic", lambda: now)
    admission = Admission(1)
    admission.__enter__()
    for waited in (1.0, 5.0):
        now = 100.0 + waited
        with pytest.raises(Overloaded) as refused, admission:
            pass
        assert refused.value.retry_after == waited


def test_an_idle_hour_says_nothing_of_the_time_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("inlay.serving.admission.time.monotonic", lambda: now)
    admission = Admission(1)
    with admission:
        now += 0.1
    now += 3600
    with admission:
        now += 0.1
        with pytest.raises(Overloaded) as refused, admission:
            pass
    assert refused.value.retry_after is not None
    assert refused.value.retry_after < 1


def test_who_is_refused_together_does_not_come_back_together() -> None:
    times = [int(dict(retry_headers(Overloaded("x", retry_after=2.0)))[b"retry-after-ms"]) for _ in range(50)]
    assert len(set(times)) > 20
    assert 2000 <= min(times) <= max(times) <= 3000


def test_bytes_are_refused_beyond_the_bound_but_a_lone_request_never_is() -> None:
    budget = ByteBudget(100)
    budget.take(150)
    with pytest.raises(Overloaded, match="--max-inflight-bytes"):
        budget.take(1)
    budget.give_back(150)
    budget.take(60)
    with pytest.raises(Overloaded):
        budget.take(41)
    assert budget.taken == 60
