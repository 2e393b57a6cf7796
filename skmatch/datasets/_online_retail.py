"""UCI Online Retail: the purchases of a British online retailer."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pandas as pd

from skmatch.datasets._unpacking import as_value_error, read_unpacked

_PURCHASES, _ITEMS = "purchases.csv.gz", "items.csv"
_DTYPES = {
    "InvoiceNo": "str",
    "StockCode": "str",
    "InvoiceDate": "str",
    "Country": "str",
    "Quantity": "float64",
    "UnitPrice": "float64",
    "CustomerID": "float64",
}


def load_online_retail(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read UCI Online Retail, a year of purchases of gifts, into one table of events.

    Parameters
    ----------
    path : str or path-like
        One of:

        - a folder that holds ``purchases.csv.gz`` (`CustomerID`, `StockCode`, `InvoiceNo`,
          `InvoiceDate`, `Country`, `Quantity`, `UnitPrice`) and ``items.csv`` (`StockCode`,
          `description`);
        - that ``purchases.csv.gz`` itself, with ``items.csv`` beside it;
        - UCI's table saved as csv (the columns above and `Description`). Rows without a customer,
          cancelled invoices and quantities below 1 are dropped.

    Returns
    -------
    events : pandas.DataFrame
        One row per line of an invoice, in the order of the file, with the columns

        - `user_id` : int64
        - `item_id` : str
        - `timestamp` : datetime64
        - `invoice` : str
        - `country` : categorical of str
        - `quantity` : int64
        - `price` : float64, per piece in pounds
        - `description` : categorical of str

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If the file has other columns, or cannot be read.

    References
    ----------
    .. [1] Daqing Chen (2015). Online Retail. UCI Machine Learning Repository.
       https://doi.org/10.24432/C5BW33

    Examples
    --------
    >>> from skmatch.datasets import load_online_retail
    >>> events = load_online_retail("online-retail")  # doctest: +SKIP
    """
    path = Path(path).expanduser()
    file = path / _PURCHASES if path.is_dir() else path
    _require_file(file, f"pass a folder with {_PURCHASES} and {_ITEMS}, or UCI's table as csv")
    with as_value_error(
        f"{str(file)!r} cannot be read as Online Retail",
        f"Pass a csv file with the columns {', '.join(_DTYPES)}, and Description or an {_ITEMS} "
        "beside it.",
    ):
        raw = _read(file)
        if "Description" in raw:
            raw = _drop_non_purchases(raw)
        else:
            raw["Description"] = raw["StockCode"].map(_descriptions(file.with_name(_ITEMS)))
        return pd.DataFrame(
            {
                "user_id": _whole_numbers(raw["CustomerID"]),
                "item_id": raw["StockCode"],
                "timestamp": pd.to_datetime(raw["InvoiceDate"]),
                "invoice": raw["InvoiceNo"],
                "country": raw["Country"].astype("category"),
                "quantity": _whole_numbers(raw["Quantity"]),
                "price": raw["UnitPrice"],
                "description": raw["Description"].astype("category"),
            }
        )


def _require_file(file: Path, remedy: str) -> None:
    if not file.is_file():
        raise FileNotFoundError(f"{str(file)!r} does not exist: {remedy}.")


def _read(file: Path) -> pd.DataFrame:
    dtypes = _DTYPES | {"Description": "str"}
    content = read_unpacked(file)
    # Copies of UCI's table exist in UTF-8 and in Latin-1.
    for encoding in ("utf-8", "latin-1"):
        content.seek(0)
        with suppress(UnicodeDecodeError):
            raw = pd.read_csv(
                content, usecols=lambda name: name in dtypes, dtype=dtypes, encoding=encoding
            )
            break
    missing = [name for name in _DTYPES if name not in raw]
    if missing:
        raise ValueError(f"It has no column {', '.join(missing)}.")
    return raw


def _whole_numbers(column: pd.Series) -> pd.Series:
    is_whole = (column % 1 == 0) & (column.abs() < 2**53)  # larger floats are rounded
    if not is_whole.all():
        value = column[~is_whole].iloc[0]
        raise ValueError(f"column {column.name} holds {value}, which is not an integer below 2**53")
    return column.astype("int64")


def _drop_non_purchases(raw: pd.DataFrame) -> pd.DataFrame:
    is_cancelled = raw["InvoiceNo"].str.startswith("C")
    is_purchase = raw["CustomerID"].notna() & ~is_cancelled & (raw["Quantity"] > 0)
    return raw[is_purchase].reset_index(drop=True)


def _descriptions(file: Path) -> pd.Series:
    _require_file(file, f"it holds the descriptions of the items, next to {_PURCHASES}")
    return pd.read_csv(
        file, usecols=["StockCode", "description"], dtype="str", index_col="StockCode"
    )["description"]
