"""The clock of a stream: a source of any rate as the network's own, and stamps that are odd."""

import itertools
import math
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prernn.streaming.pace import LONGEST_HOLD, Counts, Pace, clock_for
from streamed_networks import network

RATES = (8, 12.5, 25, 30)
JITTERS = (0.0, 0.003, 0.005)


def source(rate, count, jitter=0.0, seed=0):
    """(time, number) of frames at a rate, each a few milliseconds too early or late."""
    import random

    chance = random.Random(seed)
    return [(k / rate + (chance.uniform(-jitter, jitter) if k else 0.0), k) for k in range(count)]


def paced(rate, frames):
    """What a clock makes of frames, and its counts, without a word."""
    pace = Pace(rate)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(pace(frames)), pace.counts


@pytest.mark.parametrize("jitter", JITTERS)
@pytest.mark.parametrize("rate", RATES)
def test_a_source_of_the_networks_rate_is_untouched(rate, jitter):
    frames = source(rate, 3000, jitter)
    assert paced(rate, frames) == (frames, Counts(read=3000, shown=3000))


@pytest.mark.parametrize("jitter", JITTERS)
@pytest.mark.parametrize(("rate", "own"), [(29.97, 30), (30, 29.97), (24.8, 25), (23.976, 24)])
def test_rates_within_two_percent_are_one(rate, own, jitter):
    frames = source(rate, 5000, jitter)
    assert paced(own, frames)[0] == frames


@pytest.mark.parametrize("times", [2, 3, 4, 10])
@pytest.mark.parametrize("rate", RATES)
def test_a_multiple_of_the_rate_gives_what_the_rate_gives(rate, times):
    """The same pictures held: frame k of the fast source shows picture k // times."""
    slow = source(rate, 200)
    fast = [(time, number // times) for time, number in source(rate * times, 200 * times)]
    shown, counts = paced(rate, fast)
    assert [picture for _, picture in shown] == [picture for _, picture in slow]
    assert [time for time, _ in shown] == pytest.approx([time for time, _ in slow], abs=1e-12)
    assert (counts.read, counts.held, counts.dropped) == (200 * times, 0, 200 * (times - 1))


@pytest.mark.parametrize("times", [2, 3, 5])
@pytest.mark.parametrize("rate", RATES)
def test_a_fraction_of_the_rate_is_held(rate, times):
    shown, counts = paced(rate * times, source(rate, 100))
    assert [picture for _, picture in shown] == [k for k in range(99) for _ in range(times)] + [99]
    assert [time for time, _ in shown] == pytest.approx([k / (rate * times) for k in range(99 * times + 1)])
    assert (counts.held, counts.dropped) == (99 * (times - 1), 0)


STAMPS = st.lists(st.floats(0, 60) | st.sampled_from([0.0, 1.0, 1.0, 1e6]), min_size=1, max_size=60)


@settings(deadline=None)
@given(stamps=STAMPS, rate=st.sampled_from(RATES))
def test_any_stamps_give_a_clock_that_runs_on(stamps, rate):
    frames = [(time, number) for number, time in enumerate(stamps)]
    shown, counts = paced(rate, frames)
    times, pictures = [time for time, _ in shown], [picture for _, picture in shown]
    assert (times[0], pictures[0]) == frames[0]
    assert pictures == sorted(pictures)  # never an older one after a newer one
    assert all(later > earlier for earlier, later in itertools.pairwise(times))
    assert counts.shown == len(shown) == counts.read - counts.dropped + counts.held
    assert counts.read == len(frames)
    assert counts.held == len(pictures) - len(set(pictures))
    assert counts.back == sum(later < earlier for earlier, later in itertools.pairwise(stamps))
    assert len(shown) <= len(frames) * (1 + LONGEST_HOLD * rate)


@settings(deadline=None)
@given(gaps=st.lists(st.floats(0.001, 1.0), min_size=1, max_size=80), rate=st.sampled_from(RATES))
def test_each_tick_shows_the_newest_frame(gaps, rate):
    """Causally: none that comes after the tick by more than its share, and none while a newer one had come."""
    stamps = [0.0]
    for gap in gaps:
        stamps.append(stamps[-1] + gap)
    shown, _ = paced(rate, [(time, number) for number, time in enumerate(stamps)])
    period = 1 / rate
    for time, number in shown:
        assert stamps[number] <= time
        following = stamps[number + 1] if number + 1 < len(stamps) else math.inf
        assert following > time
    spacing = [later - earlier for (earlier, _), (later, _) in itertools.pairwise(shown)]
    assert all(0.15 * period < step < 1.85 * period for step in spacing)
    assert len(shown) == pytest.approx(stamps[-1] * rate + 1, abs=1.5 + 0.02 * len(shown))


@settings(deadline=None)
@given(stamps=STAMPS, rate=st.sampled_from(RATES), cut=st.integers(0, 60))
def test_what_comes_later_changes_nothing(stamps, rate, cut):
    frames = [(time, number) for number, time in enumerate(stamps)]
    whole, part = paced(rate, frames)[0], paced(rate, frames[:cut])[0]
    assert whole[: len(part)] == part


def test_a_gap_is_held_for_ten_seconds_alone():
    frames = [(0.0, "a"), (0.1, "b"), (3600.0, "c"), (3600.1, "d")]
    pace = Pace(10)
    with pytest.warns(RuntimeWarning, match="a gap of 3599.8 s, of which 10 s are held; counted"):
        shown = list(pace(frames))
    assert shown[:2] + shown[-2:] == frames
    assert [picture for _, picture in shown[2:-2]] == ["b"] * 101
    assert str(pace.counts) == "101 held, 1 gaps of more than 10 s"


def test_a_jump_back_does_not_stop_the_clock():
    frames = [(k / 10 - (50 if k >= 100 else 0) - (3 if k >= 150 else 0), k) for k in range(200)]
    pace = Pace(10)
    with pytest.warns(RuntimeWarning, match=r"jump back, by 49.9 s; counted, but reported only once") as said:
        shown = list(pace(frames))
    assert [picture for _, picture in shown] == list(range(200))
    assert [time for time, _ in shown] == pytest.approx([k / 10 for k in range(200)])
    assert pace.counts == Counts(read=200, shown=200, back=2)
    assert len(said) == 1


def test_stamps_that_repeat_themselves():
    pairs = [(k // 2 / 10, k) for k in range(100)]
    shown, counts = paced(10, pairs)
    assert [picture for _, picture in shown] == list(range(0, 100, 2))
    assert (counts.repeated, counts.dropped) == (50, 50)
    shown, counts = paced(10, [(5.0, k) for k in range(100)])  # a camera without a clock
    assert len(shown) == pytest.approx(90, abs=1)
    assert counts.repeated == 99


def test_a_rate_that_changes_is_said_once():
    times = [k / 10 for k in range(100)] + [10 + k / 30 for k in range(300)] + [20 + k / 10 for k in range(100)]
    pace = Pace(10)
    with pytest.warns(RuntimeWarning, match="a rate that changes, from 10 to 30 frames a second") as said:
        shown = list(pace((time, k) for k, time in enumerate(times)))
    assert len(said) == 1
    assert pace.counts.changes == 2
    assert pace.counts.dropped == 200
    assert len(shown) == pytest.approx(300, abs=2)


def test_without_a_rate_frames_pass_and_oddities_are_counted():
    frames = [(0.0, 0), (0.5, 1), (0.5, 2), (0.1, 3)]
    pace = Pace(None)
    with pytest.warns(RuntimeWarning) as said:
        assert list(pace(frames)) == frames
    assert len(said) == 2
    assert str(pace.counts) == "1 jumps back in time, 1 repeated time stamps"


def rated(rate):
    net = network()
    net.recipe.rate = rate
    return net


def test_the_recipe_says_the_rate_and_an_option_another():
    assert clock_for([rated(12.5)]).rate == 12.5
    assert clock_for([rated(30), rated(None), rated(29.97)]).rate == 30
    assert clock_for([rated(12.5)], 8).rate == 8
    assert clock_for([rated(12.5)], "source").rate is None
    with pytest.raises(NotImplementedError, match=r"networks of one rate, got 30 and 12.5 frames a second"):
        clock_for([rated(30), rated(12.5)])
    assert clock_for([rated(30), rated(12.5)], "source").rate is None
    for wrong in (0, -1, math.nan, math.inf, "sourse"):
        with pytest.raises(ValueError, match=f"frames a second above 0, or source, got {wrong}"):
            clock_for([rated(30)], wrong)


def test_without_a_rate_one_warning_comes_with_the_first_frame():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pace = clock_for([rated(None)])
        list(clock_for([rated(None)], "source")([(0.0, 0), (1.0, 1)]))
    with pytest.warns(UserWarning, match="at what rate it was trained") as said:
        assert list(pace([(0.0, 0), (1.0, 1)])) == [(0.0, 0), (1.0, 1)]
    assert len(said) == 1


@given(st.floats(0.05, 0.5), st.sampled_from(RATES))
def test_a_network_that_is_too_slow_is_not_made_slower_by_held_ticks(seconds, rate):
    """A source of 30 a second that drops what comes while a step takes so long: as many steps as there is time for."""
    pace, now, shown = Pace(rate), [0.0], []

    def frames():
        taken = -1
        while now[0] < 20:
            newest = max(taken + 1, int(now[0] * 30))
            if newest > taken + 1:
                pace.fell_behind()
            taken = newest
            now[0] = max(now[0], newest / 30)
            yield newest / 30, newest

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for time, _ in pace(frames()):
            now[0] += seconds
            shown.append(now[0] - seconds - time)
    assert max(shown) < 1 / rate + seconds + 0.1  # seconds by which a step begins after its picture came
    assert pace.counts.over > 0 or seconds < 2 / rate
