from __future__ import annotations

import functools
import gzip
import hashlib
import struct
import tarfile
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch

from joulelab.errors import DatasetError, UserError
from joulelab.workloads import published_datasets
from joulelab.workloads.dataset_files import download
from joulelab.workloads.datasets import SyntheticOptions, load_dataset
from joulelab.workloads.images import ImageData, channel_statistics, resize

PER_FILE = 6


@pytest.fixture(autouse=True)
def _nothing_on_this_machine(tmp_path, monkeypatch):
    """Hide the data sets of this machine."""
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    monkeypatch.setenv("JOULELAB_HOME", str(empty / "home"))
    monkeypatch.setattr(published_datasets, "DEBIAN_FOLDER", empty / "debian")


def one_line(caught) -> str:
    text = str(caught.value)
    assert "\n" not in text
    return text


# digits


def test_digits_are_real_split_by_class_and_always_the_same():
    data = load_dataset("digits")
    assert data.train_images.shape == (1437, 3, 32, 32)
    assert data.test_images.shape == (360, 3, 32, 32)
    assert data.train_images.dtype == torch.uint8
    assert data.train_labels.dtype == torch.int64
    assert data.real
    assert not data.flip_keeps_label
    assert data.origin.startswith("scikit-learn ")
    assert data.test_labels.bincount().min() >= 34
    again = load_dataset("digits")
    assert torch.equal(again.train_images, data.train_images)
    assert torch.equal(again.test_labels, data.test_labels)


def test_images_are_resized():
    data = load_dataset("digits", image_size=16)
    assert data.image_shape == (3, 16, 16)
    assert load_dataset("synthetic", image_size=8, synthetic=few()).image_shape == (3, 8, 8)


@pytest.mark.parametrize("size", [0, -3, 1.5, True])
@pytest.mark.parametrize("name", ["digits", "synthetic"])
def test_a_wrong_image_size_is_refused(name, size):
    with pytest.raises(UserError, match="image_size"):
        load_dataset(name, image_size=size)


# synthetic


def few(**options):
    return SyntheticOptions(**{"train_count": 40, "test_count": 20, **options})


def test_synthetic_images_follow_from_their_seed():
    data, same, other = (load_dataset("synthetic", synthetic=few(seed=s)) for s in (3, 3, 4))
    assert torch.equal(data.train_images, same.train_images)
    assert not torch.equal(data.train_images, other.train_images)
    assert not torch.equal(data.train_images[:20], data.test_images)
    assert (data.real, data.origin) == (False, "generated, seed 3")
    assert data.train_labels.bincount().tolist() == [4] * 10


def test_learnable_classes_differ_and_random_ones_do_not():
    def spread(structure):
        data = load_dataset(
            "synthetic", synthetic=few(train_count=400, num_classes=2, structure=structure)
        )
        images = data.train_images.float()
        first, second = (images[data.train_labels == label].mean(dim=0) for label in (0, 1))
        return (first - second).abs().mean().item()

    assert spread("learnable") > 3 * spread("random")


@pytest.mark.parametrize(
    "options",
    [{"train_count": 0}, {"num_classes": 1}, {"structure": "fractal"}, {"seed": -1}],
)
def test_wrong_synthetic_options_are_refused(options):
    with pytest.raises(UserError, match=next(iter(options))):
        few(**options)


# Fashion-MNIST


def idx(values: np.ndarray) -> bytes:
    header = bytes((0, 0, 8, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape)
    return header + values.astype(np.uint8).tobytes()


@pytest.fixture
def fashion():
    random = np.random.default_rng(0)
    return {
        "train-images-idx3-ubyte": idx(random.integers(1, 256, (12, 28, 28))),
        "train-labels-idx1-ubyte": idx(np.arange(12) % 10),
        "t10k-images-idx3-ubyte": idx(random.integers(1, 256, (5, 28, 28))),
        "t10k-labels-idx1-ubyte": idx(np.arange(5)),
    }


def put(files, folder, *, packed=False):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("inside", ["", "fashion-mnist", "FashionMNIST/raw"])
def test_fashion_mnist_is_found_below_a_root(fashion, tmp_path, inside, packed):
    folder = put(fashion, tmp_path / "root" / inside, packed=packed)
    data = load_dataset("fashion-mnist", root=tmp_path / "root")
    assert data.origin == str(folder)
    assert data.train_images.shape == (12, 3, 32, 32)
    assert data.test_labels.tolist() == [0, 1, 2, 3, 4]
    assert data.flip_keeps_label
    first = np.frombuffer(fashion["train-images-idx3-ubyte"], np.uint8, 28 * 28, offset=16)
    for channel in range(3):
        inner = data.train_images[0, channel, 2:30, 2:30]
        assert np.array_equal(inner.numpy().ravel(), first)
    assert data.train_images[:, :, :2].sum() == 0


def test_fashion_mnist_is_found_at_home_here_and_in_debians_folder(fashion, tmp_path, monkeypatch):
    debian = put(fashion, published_datasets.DEBIAN_FOLDER, packed=True)
    assert load_dataset("fashion-mnist").origin == str(debian)
    here = put(fashion, tmp_path / "empty" / "data" / "FashionMNIST" / "raw")
    assert load_dataset("fashion-mnist").origin == str(here)
    home = put(fashion, tmp_path / "home" / "data")
    monkeypatch.setenv("JOULELAB_HOME", str(tmp_path / "home"))
    assert load_dataset("fashion-mnist").origin == str(home)


def test_the_error_for_a_missing_data_set_names_the_directories_and_a_fix(tmp_path):
    with pytest.raises(DatasetError) as caught:
        load_dataset("fashion-mnist", root=tmp_path / "root")
    text = one_line(caught)
    assert str(tmp_path / "root") in text
    assert "dataset-fashion-mnist" in text
    assert "download = true" in text


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kept", [0, 3, 10, 200])
def test_a_truncated_idx_file_is_refused(fashion, tmp_path, kept, packed):
    name = "train-images-idx3-ubyte"
    put(fashion, tmp_path, packed=packed)
    damaged = tmp_path / (f"{name}.gz" if packed else name)
    damaged.write_bytes(damaged.read_bytes()[:kept])
    with pytest.raises(DatasetError, match=name) as caught:
        load_dataset("fashion-mnist", root=tmp_path)
    one_line(caught)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train-labels-idx1-ubyte", idx(np.full(12, 10)), "the label 10"),
        ("train-labels-idx1-ubyte", idx(np.zeros(11)), "12 images and 11 labels"),
        ("train-labels-idx1-ubyte", idx(np.zeros((12, 1, 1))), "not an IDX file"),
        ("t10k-images-idx3-ubyte", idx(np.zeros((5, 28, 27))), "28 x 27"),
        ("t10k-images-idx3-ubyte", idx(np.zeros((5, 28, 28))) + b"x", "longer"),
        ("t10k-images-idx3-ubyte", b"<html>not found</html>", "not an IDX file"),
    ],
)
def test_other_idx_files_are_refused(fashion, tmp_path, name, content, message):
    put({**fashion, name: content}, tmp_path)
    with pytest.raises(DatasetError, match=message) as caught:
        load_dataset("fashion-mnist", root=tmp_path)
    one_line(caught)


# CIFAR-10, in files of PER_FILE images


@pytest.fixture
def cifar(monkeypatch):
    """Pixels and labels of six small files."""
    monkeypatch.setattr(published_datasets, "CIFAR10_IMAGES_PER_FILE", PER_FILE)
    random = np.random.default_rng(1)
    return [
        (
            random.integers(0, 256, (PER_FILE, 3072), dtype=np.uint8),
            random.integers(0, 10, PER_FILE, dtype=np.uint8),
        )
        for _ in range(6)
    ]


def binary_files(cifar):
    return {
        name: np.concatenate([labels[:, None], pixels], axis=1).tobytes()
        for name, (pixels, labels) in zip(
            published_datasets.CIFAR10_BINARY_NAMES, cifar, strict=True
        )
    }


def put_archive(cifar, folder, monkeypatch):
    source = put(binary_files(cifar), folder / "aside" / published_datasets.CIFAR10_BINARY_FOLDER)
    with tarfile.open(folder / published_datasets.CIFAR10_ARCHIVE, "w:gz") as archive:
        archive.add(source, published_datasets.CIFAR10_BINARY_FOLDER)
    for file in source.iterdir():
        file.unlink()
    path = folder / published_datasets.CIFAR10_ARCHIVE
    monkeypatch.setattr(
        published_datasets, "CIFAR10_ARCHIVE_MD5", hashlib.md5(path.read_bytes()).hexdigest()
    )
    return path


def python_pickle(pixels, labels) -> bytes:
    """As Python 2's cPickle wrote the published files: protocol 2, byte strings."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    data = pixels.tobytes()
    array = b"cnumpy.core.multiarray\n_reconstruct\nq\x05cnumpy\nndarray\nq\x06K\x00\x85"
    array += text(b"b") + b"\x87R(K\x01K" + bytes([PER_FILE]) + b"M\x00\x0c\x86\x89"
    array += b"T" + struct.pack("<i", len(data)) + data + b"tb"
    items = text(b"batch_label") + text(b"training batch 1 of 5")
    items += text(b"labels") + b"]q\x04(" + b"".join(b"K" + bytes([n]) for n in labels) + b"e"
    items += text(b"data") + array
    items += text(b"filenames") + b"](" + text(b"leptodactylus_s_000004.png") + b"e"
    return b"\x80\x02}q\x01(" + items + b"u."


def put_python(cifar, folder, monkeypatch):
    names = published_datasets.CIFAR10_PYTHON_MD5
    files = {name: python_pickle(*part) for name, part in zip(names, cifar, strict=True)}
    sums = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
    monkeypatch.setattr(published_datasets, "CIFAR10_PYTHON_MD5", sums)
    return put(files, folder / published_datasets.CIFAR10_PYTHON_FOLDER)


def assert_same(data, cifar):
    pixels = np.concatenate([pixels for pixels, _ in cifar[:5]]).reshape(-1, 3, 32, 32)
    assert np.array_equal(data.train_images.numpy(), pixels)
    assert data.train_labels.tolist() == np.concatenate([n for _, n in cifar[:5]]).tolist()
    assert np.array_equal(data.test_images.numpy(), cifar[5][0].reshape(-1, 3, 32, 32))
    assert data.test_labels.tolist() == cifar[5][1].tolist()
    assert data.real
    assert data.flip_keeps_label


def test_cifar10_is_read_from_its_binary_folder(cifar, tmp_path):
    folder = put(binary_files(cifar), tmp_path / published_datasets.CIFAR10_BINARY_FOLDER)
    data = load_dataset("cifar10", root=tmp_path)
    assert_same(data, cifar)
    assert data.origin == str(folder)


def test_cifar10_is_read_from_its_archive(cifar, tmp_path, monkeypatch):
    path = put_archive(cifar, tmp_path, monkeypatch)
    data = load_dataset("cifar10", root=tmp_path)
    assert_same(data, cifar)
    assert data.origin == str(path)


def test_cifar10_is_read_from_torchvisions_folder_without_unpickling(cifar, tmp_path, monkeypatch):
    put_python(cifar, tmp_path, monkeypatch)

    def refuse(*_args, **_options):
        raise AssertionError("unpickled")

    monkeypatch.setattr("pickle.load", refuse)
    monkeypatch.setattr("pickle.loads", refuse)
    assert_same(load_dataset("cifar10", root=tmp_path), cifar)


def test_a_pickle_that_is_not_the_published_one_is_refused(cifar, tmp_path, monkeypatch):
    folder = put_python(cifar, tmp_path, monkeypatch)
    with (folder / "data_batch_3").open("ab") as file:
        file.write(b"\n")
    with pytest.raises(DatasetError, match=r"data_batch_3 is damaged.*MD5") as caught:
        load_dataset("cifar10", root=tmp_path)
    one_line(caught)


@pytest.mark.parametrize("change", [lambda b: b[:-1], lambda b: b + b"x", lambda b: b""])
def test_a_cifar10_file_of_the_wrong_size_is_refused(cifar, tmp_path, change):
    folder = put(binary_files(cifar), tmp_path / published_datasets.CIFAR10_BINARY_FOLDER)
    damaged = folder / "data_batch_2.bin"
    damaged.write_bytes(change(damaged.read_bytes()))
    with pytest.raises(DatasetError, match=r"data_batch_2\.bin is damaged") as caught:
        load_dataset("cifar10", root=tmp_path)
    one_line(caught)


def test_a_cifar10_label_out_of_range_is_refused(cifar, tmp_path):
    cifar[0][1][0] = 77
    put(binary_files(cifar), tmp_path / published_datasets.CIFAR10_BINARY_FOLDER)
    with pytest.raises(DatasetError, match="the label 77"):
        load_dataset("cifar10", root=tmp_path)


def test_a_missing_cifar10_file_is_named(cifar, tmp_path):
    folder = put(binary_files(cifar), tmp_path / published_datasets.CIFAR10_BINARY_FOLDER)
    (folder / "test_batch.bin").unlink()
    with pytest.raises(DatasetError, match=r"test_batch\.bin"):
        load_dataset("cifar10", root=tmp_path)


def test_an_archive_cut_short_is_refused(cifar, tmp_path, monkeypatch):
    path = put_archive(cifar, tmp_path, monkeypatch)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DatasetError, match="damaged"):
        load_dataset("cifar10", root=tmp_path)


def test_nothing_is_downloaded_without_permission(cifar, tmp_path, monkeypatch):
    def refuse(*_args, **_options):
        raise AssertionError("downloaded")

    monkeypatch.setattr(published_datasets, "download", refuse)
    with pytest.raises(DatasetError, match="download = true"):
        load_dataset("cifar10", root=tmp_path)


# downloads, from a server in this process


@pytest.fixture
def published(tmp_path):
    """A directory and the address of its web server."""
    directory = tmp_path / "published"
    directory.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_args):
            pass

    handler = functools.partial(Quiet, directory=str(directory))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield directory, f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_a_download_is_verified_and_moved_into_place(cifar, tmp_path, monkeypatch, published):
    directory, address = published
    put_archive(cifar, directory, monkeypatch)
    monkeypatch.setattr(
        published_datasets, "CIFAR10_URL", f"{address}/{published_datasets.CIFAR10_ARCHIVE}"
    )
    data = load_dataset("cifar10", root=tmp_path / "root", download=True)
    assert_same(data, cifar)
    assert [file.name for file in (tmp_path / "root").iterdir()] == [
        published_datasets.CIFAR10_ARCHIVE
    ]


@pytest.mark.parametrize("fault", ["missing", "altered"])
def test_a_failed_download_leaves_nothing_and_names_a_fix(tmp_path, fault, published):
    directory, address = published
    if fault == "altered":
        (directory / "data.bin").write_bytes(b"something else")
    target = tmp_path / "target"
    with pytest.raises(DatasetError, match="put it into") as caught:
        download(f"{address}/data.bin", target, md5=hashlib.md5(b"the data").hexdigest())
    one_line(caught)
    assert list(target.iterdir()) == []


# all data sets


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(DatasetError, match=r"did you mean cifar10\?"):
        load_dataset("cifar-10")


def test_statistics_are_those_of_the_scaled_pixels():
    images = torch.randint(
        256, (9, 3, 5, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    mean, std = channel_statistics(images)
    scaled = images.double() / 255
    assert mean == pytest.approx(scaled.mean(dim=(0, 2, 3)).tolist())
    assert std == pytest.approx(scaled.std(dim=(0, 2, 3), correction=0).tolist())


def test_a_constant_image_can_be_normalised_and_keeps_its_grey_when_resized():
    images = torch.full((2, 3, 8, 8), 90, dtype=torch.uint8)
    assert channel_statistics(images)[1] == (1 / 255,) * 3
    assert resize(images, 32).unique().tolist() == [90]


def test_an_empty_set_is_refused():
    images, labels = torch.zeros(0, 3, 8, 8, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64)
    with pytest.raises(DatasetError, match="is empty"):
        ImageData(
            name="x",
            train_images=images,
            train_labels=labels,
            test_images=images,
            test_labels=labels,
            num_classes=2,
            origin="here",
            real=False,
        )
