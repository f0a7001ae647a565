"""The plan of a run, for every dataset that hypothesis can think of."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from dataset.buckets import Size
from host.plan import TrainingPlan
from tests.items import small_item

ITEMS = {
    (number, width, repeats, dataset): small_item(
        f"{number}", size=Size(64, width), repeats=repeats, dataset=dataset
    )
    for number in range(12)
    for width in (64, 96)
    for repeats in (1, 2, 3)
    for dataset in (0, 1)
}
"""Made ahead: strategies must not make them, since the shape checker draws from ``random``."""

shapes = st.lists(
    st.tuples(st.sampled_from([64, 96]), st.integers(1, 3), st.integers(0, 1)), min_size=1, max_size=12
)


def made(shapes, batch_sizes, seed, batches_per_step, max_epochs):
    items = [ITEMS[(number, *shape)] for number, shape in enumerate(shapes)]
    return lambda: TrainingPlan(
        items,
        batch_sizes=batch_sizes,
        seed=seed,
        batches_per_step=batches_per_step,
        max_steps=1000,
        max_epochs=max_epochs,
    )


plans = st.builds(
    made,
    shapes,
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.integers(0, 99),
    st.integers(1, 5),
    st.one_of(st.none(), st.integers(1, 3)),
)


def seen_in_epoch(plan, epoch):
    steps = [plan.step(epoch * plan.steps_per_epoch + place) for place in range(plan.steps_per_epoch)]
    return Counter(index for step in steps for micro in step.micro_batches for index in micro.indices)


@given(plans, st.integers(0, 3))
def test_in_one_epoch_every_picture_is_seen_exactly_its_repeats(make, epoch):
    plan = make()
    assert seen_in_epoch(plan, epoch) == {n: thing.repeats for n, thing in enumerate(plan.items)}


@given(plans)
def test_only_the_last_step_of_an_epoch_ends_it_and_no_step_is_empty(make):
    plan = make()
    steps = [plan.step(number) for number in range(2 * plan.steps_per_epoch)]
    ends = [step.ends_epoch for step in steps]
    assert ends == ([False] * (plan.steps_per_epoch - 1) + [True]) * 2
    assert all(step.sample_count > 0 for step in steps)


@given(plans, st.integers(0, 40))
def test_a_step_is_a_function_of_its_number_whatever_was_asked_before(make, number):
    plan = make()
    fresh = plan.step(number)
    plan.step(number + 7)
    assert plan.step(number) == fresh


@given(plans, st.integers(0, 20), st.integers(1, 4))
def test_processes_share_a_step_without_overlap_and_positions_stay(make, number, world):
    plan = make()
    step = plan.step(number)
    shares = [step.share(rank=rank, world=world) for rank in range(world)]
    together = sorted(micro.positions for share in shares for micro in share)
    assert together == sorted(micro.positions for micro in step.micro_batches)
    assert [place for positions in together for place in positions] == list(range(step.sample_count))


@given(plans)
def test_the_length_in_epochs_is_whole_epochs(make):
    plan = make()
    assert plan.total_steps == 1000 or plan.total_steps % plan.steps_per_epoch == 0
