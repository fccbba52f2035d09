import pytest

from nemo_image_curate.compute.speed import Speed


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_steady_work_is_told_to_the_second(clock):
    speed = Speed(clock)
    assert speed.seconds_left() is None
    for step in range(1, 1000):
        clock.now = step
        speed.mark(step / 1000, 20 * step)
        clock.now += 0.4
        if step == 1:
            assert speed.seconds_left() is None
            continue
        assert speed.seconds_left() == pytest.approx(999.6 - step, abs=1e-6)
        assert speed.rows_per_second() == pytest.approx(20)


def test_bursts_do_not_make_it_jump(clock):
    """Eight workers end together, every ten seconds."""
    speed = Speed(clock)
    told = []
    for burst in range(1, 50):
        for worker in range(8):
            clock.now = 10 * burst + worker / 100
            speed.mark((8 * (burst - 1) + worker + 1) / 400, 0)
        for second in range(1, 10):
            clock.now = 10 * burst + second
            if burst > 1:
                told.append(clock.now + speed.seconds_left())
    assert max(told) - min(told) < 2
    assert told[-1] == pytest.approx(500, abs=2)


def test_a_slow_start_is_soon_forgotten(clock):
    """Weights are loaded for 100 s; then a hundredth takes a second."""
    speed = Speed(clock)
    for step in range(1, 70):
        clock.now = 100 + step
        speed.mark(step / 100, 100 * step)
    # Of all the time it would be 76.
    assert speed.seconds_left() == pytest.approx(31)
    assert speed.rows_per_second() == pytest.approx(100)


def test_what_was_slow_and_is_fast_now(clock):
    speed = Speed(clock)
    part = 0.0
    for step in range(200):
        clock.now += 1
        part += 0.001 if step < 100 else 0.004
        speed.mark(part, 0)
    assert speed.seconds_left() == pytest.approx((1 - part) / 0.004, rel=0.05)


def test_what_stands_still_takes_longer(clock):
    speed = Speed(clock)
    for step in range(1, 51):
        clock.now = step
        speed.mark(step / 100, 0)
    before = speed.seconds_left()
    clock.now = 60
    assert speed.seconds_left() > before


def test_rows_that_were_told_of_too_early_make_no_negative_speed(clock):
    speed = Speed(clock)
    for rows in (10, 20, 5, 0):
        clock.now += 1
        speed.mark(0.5, rows)
        assert speed.rows_per_second() >= 0


def test_days_of_work_take_no_more_memory(clock):
    speed = Speed(clock)
    for step in range(20_000):
        clock.now = step * 10
        speed.mark(step / 30_000, step)
    assert len(speed._marks) <= 2000
    assert speed.seconds_left() == pytest.approx(100_010, rel=0.01)
