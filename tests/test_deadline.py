import contextvars
from time import monotonic

import gevent
import pytest
from gevent.event import Event
from hypothesis import given
from hypothesis import strategies as st

import gtcp
from gtcp.deadline import Alarm, current, earliest, remaining

times = st.none() | st.floats(min_value=0, max_value=1e9)
color = contextvars.ContextVar("color", default="none")


@given(st.lists(times))
def test_the_earliest_is_the_first_that_is_set(deadlines):
    first = earliest(*deadlines)
    given_ones = [each for each in deadlines if each is not None]
    assert first == (min(given_ones) if given_ones else None)


def test_without_any_there_is_no_limit():
    assert current() is None
    assert remaining() is None


class TestBlock:
    def test_that_waits_past_it_is_stopped(self):
        with pytest.raises(gtcp.CallTimeout) as stopped, gtcp.deadline(0.02):
            Event().wait(20)
        assert stopped.value.executed == "maybe"
        assert current() is None

    def test_that_ends_in_time_is_left_alone(self):
        with gtcp.deadline(20):
            assert 19 < remaining() <= 20
        assert current() is None

    def test_inner_one_never_lasts_longer_than_the_outer(self):
        with gtcp.deadline(5):
            outer = current()
            with gtcp.deadline(60):
                assert current() == outer
            with gtcp.deadline(1):
                assert current() < outer
            assert current() == outer

    def test_outer_one_ends_the_inner_block_too(self):
        seen = []

        def inner():
            try:
                with gtcp.deadline(60):
                    Event().wait(20)
            except gtcp.CallTimeout as exc:  # the inner one did not pass
                seen.append(exc)

        with pytest.raises(gtcp.CallTimeout, match=r"0\.02 s"), gtcp.deadline(0.02):
            inner()
        assert seen == []

    def test_passes_on_what_it_did_not_raise(self):
        with pytest.raises(KeyError), gtcp.deadline(20):
            raise KeyError("x")
        other = gevent.Timeout(0.01)
        with other, pytest.raises(gevent.Timeout) as fired, gtcp.deadline(20):
            Event().wait(20)
        assert fired.value is other

    def test_leaves_no_timer_behind(self):
        with gtcp.deadline(0.01):
            pass
        gevent.sleep(0.03)  # a timer that is left would go off here

    def test_nothing_is_left_after_it_passed(self):
        with gtcp.deadline(0):
            assert remaining() == 0.0


class TestSpawn:
    def test_child_has_the_deadline_and_the_context_of_its_parent(self):
        token = color.set("green")
        try:
            with gtcp.deadline(30):
                child = gtcp.spawn(lambda: (current(), color.get()))
                assert child.get() == (current(), "green")
        finally:
            color.reset(token)

    def test_what_the_child_sets_stays_with_it(self):
        gtcp.spawn(color.set, "red").get()
        assert color.get() == "none"

    def test_child_without_a_deadline_stays_without(self):
        child = gtcp.spawn(current)
        with gtcp.deadline(30):
            assert child.get() is None

    def test_arguments_and_errors_pass_through(self):
        assert gtcp.spawn(divmod, 7, 2).get() == (3, 1)
        assert gtcp.spawn(int, "z", base=36).get() == 35


class TestAlarm:
    def test_goes_off_for_each_deadline_not_before_it(self):
        due = sorted(monotonic() + delay for delay in (0.03, 0.01, 0.05))
        left, done = list(due), Event()

        def expire(now):
            while left and left[0] <= now:
                left.pop(0)
            if not left:
                done.set()
            return left[0] if left else None

        alarm = Alarm(expire)
        for each in reversed(due):
            alarm.by(each)
        assert done.wait(20)
        assert monotonic() >= due[-1]

    def test_that_is_stopped_never_goes_off(self):
        rung = []
        alarm = Alarm(lambda now: rung.append(now))
        alarm.by(monotonic() + 0.01)
        alarm.stop()
        gevent.sleep(0.03)
        assert rung == []

    def test_may_be_set_while_it_goes_off(self):
        done = Event()

        def expire(now):
            if rung:
                done.set()
                return None
            rung.append(now)
            alarm.by(now + 0.01)
            return now + 10

        rung = []
        alarm = Alarm(expire)
        alarm.by(monotonic())
        assert done.wait(20)
        assert len(rung) == 1
