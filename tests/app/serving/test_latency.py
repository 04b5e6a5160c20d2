from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from surefoot.serving.latency import GROWTH, Latencies
from surefoot.watch.gates import percentile

times = st.lists(st.floats(0.02, 60_000.0), min_size=1, max_size=200)


def counted(values: list[float]) -> Latencies:
    made = Latencies()
    for value in values:
        made.record(value)
    return made


@given(times, st.sampled_from([0.5, 0.9, 0.99, 1.0]))
def test_a_quantile_is_right_to_one_bucket(values, share):
    seen, exact = counted(values).quantile_ms(share), percentile(values, share)
    assert seen is not None and exact / GROWTH <= seen <= exact * GROWTH


@given(times, times)
def test_merging_is_the_same_as_counting_together(one, other):
    merged = counted(one)
    merged.merge(counted(other))
    together = counted(one + other)
    assert merged.count == together.count
    assert [merged.quantile_ms(share) for share in (0.5, 0.99)] == [
        together.quantile_ms(share) for share in (0.5, 0.99)
    ]


def test_nothing_counted_has_no_quantile_and_extremes_are_bounded():
    assert Latencies().quantile_ms(0.5) is None
    seen = counted([0.0, -1.0, 1e12])
    assert seen.count == 3 and (seen.quantile_ms(1.0) or 0) < 1e6
