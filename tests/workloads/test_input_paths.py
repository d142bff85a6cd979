from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from joulelab.workloads.images import ImageData
from joulelab.workloads.input_paths import PADDING, DeviceBatches, LoaderBatches, batch_bounds

CPU = torch.device("cpu")


@given(st.integers(1, 500), st.integers(1, 64), st.booleans())
def test_bounds_cover_each_image_once(count, batch_size, fold_single):
    bounds = batch_bounds(count, batch_size, fold_single=fold_single)
    assert [i for start, stop in bounds for i in range(start, stop)] == list(range(count))
    sizes = [stop - start for start, stop in bounds]
    assert all(size == batch_size for size in sizes[:-1])
    if fold_single and batch_size > 1 and count > 1:
        assert sizes[-1] != 1


@pytest.fixture
def numbered():
    """Each pixel of image i encodes i, its row and its column, all non-zero."""
    count, size = 20, 10
    images = torch.empty(count, 3, size, size, dtype=torch.uint8)
    images[:, 0] = torch.arange(1, count + 1)[:, None, None]
    images[:, 1] = torch.arange(1, size + 1)[:, None]
    images[:, 2] = torch.arange(1, size + 1)
    labels = torch.arange(count) % 10
    return ImageData(
        name="numbered",
        train_images=images,
        train_labels=labels,
        test_images=images[:7],
        test_labels=labels[:7],
        num_classes=10,
        origin="made here",
        real=False,
    )


def device_source(data, **options):
    options = {"batch_format": torch.contiguous_format, "training": True, **options}
    return DeviceBatches(data, CPU, **options)


def loader_source(data, **options):
    options = {"batch_format": torch.contiguous_format, "workers": 0, **options}
    return LoaderBatches(data, CPU, **options)


def pixels(data, batch):
    """The uint8 images that were normalised."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (data.mean, data.std))
    return ((batch.images * std + mean) * 255).round().to(torch.uint8)


@pytest.mark.parametrize("make", [device_source, loader_source])
def test_test_batches_are_the_set_in_order(numbered, make):
    batches = list(make(numbered).test_batches(batch_bounds(7, 3)))
    assert [len(batch.labels) for batch in batches] == [3, 3, 1]
    assert torch.equal(torch.cat([b.labels for b in batches]), numbered.test_labels)
    assert torch.equal(torch.cat([pixels(numbered, b) for b in batches]), numbered.test_images)


@pytest.mark.parametrize("make", [device_source, loader_source])
def test_without_augmentation_an_epoch_is_a_permutation(numbered, make):
    source = make(numbered, seed=5)
    batches = list(source.train_batches(1, batch_bounds(20, 8)))
    images = torch.cat([pixels(numbered, batch) for batch in batches])
    labels = torch.cat([batch.labels for batch in batches])
    order = images[:, 0, 0, 0].long() - 1
    assert sorted(order.tolist()) == list(range(20))
    assert order.tolist() != list(range(20))
    assert torch.equal(images, numbered.train_images[order])
    assert torch.equal(labels, numbered.train_labels[order])


@pytest.mark.parametrize("make", [device_source, loader_source])
def test_augmented_images_are_shifted_and_flipped_and_keep_their_label(numbered, make):
    source = make(numbered, augment=True, seed=5)
    corners, flips = set(), set()
    for stream in range(1, 16):
        torch.manual_seed(stream)
        for batch in source.train_batches(stream, batch_bounds(20, 8)):
            for image, label in zip(pixels(numbered, batch), batch.labels, strict=True):
                corner, flip, index = where_from(image)
                corners.add(corner)
                flips.add(flip)
                assert label == numbered.train_labels[index]
    assert flips == {False, True}
    for axis in (0, 1):
        assert {c[axis] for c in corners} == set(range(-PADDING, PADDING + 1))


def where_from(image):
    """Decode the shift, the flip and the number of an image of ``numbered``."""
    inside = image[0] > 0
    rows, columns = inside.any(dim=1).nonzero().ravel(), inside.any(dim=0).nonzero().ravel()
    first_row, first_column = int(rows[0]), int(columns[0])
    across = image[2, first_row, columns].tolist()
    flip = across[0] > across[-1]
    if flip:
        image = image.flip(2)
        columns = (image[0] > 0).any(dim=0).nonzero().ravel()
        first_column = int(columns[0])
    down = int(image[1, first_row, first_column]) - 1 - first_row
    right = int(image[2, first_row, first_column]) - 1 - first_column
    expected_rows = torch.arange(1 + first_row + down, 1 + first_row + down + len(rows))
    assert torch.equal(image[1, rows, first_column], expected_rows.to(torch.uint8))
    assert image[:, ~(image[0] > 0)].sum() == 0
    return (down, right), flip, int(image[0].max()) - 1


@pytest.mark.parametrize("make", [device_source, loader_source])
def test_images_whose_label_a_flip_would_change_are_never_flipped(make):
    ramp = torch.arange(1, 11, dtype=torch.uint8).repeat(30, 3, 10, 1)
    labels = torch.zeros(30, dtype=torch.int64)
    data = ImageData(
        name="ramps",
        train_images=ramp,
        train_labels=labels,
        test_images=ramp,
        test_labels=labels,
        num_classes=2,
        origin="made here",
        real=False,
        flip_keeps_label=False,
    )
    (batch,) = make(data, augment=True).train_batches(1, batch_bounds(30, 30))
    for image in pixels(data, batch):
        row = image[0, 5][image[0, 5] > 0]
        assert torch.equal(row, row.sort().values)


@pytest.mark.parametrize("make", [device_source, loader_source])
def test_streams_differ_and_repeat(numbered, make):
    def labels(stream):
        batches = make(numbered, seed=9).train_batches(stream, batch_bounds(20, 20))
        return next(batches).labels.tolist()

    assert labels(1) == labels(1)
    assert labels(1) != labels(2)


@pytest.mark.parametrize("make", [device_source, loader_source])
@pytest.mark.parametrize("batch_format", [torch.contiguous_format, torch.channels_last])
def test_batches_have_the_requested_memory_format(numbered, make, batch_format):
    source = make(numbered, batch_format=batch_format)
    for batches in (source.train_batches(1, [(0, 8)]), source.test_batches([(0, 4)])):
        (batch,) = batches
        assert batch.images.is_contiguous(memory_format=batch_format)
        assert batch.images.dtype == torch.float32


def test_only_the_loader_path_counts_waiting(numbered):
    on_device, loaded = device_source(numbered), loader_source(numbered)
    for source in (on_device, loaded):
        list(source.test_batches(batch_bounds(7, 3)))
    assert on_device.waited_s is None
    assert loaded.waited_s > 0
