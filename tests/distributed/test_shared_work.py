"""Whatever front ends ask for, in any order: a content is computed once at a time, and all are answered once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from fakes import SPEC, FakeWorker
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from inlay.distributed.shared_work import SharedWork
from inlay.errors import Overloaded
from inlay.types import DENSE, SPARSE, Answer, Deliver, Failure, Priority, Truncate, Work


class HeldWorker(FakeWorker):
    """Answers when it is told to."""

    def __init__(self) -> None:
        super().__init__(SPEC)
        self.held: dict[int, tuple[Work, Deliver]] = {}

    def submit_many(self, works: list[Work], deliver: Deliver) -> None:
        assert not self.held.keys() & {work.id for work in works}
        self.held |= {work.id: (work, deliver) for work in works}

    def cancel_many(self, ids: list[int]) -> None:
        for number in ids:
            self.held.pop(number, None)

    def answer(self, number: int, failure: Failure | None = None) -> None:
        work, deliver = self.held.pop(number)
        outputs = {} if failure else {kind: f"{kind} of {work.content}".encode() for kind in work.outputs}
        deliver([Answer(number, outputs, failure)])


@dataclass(eq=False)
class FrontEnd:
    """Gives ids of its own, which others give as well."""

    ids: int = 0
    asked: dict[int, Work] = field(default_factory=dict)
    answers: Counter[int] = field(default_factory=Counter)
    failed: dict[int, str] = field(default_factory=dict)

    def work(self, content: str, outputs: tuple[str, ...] = (DENSE,), priority: Priority = Priority.NORMAL) -> Work:
        self.ids += 1
        made = Work(self.ids, content, Truncate.END, 64, outputs=outputs, priority=priority)
        self.asked[made.id] = made
        return made

    def deliver(self, answers: list[Answer]) -> None:
        for answer in answers:
            self.answers[answer.id] += 1
            work = self.asked[answer.id]
            if answer.failure is None:
                assert answer.outputs == {kind: f"{kind} of {work.content}".encode() for kind in work.outputs}
            else:
                self.failed[answer.id] = answer.failure.code


class AnyOrder(RuleBasedStateMachine):
    """Front ends come, ask, hurry, cancel and go, and the worker answers in any order."""

    front_ends = Bundle("front_ends")

    def __init__(self) -> None:
        super().__init__()
        self.worker = HeldWorker()
        self.shared = SharedWork(self.worker)
        self.known: list[FrontEnd] = []

    @rule(target=front_ends)
    def come(self) -> FrontEnd:
        self.known.append(FrontEnd())
        return self.known[-1]

    @rule(
        one=front_ends,
        contents=st.lists(st.sampled_from("abc"), min_size=1, max_size=3, unique=True),
        outputs=st.sampled_from([(DENSE,), (SPARSE,), (DENSE, SPARSE)]),
        priority=st.sampled_from(list(Priority)),
    )
    def ask(self, one: FrontEnd, contents: list[str], outputs: tuple[str, ...], priority: Priority) -> None:
        self.shared.submit_many([one.work(content, outputs, priority) for content in contents], one.deliver)

    @rule(one=front_ends, data=st.data())
    def cancel(self, one: FrontEnd, data: st.DataObject) -> None:
        if one.asked:
            self.shared.cancel_many([data.draw(st.sampled_from(sorted(one.asked)))], one.deliver)

    @rule(one=front_ends, data=st.data(), priority=st.sampled_from(list(Priority)))
    def hurry(self, one: FrontEnd, data: st.DataObject, priority: Priority) -> None:
        if one.asked:
            self.shared.promote_many([data.draw(st.sampled_from(sorted(one.asked)))], priority, one.deliver)

    @rule(one=front_ends)
    def go(self, one: FrontEnd) -> None:
        self.shared.cancel_all(one.deliver)
        assert set(one.answers) == set(one.asked)

    @rule(data=st.data(), is_refused=st.booleans())
    def answer(self, data: st.DataObject, is_refused: bool) -> None:
        if self.worker.held:
            number = data.draw(st.sampled_from(sorted(self.worker.held)))
            self.worker.answer(number, Failure("overloaded", "full") if is_refused else None)

    @invariant()
    def nothing_is_computed_twice_at_a_time(self) -> None:
        under_way = [(work.content, kinds) for work, _ in self.worker.held.values() for kinds in [set(work.outputs)]]
        for place, (content, kinds) in enumerate(under_way):
            assert not any(content == other and kinds <= more for other, more in under_way[:place])

    @invariant()
    def nothing_is_answered_twice(self) -> None:
        assert all(count == 1 for one in self.known for count in one.answers.values())

    def teardown(self) -> None:
        while self.worker.held:
            self.worker.answer(next(iter(self.worker.held)))
        assert all(set(one.answers) == set(one.asked) for one in self.known)
        assert len(self.shared) == 0
        assert not self.shared._places
        assert not self.shared._by_content


AnyOrder.TestCase.settings = settings(max_examples=200, deadline=None)
test_any_order = pytest.mark.filterwarnings("ignore")(AnyOrder.TestCase)


@pytest.fixture
def worker() -> HeldWorker:
    return HeldWorker()


def test_two_front_ends_share_one_computation(worker: HeldWorker) -> None:
    shared, one, two = SharedWork(worker), FrontEnd(), FrontEnd()
    shared.submit_many([one.work("a")], one.deliver)
    shared.submit_many([two.work("a"), two.work("b")], two.deliver)
    assert [work.content for work, _ in worker.held.values()] == ["a", "b"]
    for number in list(worker.held):
        worker.answer(number)
    assert (one.answers, two.answers) == ({1: 1}, {1: 1, 2: 1})


def test_what_gives_more_than_is_wanted_is_joined(worker: HeldWorker) -> None:
    shared, one, two = SharedWork(worker), FrontEnd(), FrontEnd()
    shared.submit_many([one.work("a", (DENSE, SPARSE))], one.deliver)
    shared.submit_many([two.work("a", (SPARSE,))], two.deliver)
    assert len(worker.held) == 1
    worker.answer(0)
    assert two.answers == {1: 1}


def test_who_joined_a_request_that_is_refused_asks_for_himself(worker: HeldWorker) -> None:
    shared, one, two = SharedWork(worker), FrontEnd(), FrontEnd()
    shared.submit_many([one.work("a")], one.deliver)
    shared.submit_many([two.work("a")], two.deliver)
    worker.answer(0, Failure(Overloaded.code, "full"))
    assert one.failed == {1: Overloaded.code}
    assert not two.answers
    worker.answer(next(iter(worker.held)))
    assert two.answers == {1: 1}
    assert not two.failed


def test_the_computation_hurries_with_who_joins_it(worker: HeldWorker) -> None:
    shared, one, two = SharedWork(worker), FrontEnd(), FrontEnd()
    shared.submit_many([one.work("a", priority=Priority.LOW)], one.deliver)
    shared.submit_many([two.work("a", priority=Priority.HIGH)], two.deliver)
    shared.promote_many([1], Priority.NORMAL, one.deliver)
    assert worker.promoted == [(0, Priority.HIGH)]


def test_work_that_the_worker_does_not_take_is_answered() -> None:
    class Broken(HeldWorker):
        def submit_many(self, works: list[Work], deliver: Callable[[list[Answer]], None]) -> None:
            raise RuntimeError("broken")

    shared, one = SharedWork(Broken()), FrontEnd()
    shared.submit_many([one.work("a")], one.deliver)
    assert one.failed == {1: "engine_error"}


def test_who_leaves_while_refused_work_is_asked_for_anew_leaves_nothing_to_compute(worker: HeldWorker) -> None:
    shared, one, two = SharedWork(worker), FrontEnd(), FrontEnd()

    def go(answers: list[Answer]) -> None:
        one.deliver(answers)
        shared.cancel_all(two.deliver)

    shared.submit_many([one.work("a")], go)
    shared.submit_many([two.work("a")], two.deliver)
    worker.answer(0, Failure(Overloaded.code, "full"))
    assert not worker.held
    assert two.failed == {1: "client_closed_request"}
    assert len(shared) == 0


def test_who_leaves_while_his_work_is_given_to_the_worker_leaves_nothing_to_compute() -> None:
    class Slow(HeldWorker):
        def submit_many(self, works: list[Work], deliver: Deliver) -> None:
            shared.cancel_all(one.deliver)  # another thread's, meanwhile
            super().submit_many(works, deliver)

    worker = Slow()
    shared, one = SharedWork(worker), FrontEnd()
    shared.submit_many([one.work("a")], one.deliver)
    assert not worker.held
    assert one.failed == {1: "client_closed_request"}


def test_what_rises_while_it_is_given_to_the_worker_hurries() -> None:
    class Slow(HeldWorker):
        def submit_many(self, works: list[Work], deliver: Deliver) -> None:
            shared.submit_many([two.work("a", priority=Priority.HIGH)], two.deliver)  # another thread's, meanwhile
            super().submit_many(works, deliver)

        def promote_many(self, ids: list[int], priority: Priority) -> None:
            if set(ids) <= self.held.keys():
                super().promote_many(ids, priority)

    worker = Slow()
    shared, one, two = SharedWork(worker), FrontEnd(), FrontEnd()
    shared.submit_many([one.work("a", priority=Priority.LOW)], one.deliver)
    assert worker.promoted == [(0, Priority.HIGH)]
