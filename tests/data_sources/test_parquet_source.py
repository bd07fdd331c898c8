"""The source `parquet`: its order, and mistakes in files."""

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from rank_increase.data.packed import DatasetError, open_dataset, pack
from rank_increase.data.sources.parquet import parquet


def encoded(color, size=(4, 4)):
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, "png")
    return buffer.getvalue()


def write_parquet(path, images, labels, struct=True):
    images = [{"bytes": image, "path": None} for image in images] if struct else images
    metadata = {"class_names": "ant,bee"}
    pq.write_table(pa.table({"image": images, "label": labels}).replace_schema_metadata(metadata), path)


def pack_parquet(tmp_path, classes=2):
    names = {split: str(tmp_path / f"{split}.parquet") for split in ("train", "test")}
    description = {"source": "parquet", **names, "classes": classes, "size": 4}
    pack(tmp_path / "set", parquet(tmp_path, 2, **names, classes=classes, size=4), description)
    return open_dataset(tmp_path / "set")


@pytest.mark.parametrize("struct", [True, False])
def test_parquet_is_packed_in_order(tmp_path, monkeypatch, struct):
    for module in ("decoding", "sources.parquet"):
        monkeypatch.setattr(f"rank_increase.data.{module}.SHARD", 2)
    colors = [(10 * n, 250 - n, n) for n in range(7)]
    write_parquet(tmp_path / "train.parquet", map(encoded, colors), [0, 1, 0, 1, 0, 1, 1], struct)
    write_parquet(tmp_path / "test.parquet", map(encoded, colors[:2]), [1, 0], struct)
    dataset = pack_parquet(tmp_path)
    assert [tuple(color) for color in dataset.train_samples[:, 0, 0].tolist()] == colors
    assert dataset.train_labels.tolist() == [0, 1, 0, 1, 0, 1, 1] and dataset.test_labels.tolist() == [1, 0]
    assert dataset.manifest["classes"] == ["ant", "bee"]


def test_mistakes_in_parquet_are_sentences(tmp_path):
    good = [encoded((n, n, 9 * n)) for n in range(3)]
    write_parquet(tmp_path / "train.parquet", good, [0, 1, 0])
    with pytest.raises(DatasetError, match=r"test.parquet does not exist"):
        pack_parquet(tmp_path)
    (tmp_path / "test.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(DatasetError, match=r"test.parquet is no readable Parquet file"):
        pack_parquet(tmp_path)
    write_parquet(tmp_path / "test.parquet", good, [0, 5, 0])
    with pytest.raises(DatasetError, match=r"test.parquet: sample 1 has label 5"):
        pack_parquet(tmp_path)
    write_parquet(tmp_path / "test.parquet", [good[0], good[1][:50], good[2]], [0, 1, 0])
    with pytest.raises(DatasetError, match=r"test.parquet, row 1 is no readable image"):
        pack_parquet(tmp_path)
    write_parquet(tmp_path / "test.parquet", good, [0, None, 1])
    with pytest.raises(DatasetError, match=r"test.parquet: rows 0 to 2 lack"):
        pack_parquet(tmp_path)
    pq.write_table(pa.table({"picture": [1], "label": [0]}), tmp_path / "test.parquet")
    with pytest.raises(DatasetError, match=r"test.parquet has columns picture, label"):
        pack_parquet(tmp_path)
