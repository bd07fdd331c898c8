"""Text as windows of bytes, against slices of the text itself."""

from hashlib import sha256

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rank_increase.data.packed import DatasetError, open_dataset, pack
from rank_increase.data.sources import text as module
from rank_increase.data.sources.text import text


def windows(content, length):
    """Windows and labels of a text, one by one."""
    starts = [start for start in range(0, len(content), length) if start + length + 1 <= len(content)]
    samples = [list(content[start : start + length]) for start in starts]
    return samples, [list(content[start + 1 : start + length + 1]) for start in starts]


def packed(folder, train, test, length, **options):
    source = text(None, 1, train=str(train), test=str(test), length=length, **options)
    pack(folder / "packed", source, {})
    return open_dataset(folder / "packed"), source


def check(dataset, split, content, length):
    samples, labels = windows(content, length)
    np.testing.assert_array_equal(getattr(dataset, f"{split}_samples"), samples)
    np.testing.assert_array_equal(getattr(dataset, f"{split}_labels"), labels)


def test_windows_of_two_files(tmp_path):
    contents = {"train": "Größe: 3 µm\nzwei\n".encode() * 7, "test": b"\x00\xffno text at all\n"}
    for name, content in contents.items():
        (tmp_path / f"{name}.txt").write_bytes(content)
    dataset, source = packed(tmp_path, tmp_path / "train.txt", tmp_path / "test.txt", 5)
    for split, content in contents.items():
        check(dataset, split, content, 5)
        assert source.sha256[split] == sha256(content).hexdigest()
    assert dataset.manifest["kind"] == "tokens" and dataset.manifest["dtype"] == "uint8"
    assert dataset.manifest["shape"] == dataset.manifest["label_shape"] == [5]
    assert dataset.manifest["classes"] == [f"{byte:02x}" for byte in range(256)]


@settings(max_examples=60, deadline=None)
@given(data=st.data(), length=st.integers(1, 9), block=st.integers(1, 20))
def test_windows_do_not_depend_on_blocks(tmp_path_factory, data, length, block):
    content = data.draw(st.binary(min_size=length + 1, max_size=60)) + b"\n"
    folder = tmp_path_factory.mktemp("text")
    (folder / "a.txt").write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK", block)
        source = text(None, 1, train=str(folder / "a.txt"), test=str(folder / "a.txt"), length=length)
        chunks = list(source.splits["train"].chunks)
    samples, labels = (np.concatenate(part).tolist() for part in zip(*chunks, strict=True))
    assert (samples, labels) == windows(content, length)
    assert source.splits["train"].count == len(samples)


@pytest.fixture
def parquet(tmp_path):
    def write(name, rows, column="text", kind=None):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        pq.write_table(
            pa.table({column: pa.array(rows, kind), "other": list(range(len(rows)))}), path, row_group_size=2
        )
        return path

    return write


def test_a_folder_of_text_and_parquet_files_in_alphabetical_order(tmp_path, parquet):
    parquet("many/b.parquet", ["eins\n", None, "", "zwei", "é"])
    parquet("many/d.parquet", ["drei"])
    (tmp_path / "many/c.txt").write_bytes(b"no break at the end")
    (tmp_path / "many/a.txt").write_bytes(b"first\r\n")
    (tmp_path / "many/e.md").write_bytes(b"of no known kind")
    content = "first\r\neins\n\nzwei\né\nno break at the end\ndrei\n".encode()
    dataset, _ = packed(tmp_path, tmp_path / "many", tmp_path / "many", 4)
    check(dataset, "train", content, 4)
    check(dataset, "test", content, 4)


def test_another_column_of_strings(tmp_path, parquet):
    path = parquet("one.parquet", ["abc", "defg"], "body", pa.large_string())
    dataset, _ = packed(tmp_path, path, path, 3, column="body")
    check(dataset, "train", b"abc\ndefg\n", 3)


def test_mistakes_are_sentences_that_name_the_file(tmp_path, parquet):
    (tmp_path / "empty").mkdir()
    (tmp_path / "short.txt").write_bytes(b"abc\n")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    number = parquet("number.parquet", [1, 2])
    for path, sentence in {
        tmp_path / "gone": "gone does not exist: a source of text is such a file, or a folder of them.",
        tmp_path / "empty": "empty has no .txt and no .parquet file: a source of text",
        tmp_path / "short.txt": "short.txt has 4 bytes of text, but a window and its next byte are 5.",
        tmp_path / "broken.parquet": "broken.parquet is no readable Parquet file",
        number: "number.parquet has no column `text` of strings: name another as `column`.",
    }.items():
        with pytest.raises(DatasetError, match=f"{sentence}".replace(".", r"\.")):
            text(None, 1, train=str(path), test=str(path), length=4)
