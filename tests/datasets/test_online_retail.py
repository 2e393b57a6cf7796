"""The loader of Online Retail, on made-up invoices in each of its layouts."""

import bz2
import gzip
import lzma
import re
import zipfile

import pandas as pd
import pytest

from skmatch.datasets import load_online_retail

COLUMNS = [
    "user_id",
    "item_id",
    "timestamp",
    "invoice",
    "country",
    "quantity",
    "price",
    "description",
]
PURCHASES = """\
CustomerID,StockCode,InvoiceNo,InvoiceDate,Country,Quantity,UnitPrice
12,0071A,536365,2010-12-01 08:26:00,United Kingdom,6.0,4.25
13,85123,536366,2010-12-13 09:00:00,EIRE,1.0,0.5
"""
ITEMS = 'StockCode,description,price\n85123,"LAMP, £5 KIND",0.5\n0071A,RED MUG,4.25\n'
UCI = """\
InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country
536365,0071A,RED MUG,6,12/1/2010 8:26,4.25,12.0,United Kingdom
C536370,0071A,RED MUG,-1,12/1/2010 8:30,4.25,12.0,United Kingdom
C536371,0071A,RED MUG,1,12/1/2010 8:30,4.25,12.0,United Kingdom
536372,0071A,,1,12/1/2010 8:31,4.25,,United Kingdom
536373,0071A,RED MUG,0,12/1/2010 8:32,4.25,12.0,United Kingdom
536366,85123,"LAMP, £5 KIND",1,12/13/2010 9:00,0.5,13.0,EIRE
"""


def write_folder(folder):
    folder.mkdir(exist_ok=True)
    (folder / "purchases.csv.gz").write_bytes(gzip.compress(PURCHASES.encode()))
    (folder / "items.csv").write_text(ITEMS, encoding="utf-8")
    return folder


def write_uci(path, text=UCI, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


def test_columns_values_and_dtypes(tmp_path):
    events = load_online_retail(write_folder(tmp_path))
    assert list(events.columns) == COLUMNS
    assert events["user_id"].tolist() == [12, 13]
    assert events["item_id"].tolist() == ["0071A", "85123"]
    assert events["timestamp"].tolist() == [
        pd.Timestamp("2010-12-01 08:26"),
        pd.Timestamp("2010-12-13 09:00"),
    ]
    assert events["invoice"].tolist() == ["536365", "536366"]
    assert events["country"].tolist() == ["United Kingdom", "EIRE"]
    assert events["quantity"].tolist() == [6, 1]
    assert events["price"].tolist() == [4.25, 0.5]
    assert events["description"].tolist() == ["RED MUG", "LAMP, £5 KIND"]
    assert (events.dtypes[["user_id", "quantity"]] == "int64").all()
    assert (events.dtypes[["country", "description"]] == "category").all()
    assert (events.dtypes[["item_id", "invoice"]] == pd.Series(["text"]).dtype).all()


def test_the_file_of_purchases_itself(tmp_path):
    folder = write_folder(tmp_path)
    pd.testing.assert_frame_equal(
        load_online_retail(folder / "purchases.csv.gz"), load_online_retail(folder)
    )


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1"])
def test_uci_layout_gives_the_same_events(encoding, tmp_path):
    # returns, missing customers and empty lines are no purchases
    expected = load_online_retail(write_folder(tmp_path / "folder"))
    events = load_online_retail(write_uci(tmp_path / "uci.csv", encoding=encoding))
    pd.testing.assert_frame_equal(events, expected)


def test_uci_layout_with_iso_dates_and_compression(tmp_path):
    text = re.sub(r"12/(\d+)/2010 (\d+):", lambda m: f"2010-12-{m[1]:0>2} {m[2]:0>2}:", UCI)
    path = tmp_path / "uci.csv.gz"
    path.write_bytes(gzip.compress(text.encode()))
    expected = load_online_retail(write_folder(tmp_path / "folder"))
    pd.testing.assert_frame_equal(load_online_retail(path), expected)


def test_missing_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone.*purchases\.csv\.gz and items\.csv"):
        load_online_retail(tmp_path / "gone")
    with pytest.raises(FileNotFoundError, match=r"purchases\.csv\.gz"):
        load_online_retail(tmp_path)
    write_folder(tmp_path)
    (tmp_path / "items.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"items\.csv.*descriptions"):
        load_online_retail(tmp_path)


def test_foreign_table(tmp_path):
    with pytest.raises(ValueError, match=r"foreign\.csv.*no column.*StockCode"):
        load_online_retail(write_uci(tmp_path / "foreign.csv", "a,b\n1,2\n"))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        gzip.compress(PURCHASES.encode())[:-30],
        PURCHASES.encode(),
        gzip.compress(PURCHASES.replace("6.0", "six").encode()),
        gzip.compress(PURCHASES.replace("2010-12-13", "2010-13-13").encode()),
        gzip.compress(PURCHASES.encode())[:-9] + b"\0" + gzip.compress(PURCHASES.encode())[-8:],
    ],
    ids=["empty", "truncated", "not compressed", "no number", "no date", "changed"],
)
def test_damaged_file(content, tmp_path):
    write_folder(tmp_path)
    (tmp_path / "purchases.csv.gz").write_bytes(content)
    with pytest.raises(ValueError, match=r"purchases\.csv\.gz' cannot be read as Online Retail"):
        load_online_retail(tmp_path)


@pytest.mark.parametrize(
    ("column", "before", "after"),
    [
        ("CustomerID", "12,0071A", "17850.9,0071A"),
        ("CustomerID", "12,0071A", ",0071A"),
        ("CustomerID", "12,0071A", "1e20,0071A"),
        ("CustomerID", "12,0071A", "9007199254740993,0071A"),
        ("Quantity", ",6.0,", ",2.7,"),
        ("Quantity", ",6.0,", ",inf,"),
    ],
)
def test_a_number_that_is_not_whole_is_an_error(column, before, after, tmp_path):
    write_folder(tmp_path)
    text = PURCHASES.replace(before, after)
    (tmp_path / "purchases.csv.gz").write_bytes(gzip.compress(text.encode()))
    with pytest.raises(
        ValueError, match=rf"column {column} holds .*, which is not an integer below 2"
    ):
        load_online_retail(tmp_path)


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zip"])
def test_compressed_and_damaged_tables(suffix, tmp_path):
    expected = load_online_retail(write_folder(tmp_path / "folder"))
    path = tmp_path / f"uci.csv{suffix}"
    if suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("uci.csv", UCI)
    else:
        compress = {".gz": gzip, ".bz2": bz2, ".xz": lzma}[suffix].compress
        path.write_bytes(compress(UCI.encode()))
    pd.testing.assert_frame_equal(load_online_retail(path), expected)
    whole, messages = path.read_bytes(), []
    for place in range(0, len(whole), 5):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            pd.testing.assert_frame_equal(load_online_retail(path), expected)
        except ValueError as error:
            messages.append(str(error))
    assert messages
    assert all("cannot be read as Online Retail" in message for message in messages)


@pytest.mark.parametrize("suffix", [".gz", ".zip"])
def test_a_table_that_unpacks_to_far_more_than_its_size_is_refused(suffix, tmp_path):
    path = tmp_path / f"uci.csv{suffix}"
    text = (UCI + UCI.splitlines()[1] * 400_000).encode()
    if suffix == ".gz":
        path.write_bytes(gzip.compress(text))
    else:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("uci.csv", text)
    with pytest.raises(ValueError, match=r"uci\.csv.*unpacks to more than 100 times its"):
        load_online_retail(path)
