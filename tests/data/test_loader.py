"""The loader: an exact order whatever builds it, memory that is reused, errors that reach the caller."""

import threading
from functools import partial

import numpy as np
import pytest
import torch
from conftest import gathered
from torch import Tensor

from glczoo.data.loader import load, load_by_processes, shares
from glczoo.data.occurrences import Samples
from glczoo.data.patch_source import PatchSource
from glczoo.data.patches import PatchBuilder, dihedral
from glczoo.data.region import Region
from glczoo.data.tables import read_samples, read_species
from glczoo.losses import bce, ce
from glczoo.training.checkpoints import EpochOrder, Progress

MEAN, STD = [7000.0 + k for k in range(11)], [500.0 + 10 * k for k in range(11)]


@pytest.fixture
def surveys(address_region: Region) -> Samples:
    return read_samples(address_region, "pa", read_species(address_region))


@pytest.fixture
def build(address_region: Region, surveys: Samples) -> PatchBuilder:
    return PatchBuilder(PatchSource(address_region), surveys, MEAN, STD)


def oracle(source: PatchSource, points: Samples, index: int, turn: int, dtype: torch.dtype) -> Tensor:
    """x[C, S, S] of one point, cell by cell, in float32."""
    size = source.size
    x = torch.zeros(len(source.bands), size, size, dtype=dtype)
    raw = np.full(x.shape, np.nan, np.float32)
    for stack, (row, col) in zip(source.stacks, source.locate(points), strict=True):
        for band_number, band in enumerate(stack.bands):
            for i in range(size):
                for j in range(size):
                    r, c = (int(v[index]) + stack.pad - size // 2 + k for v, k in ((row, i), (col, j)))
                    value = stack.values[r, c, band_number]
                    if not stack.missing(np.array(value)):
                        raw[source.bands.index(band), i, j] = value
    if source.jpegs is not None:
        raw[5:9] = source.jpegs.read(int(points.patch_id[index]), size).numpy()
    for band in range(len(source.bands)):
        scale = np.float32(1) / np.float32(STD[band])
        x[band] = torch.from_numpy(np.nan_to_num((raw[band] - np.float32(MEAN[band])) * scale))
    x = torch.rot90(x, turn % 4, (1, 2))
    return x.flip(2) if turn >= 4 else x


@pytest.mark.parametrize("resident", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_x_is_the_oracle_bit_for_bit(
    address_region: Region, surveys: Samples, resident: bool, dtype: torch.dtype
) -> None:
    source = PatchSource(address_region)
    build = PatchBuilder(source, surveys, MEAN, STD, resident=resident, dtype=dtype)
    index, turn = torch.tensor([3, 0, 4, 1, 2, 0, 1, 3]), torch.arange(8)
    plain, turned = build(index), build(index, turn)
    assert plain.dtype == dtype and (plain == 0).float().mean() > 0.1  # cells without data are there
    there = PatchBuilder(source, surveys, MEAN, STD, resident=resident, dtype=dtype, decode_there=True)
    assert torch.equal(there(index, turn), turned)
    for k, i in enumerate(index.tolist()):
        assert torch.equal(plain[k], oracle(source, surveys, i, 0, dtype))
        assert torch.equal(turned[k], oracle(source, surveys, i, k, dtype))


def test_gathered_integers_are_the_stacks(address_region: Region, surveys: Samples) -> None:
    source = PatchSource(address_region)
    index = torch.tensor([4, 1, 0])
    for cells, stack, (row, col) in zip(
        PatchBuilder(source, surveys, MEAN, STD).gather(index),
        source.stacks,
        source.locate(surveys),
        strict=True,
    ):
        np.testing.assert_array_equal(cells.numpy(), gathered(stack, row[index], col[index], 6))


def test_what_cannot_be_decoded_together_is_decoded_one_by_one(
    address_region: Region, surveys: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = PatchSource(address_region)
    build = PatchBuilder(source, surveys, MEAN, STD, decode_there=True)
    expected = build(torch.arange(5))
    monkeypatch.setattr(source.jpegs, "read_together", lambda *_: None)
    assert torch.equal(build(torch.arange(5)), expected)


def test_every_way_of_loading_gives_the_same(build: PatchBuilder) -> None:
    batches = EpochOrder(5, 2, seed=3).batches(0) * 9
    turn = partial(dihedral, 1, 2)
    expected = [build(index, turn(index)).clone() for index in batches]
    ways = [partial(load, threads=n) for n in (0, 1, 2, 5)] + [
        partial(load_by_processes, processes=n) for n in (0, 2)
    ]
    for way in ways:
        found = [(index, x.clone()) for index, x in way(build, batches, turn)]
        assert all(torch.equal(a, b) for (a, _), b in zip(found, batches, strict=True))
        assert all(torch.equal(a, b) for (_, a), b in zip(found, expected, strict=True))
    assert list(load(build, [])) == []


def test_a_batch_is_left_alone_until_the_next_is_asked_for(build: PatchBuilder) -> None:
    batches = [torch.tensor([number % 5]) for number in range(30)]
    where = set()
    for number, (_, x) in enumerate(load(build, batches, threads=2)):
        before = x.clone()
        where.add(x.data_ptr())
        threading.Event().wait(0.002)  # the threads run ahead as far as they can
        assert torch.equal(x, before) and torch.equal(x, build(batches[number])), number
    assert len(where) == 4  # threads, one that is ready and the caller's


@pytest.mark.parametrize("threads", [0, 2])
def test_errors_reach_the_caller_and_threads_end(
    address_region: Region, build: PatchBuilder, threads: int
) -> None:
    batches = [torch.tensor([0, 1]), torch.tensor([2, 3]), torch.tensor([4, 0])]
    path = next((address_region.root_path / "jpeg/nir").rglob("45.jpeg"))
    path.write_bytes(path.read_bytes()[:300])
    loader = load(build, batches, threads=threads)
    assert next(loader)[0].tolist() == [0, 1]
    with pytest.raises(ValueError, match=r"45\.jpeg is not a whole JPEG"):
        next(loader)
    loader = load(build, batches[:1] * 20, threads=threads)
    next(loader)
    loader.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("loader")]


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("number", [12, 13, 14, 25, 38, 39])
def test_processes_share_the_order_out(number: int, processes: int) -> None:
    orders = [EpochOrder(number, 4, 7, process, processes) for process in range(processes)]
    for epoch in (0, 5):
        parts = [order.batches(epoch) for order in orders]
        assert {len(part) for part in parts} == {len(orders[0])}
        for together in zip(*parts, strict=True):
            assert len({len(batch) for batch in together}) == 1 and 2 <= len(together[0]) <= 4
        seen = torch.cat([batch for part in parts for batch in part]).tolist()
        assert len(set(seen)) == len(seen) and number - len(seen) < 2 * processes
        assert all(map(torch.equal, orders[0].batches(epoch, 1), parts[0][1:]))
        whole = np.random.default_rng([7, epoch]).permutation(number)
        assert sorted(whole[: len(seen)].tolist()) == sorted(seen)
    assert not torch.equal(orders[0].batches(0)[0], orders[0].batches(1)[0])
    with pytest.raises(ValueError, match=rf"1 training samples are too few: each of {processes} process"):
        EpochOrder(1, 4, 7, 0, processes)


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_shares_hold_every_point_once(processes: int) -> None:
    parts = [shares(25, 4, process, processes) for process in range(processes)]
    assert len({len(part) for part in parts}) == 1
    assert sorted(torch.cat([batch for part in parts for batch in part]).tolist()) == list(range(25))


def test_losses_are_summed_alike_whenever_they_are_read() -> None:
    values = torch.rand(50, generator=torch.Generator().manual_seed(0))
    often, seldom = Progress(), Progress()
    for value in values:
        often.add(value)
        seldom.add(value)
        assert often.state_dict()["batch"] == often.batch
    assert often.state_dict() == seldom.state_dict() and often.mean_loss == pytest.approx(
        values.mean().item()
    )
    again = Progress()
    again.load_state_dict(often.state_dict())
    again.add(values[0])
    assert again.mean_loss == (often.loss_sum + values[0].item()) / 51


# --- places ---------------------------------------------------------------------------------------------


def test_points_of_a_place_share_their_patch(address_region: Region, surveys: Samples) -> None:
    source = PatchSource(address_region)
    x = PatchBuilder(source, surveys, MEAN, STD)(torch.arange(len(surveys)))
    place = source.places(surveys)
    for i in range(len(surveys)):
        for j in range(len(surveys)):
            assert (place[i] == place[j]) == torch.equal(x[i], x[j])
    assert len(set(place.tolist())) == 4  # a repeat visit
    # Without JPEGs the same cells are one place, whatever the patchID.
    rasters = PatchSource(address_region, ["base"])
    moved = surveys.subset(np.array([0, 0]))
    moved.patch_id[:] = [3018575, 123]
    assert len(set(rasters.places(moved).tolist())) == 1 and len(set(source.places(moved).tolist())) == 2


def records(number: int, places: int, classes: int) -> tuple[Samples, np.ndarray]:
    generator = np.random.default_rng(0)
    place = generator.integers(0, places, number)
    zeros = np.zeros(number)
    return Samples(
        zeros,
        zeros,
        place * 10,
        np.arange(number),
        np.arange(number + 1),
        generator.integers(0, classes, number),
        presence_only=True,
        dataset=np.zeros(number, int),
        dataset_names=("a",),
    ), place


def test_merged_surveys_hold_every_record() -> None:
    surveys, place = records(60, 9, 5)
    merged = surveys.merged(place)
    assert len(merged) == len(set(place)) and merged.sizes().sum() == 60
    found = merged.targets(torch.arange(len(merged)), 5)
    for i, patch in enumerate(merged.patch_id.tolist()):
        mine = surveys.species[place == patch // 10]
        assert found[i].tolist() == np.bincount(mine, minlength=5).tolist()
    assert len(surveys.merged(np.arange(60))) == 60
    assert len(records(0, 1, 5)[0].merged(np.zeros(0, int))) == 0


@pytest.mark.parametrize("loss_function", [bce, ce])
def test_places_have_the_loss_and_gradient_of_their_records(loss_function) -> None:
    surveys, place = records(60, 9, 5)
    merged = surveys.merged(place)
    table = torch.randn(9, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    losses, gradients = [], []
    for by_place in (False, True):
        logits = table.clone().requires_grad_()
        if by_place:
            counts = merged.targets(torch.arange(len(merged)), 5).double()
            number = counts.sum(1)
            rows = logits[torch.from_numpy(merged.patch_id // 10)]
            loss = loss_function(rows, counts / number[:, None], number * len(merged) / 60)
        else:
            loss = loss_function(
                logits[torch.from_numpy(place)], surveys.targets(torch.arange(60), 5).double()
            )
        loss.backward()
        losses.append(loss.detach())
        gradients.append(logits.grad)
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-12, atol=0)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-10, atol=1e-14)


def test_stacks_are_copied_to_a_device_once(address_region: Region) -> None:
    source = PatchSource(address_region)
    first, second = (source.tensors(torch.device("meta")) for _ in range(2))
    assert all(a is b for a, b in zip(first, second, strict=True)) and len(first) == len(source.stacks)
