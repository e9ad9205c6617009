"""Rows are mixed, hidden and made noisy as asked for; what is missing stays so, and a stack draws as each alone."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from training_core.data.ingestion.in_memory import create_dataset_from_arrays
from training_core.data.preprocessing import Preprocessor
from training_core.data.streams.batching import Batching
from training_core.data.streams.chunked import ChunkStream
from training_core.data.streams.draws import GOLDEN, as_keys, draws, limits, mixed, normal_draws
from training_core.data.streams.encoded import encode_to_memory
from training_core.data.streams.iterable import IterableStream
from training_core.data.streams.perturbation import Perturbation
from training_core.data.streams.resident import DeviceStream
from training_core.data.views import HeldSamples, View
from training_core.engine.cohort.stream import CohortStream
from training_core.errors import DataError
from training_core.learners.sequence_net import real_steps
from training_core.schema import Batch, ColumnSpec, DataSpec, ModalitySpec, Samples, TaskSpec

CLASSES = TaskSpec.classification(("a", "b", "c"))
HEIGHT, GAPPY, STILL, KIND = range(4)  # raw columns of the table
NUMBERS, INDICATOR, CODE = slice(0, 3), 3, 4  # encoded: height, gappy, still; gappy is missing; kind


def world(num_rows: int, seed: int, gaps: int = GAPPY, categories: bool = True) -> tuple[Preprocessor, Batch]:
    """An image, a vector and a table; the table has cells missing in the column `gaps`, one constant, one of kinds."""
    source = np.random.default_rng(seed)
    table = source.normal(size=(num_rows, 4))
    table[source.random(num_rows) < 0.3, gaps] = np.nan
    table[:, STILL] = 7.0
    table[:, KIND] = source.integers(0, 3, num_rows)
    columns = [ColumnSpec(name=name) for name in ("height", "gappy", "still")]
    columns.append(ColumnSpec(name="kind", categories=("x", "y", "z") if categories else None))
    inputs = {
        "image": source.normal(size=(num_rows, 2, 3, 3)),
        "vec": source.normal(3.0, 2.0, size=(num_rows, 5)),
        "table": table,
    }
    modalities = (
        ModalitySpec(name="image", kind="image", shape=(2, 3, 3)),
        ModalitySpec(name="vec", kind="vector", shape=(5,)),
        ModalitySpec(name="table", kind="tabular", shape=(4,), columns=tuple(columns)),
    )
    spec = DataSpec(modalities=modalities, task=CLASSES)
    ids = np.array([f"row-{i}" for i in range(num_rows)], dtype=object)
    available = {name: source.random(num_rows) < 0.8 for name in inputs}
    available["vec"] |= ~(available["image"] | available["table"])
    rows = HeldSamples(Samples(inputs, available, ids, source.integers(0, 3, num_rows)), spec)
    preprocessor = Preprocessor.fit(rows, spec)
    return preprocessor, encode_to_memory(rows, preprocessor)


def epoch(data: Batch, batching: Batching) -> list[Batch]:
    return [batch.clone() for batch in DeviceStream(data, batching)]


def original(data: Batch, batch: Batch, name: str) -> Tensor:
    assert batch.rows is not None
    return data.inputs[name][batch.rows]


def gathered(batches: list[Batch], data: Batch, name: str) -> tuple[Tensor, Tensor]:
    """An epoch's values and those they were made of."""
    return torch.cat([b.inputs[name] for b in batches]), torch.cat([original(data, b, name) for b in batches])


def test_draws_have_the_moments_they_promise_and_nothing_to_do_with_one_another() -> None:
    keys = as_keys(mixed(np.arange(1, 5001, dtype=np.uint64) * np.uint64(GOLDEN)))
    found = normal_draws(keys, 33)
    assert found.shape == (5000, 33) and found.dtype == torch.float32
    assert abs(float(found.mean())) < 0.01 and abs(float(found.std()) - 1) < 0.01
    assert abs(float(found.pow(4).mean()) - 3) < 0.1, "the fourth moment of the normal distribution"
    together = torch.corrcoef(found.T) - torch.eye(33)
    assert float(together.abs().max()) < 4.5 / 5000**0.5
    kept = draws(keys, 33) <= limits(torch.tensor(0.7, dtype=torch.float64))
    assert abs(float(kept.float().mean()) - 0.7) < 0.005
    assert bool((draws(keys, 33) <= limits(torch.tensor(1.0, dtype=torch.float64))).all()), "nothing is dropped at 0"


def test_noise_has_the_deviation_asked_for_and_leaves_what_is_missing_constant_or_no_number() -> None:
    preprocessor, data = world(2000, 0)
    batches = epoch(data, Batching(64, seed=3, perturbation=Perturbation.of(preprocessor, input_noise=0.3)))
    for name in ("image", "vec"):
        after, before = gathered(batches, data, name)
        noise = (after - before).flatten(1)
        assert abs(float(noise.std()) - 0.3) < 0.01 and abs(float(noise.mean())) < 0.01
        assert abs(float(torch.corrcoef(noise.T)[0, 1])) < 0.1
    after, before = gathered(batches, data, "table")
    missing = before[:, INDICATOR] == 1
    assert 400 < int(missing.sum()) < 800
    assert abs(float((after - before)[:, HEIGHT].std()) - 0.3) < 0.02
    assert abs(float((after - before)[~missing, GAPPY].std()) - 0.3) < 0.02
    assert (after[missing, GAPPY] == 0).all()
    assert torch.equal(after[:, 2:], before[:, 2:]), "a constant, an indicator and a code are no numbers to move"


def test_hidden_features_are_fed_as_missing_ones_are_at_the_rate_asked_for() -> None:
    preprocessor, data = world(2000, 1)
    batches = epoch(data, Batching(64, seed=3, perturbation=Perturbation.of(preprocessor, feature_dropout=0.25)))
    after, before = gathered(batches, data, "vec")
    hidden = (after == 0) & (before != 0)
    assert torch.equal(torch.where(hidden, before, after), before)
    there = before.abs().sum(dim=1) > 0
    assert (hidden[there].float().mean(dim=0) - 0.25).abs().max() < 0.04
    after, before = gathered(batches, data, "table")
    there = before[:, CODE] > 0
    assert abs(float((after[there, CODE] == 0).float().mean()) - 0.25) < 0.04
    told = (before[:, INDICATOR] == 0) & (before[:, GAPPY] != 0)
    gone = after[told, GAPPY] == 0
    assert torch.equal(gone, after[told, INDICATOR] == 1), "a cell that goes missing says so where its column can"
    assert abs(float(gone.float().mean()) - 0.25) < 0.04
    assert (after[before[:, INDICATOR] == 1, INDICATOR] == 1).all()
    assert torch.equal(*gathered(batches, data, "image"))


def test_hidden_features_get_no_noise() -> None:
    preprocessor, data = world(500, 1)
    how = Perturbation.of(preprocessor, feature_dropout=0.5, input_noise=1.0)
    after, _ = gathered(epoch(data, Batching(64, perturbation=how)), data, "vec")
    assert 0.4 < float((after == 0).float().mean()) < 0.6


def test_mixed_rows_are_what_their_parts_are_by_their_shares() -> None:
    """The shares are read off the targets; every row of the batch is then looked for as the other part."""
    preprocessor, data = world(90, 2, categories=False)
    data = replace(data, available=torch.ones_like(data.available), target=torch.arange(90) % 3)
    data.inputs["vec"] = torch.randn(90, 5, generator=torch.Generator().manual_seed(0))  # no two rows alike
    how = Perturbation.of(preprocessor, mixup=1.0)
    batches = epoch(data, Batching(30, seed=5, perturbation=how))
    num_mixed = 0
    for batch in batches:
        assert batch.target is not None and batch.rows is not None and data.target is not None
        torch.testing.assert_close(batch.target.sum(dim=1), torch.ones(30))
        vec, table = original(data, batch, "vec"), original(data, batch, "table")
        codes = data.target[batch.rows]
        for i in range(30):
            if batch.target[i].max() > 0.95:
                continue  # mixed with one of its class, or hardly at all
            share = batch.target[i, codes[i]]
            others = share * vec[i] + (1 - share) * vec
            (partner,) = torch.nonzero((others - batch.inputs["vec"][i]).abs().amax(dim=1) < 1e-4).flatten().tolist()
            assert batch.target[i, codes[partner]] == pytest.approx(1 - float(share), abs=1e-5)
            missing = max(float(table[i, -1]), float(table[partner, -1]))  # without categories the indicator is last
            assert float(batch.inputs["table"][i, -1]) == missing
            wanted = share * table[i, GAPPY] + (1 - share) * table[partner, GAPPY]
            assert float(batch.inputs["table"][i, GAPPY]) == pytest.approx(float(wanted) * (1 - missing), abs=1e-5)
            num_mixed += 1
    assert num_mixed > 40


def test_a_mixed_row_has_what_both_have_and_one_without_anything_in_common_stays() -> None:
    preprocessor, data = world(400, 3, categories=False)
    how = Perturbation.of(preprocessor, mixup=1.0)
    batching = Batching(40, seed=1, perturbation=how)
    plain = epoch(data, replace(batching, perturbation=None))
    fewer = stayed = 0
    for batch, before in zip(epoch(data, batching), plain, strict=True):
        assert batch.present is None and before.target is not None and batch.target is not None
        assert not (batch.available & ~before.available).any() and batch.available.any(dim=1).all()
        fewer += int((before.available & ~batch.available).sum())
        same = (batch.inputs["vec"] == before.inputs["vec"]).all(dim=1)
        one_hot = torch.nn.functional.one_hot(before.target, 3).float()
        stayed += int((same & (batch.target == one_hot).all(dim=1)).sum())
    assert fewer > 50 and stayed > 3


def test_modality_dropout_hides_its_share_of_what_a_mixed_row_has() -> None:
    """The draw of the row itself decides: that of the other one would hide as much again."""
    preprocessor, data = world(2000, 3, categories=False)
    data = replace(data, available=torch.ones_like(data.available))
    how = Perturbation.of(preprocessor, mixup=1.0)
    batching = Batching(50, seed=1, modality_dropout=0.3, perturbation=how, notes_presence=True)
    shown = torch.cat([batch.available for batch in epoch(data, batching)])
    alone = torch.cat([batch.available for batch in epoch(data, replace(batching, perturbation=None))])
    assert torch.equal(shown, alone)


def test_weights_are_mixed_so_that_a_row_costs_what_its_parts_cost() -> None:
    preprocessor, data = world(60, 4, categories=False)
    data = replace(data, available=torch.ones_like(data.available), weight=torch.linspace(0.5, 2.0, 60))
    batching = Batching(60, seed=1, perturbation=Perturbation.of(preprocessor, mixup=1.0))
    (batch,) = epoch(data, batching)
    (plain,) = epoch(replace(data, weight=None), batching)
    assert batch.weight is not None and batch.target is not None and plain.target is not None
    assert batch.rows is not None and data.weight is not None and data.target is not None
    by_class = batch.weight.unsqueeze(1) * batch.target
    own = torch.nn.functional.one_hot(data.target[batch.rows], 3)
    pure = plain.target.max(dim=1).values < 1
    share = (plain.target * own).sum(dim=1)
    wanted = share * data.weight[batch.rows]
    torch.testing.assert_close((by_class * own).sum(dim=1)[pure], wanted[pure])


def streams(num_learners: int, mixes: bool) -> tuple[list[Batch], list[Batching]]:
    """Rows and perturbations of several learners: of other rates each, and with other columns that have gaps."""
    data, batchings = [], []
    for k in range(num_learners):
        preprocessor, rows = world(37 + 9 * k, k, gaps=(GAPPY, HEIGHT)[k % 2], categories=not mixes)
        how = Perturbation.of(preprocessor, 0.4 * k if mixes else 0.0, 0.2 * k, 0.3 * (k != 1))
        data.append(rows)
        batchings.append(Batching(16, seed=k, modality_dropout=0.2, perturbation=replace(how, mixes=mixes)))
    return data, batchings


@pytest.mark.parametrize("mixes", [False, True])
def test_a_learner_of_a_stack_meets_the_very_rows_it_would_meet_alone(mixes: bool) -> None:
    data, batchings = streams(3, mixes)
    cohort = CohortStream(data, batchings)
    alone = [DeviceStream(rows, batching) for rows, batching in zip(data, batchings, strict=True)]
    changed = 0
    for number in range(3):
        if number == 2:
            cohort.keep([1, 2])
            alone = alone[1:]
        own = [[batch.clone() for batch in stream] for stream in alone]
        for step, batch in enumerate(cohort):
            for k, mine in enumerate(own):
                count = int(batch.counts[k])
                if not count:
                    continue
                theirs = mine[step]
                assert count == len(theirs) and batch.target is not None and theirs.target is not None
                assert all(torch.equal(batch.inputs[name][k, :count], theirs.inputs[name]) for name in theirs.inputs)
                assert torch.equal(batch.available[k, :count], theirs.available)
                torch.testing.assert_close(batch.target[k, :count], theirs.target)
                changed += 1
    assert changed > 8


@pytest.mark.parametrize("mixes", [False, True])
def test_streams_go_on_in_the_middle_of_an_epoch_with_the_same_draws(mixes: bool) -> None:
    data, batchings = streams(2, mixes)
    for make in (lambda: DeviceStream(data[1], batchings[1]), lambda: CohortStream(data, batchings)):
        stream = make()
        straight = [batch.clone() for _ in range(2) for batch in stream]
        assert not torch.equal(straight[0].inputs["vec"], straight[len(straight) // 2].inputs["vec"])
        stream = make()
        first = iter(stream)
        for _ in range(2):
            next(first)
        state, stream = stream.state_dict(), make()
        stream.load_state_dict(state)
        rest = [batch.clone() for _ in range(2) for batch in stream][: len(straight) - 2]
        for one, other in zip(straight[2:], rest, strict=True):
            assert one.target is not None and other.target is not None and torch.equal(one.target, other.target)
            assert all(torch.equal(one.inputs[name], other.inputs[name]) for name in one.inputs)


def test_rows_read_from_disk_in_chunks_are_perturbed_too(tmp_path: Path) -> None:
    source = np.random.default_rng(0)
    arrays = {name: source.normal(size=(60, 3)).astype("f4") for name in ("left", "right")}
    arrays["left"][::4] = np.nan
    dataset = create_dataset_from_arrays(
        "rows", arrays, [f"class {i % 3}" for i in range(60)], task="classification", store=tmp_path
    )
    view = dataset.subset(np.arange(60), ("left", "right"))
    assert isinstance(view, View)
    preprocessor = Preprocessor.fit(view, dataset.spec)
    data = encode_to_memory(view, preprocessor)
    noisy = Perturbation.of(preprocessor, input_noise=0.5)
    batches = [batch.clone() for batch in ChunkStream(view, preprocessor, Batching(16, seed=1, perturbation=noisy))]
    after, before = gathered(batches, data, "right")
    assert 0.4 < float((after - before).std()) < 0.6
    mixing = Perturbation.of(preprocessor, mixup=1.0)
    stream = ChunkStream(view, preprocessor, Batching(16, seed=1, perturbation=mixing))
    straight = [batch.clone() for batch in stream]
    has = torch.cat([data.available[batch.rows] for batch in straight if batch.rows is not None])
    shown = torch.cat([batch.available for batch in straight])
    assert not (shown & ~has).any() and int((has & ~shown).sum()) > 3, "what both have, not what one has"
    stream = ChunkStream(view, preprocessor, stream.batching)
    stream.load_state_dict({"seed": 1, "epoch": 0, "position": 2})
    for one, other in zip(straight[2:], [batch.clone() for batch in stream], strict=True):
        assert torch.equal(one.inputs["right"], other.inputs["right"])


def test_the_rows_themselves_are_never_changed() -> None:
    data, batchings = streams(2, True)
    before = data[1].clone()
    for stream in (DeviceStream(data[1], batchings[1]), CohortStream(data, batchings)):
        for _ in stream:
            pass
    assert all(torch.equal(before.inputs[name], data[1].inputs[name]) for name in before.inputs)
    assert torch.equal(before.available, data[1].available)


def test_items_read_in_passing_are_refused() -> None:
    preprocessor, data = world(10, 0)
    batching = Batching(4, perturbation=Perturbation.of(preprocessor, input_noise=0.1))
    with pytest.raises(DataError, match="not perturbed"):
        IterableStream([1, 2], lambda items: data, batching)


def ended_sequences(num_rows: int, seed: int) -> tuple[Preprocessor, Batch]:
    """Sequences of 4 to 8 of 10 steps; every other one is padded with zeros, the rest with its last step."""
    source = np.random.default_rng(seed)
    steps = source.normal(1.0, 2.0, size=(num_rows, 10, 3))
    for row, length in enumerate(source.integers(4, 9, num_rows)):
        steps[row, length:] = steps[row, length - 1] if row % 2 else 0.0
    spec = DataSpec(modalities=(ModalitySpec(name="steps", kind="sequence", shape=(10, 3)),), task=CLASSES)
    ids = np.array([f"row-{i}" for i in range(num_rows)], dtype=object)
    available = {"steps": source.random(num_rows) < 0.9}
    rows = HeldSamples(Samples({"steps": steps}, available, ids, source.integers(0, 3, num_rows)), spec)
    preprocessor = Preprocessor.fit(rows, spec)
    return preprocessor, encode_to_memory(rows, preprocessor)


def test_noise_leaves_the_padding_of_sequences_so_that_as_many_steps_count_as_without_it() -> None:
    preprocessor, data = ended_sequences(300, 0)
    batching = Batching(64, seed=3, perturbation=Perturbation.of(preprocessor, input_noise=0.3))
    after, before = gathered(epoch(data, batching), data, "steps")
    real = real_steps(before)
    assert len(real.sum(dim=1).unique()) > 5
    assert torch.equal(real_steps(after), real)
    assert torch.equal(after[~real], before[~real])
    surely_real = real & torch.cat([real[:, 1:], torch.zeros_like(real[:, :1])], dim=1)
    assert abs(float((after - before)[surely_real].std()) - 0.3) < 0.02
    whole = data.clone()
    whole.inputs["steps"] = torch.randn(300, 10, 3, generator=torch.Generator().manual_seed(0))
    after, before = gathered(epoch(whole, batching), whole, "steps")
    assert (after != before).any(dim=2).all(), "what changes up to its last step is not padded"


def test_sequences_of_a_stack_are_those_of_each_alone_and_go_on_in_the_same_bits() -> None:
    worlds = [ended_sequences(37 + 9 * k, k) for k in range(2)]
    data = [rows for _, rows in worlds]
    batchings = [
        Batching(16, seed=k, perturbation=Perturbation.of(preprocessor, input_noise=0.2 + 0.3 * k))
        for k, (preprocessor, _) in enumerate(worlds)
    ]
    together = [batch.clone() for batch in CohortStream(data, batchings)]
    for k in range(2):
        alone = epoch(data[k], batchings[k])
        assert not torch.equal(alone[0].inputs["steps"], original(data[k], alone[0], "steps"))
        for batch, mine in zip(together, alone, strict=False):
            assert torch.equal(batch.inputs["steps"][k, : len(mine)], mine.inputs["steps"])
    stream = CohortStream(data, batchings)
    next(iter(stream))
    state, stream = stream.state_dict(), CohortStream(data, batchings)
    stream.load_state_dict(state)
    for one, other in zip(together[1:], [batch.clone() for batch in stream], strict=True):
        assert torch.equal(one.inputs["steps"], other.inputs["steps"])
