import gzip
import hashlib
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from whorl.datasets import fetch
from whorl.datasets.fetch import BENCHMARKS, CHECKSUMS, Benchmark, download, fetch_benchmark
from whorl.errors import InputError, WhorlError

TABLE = b",material_id,cif,heat_all\n" + b"".join(b"%d,m-%d,text,0.5\n" % (i, i) for i in range(20_000))
FILES = {"train.csv": TABLE, "val.csv": TABLE[:5000], "test.csv": TABLE[:3000]}


def sha256(content):
    return hashlib.sha256(content).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves FILES; can break off, refuse ranges, and fail."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = dict(FILES)
        self.asked = []  # path and Range of each request
        self.break_after = []  # bytes after which the next answers end, in turn
        self.statuses = []  # errors that the next answers are, in turn
        self.ranges = True

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server, name = self.server, self.path.rpartition("/")[2]
        asked = self.headers.get("Range")
        server.asked.append((name, asked))
        if server.statuses:
            return self.send_error(server.statuses.pop(0))
        content = server.files.get(name)
        if content is None:
            return self.send_error(404)
        start = 0
        if asked and server.ranges:
            start = int(re.fullmatch(r"bytes=(\d+)-", asked).group(1))
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return None
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        stop = server.break_after.pop(0) if server.break_after else None
        self.wfile.write(content[start:] if stop is None else content[start : start + stop])
        return None

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(fetch.time, "sleep", lambda seconds: None)
    with Server() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def tiny(server, monkeypatch):
    """Have a benchmark on the local server: two files with known checksums, one without."""
    sums = {name: sha256(content) for name, content in FILES.items()}
    benchmark = Benchmark(
        address=f"{server.address}/commit/tiny",
        sha256={**sums, "test.csv": None},
        licence="MIT",
    )
    monkeypatch.setitem(BENCHMARKS, "tiny", benchmark)
    return benchmark


def only(folder, *names):
    return {path.name for path in folder.iterdir()} == set(names)


def test_every_file_arrives_and_is_not_fetched_twice(server, tiny, tmp_path):
    said = []
    paths = fetch_benchmark("tiny", tmp_path, progress=lambda done, total: said.append((done, total)))
    assert [path.name for path in paths] == list(FILES)
    assert [path.read_bytes() for path in paths] == list(FILES.values())
    assert said[-1] == (3000, 3000) and (len(TABLE), len(TABLE)) in said
    assert only(tmp_path / "tiny", *FILES, CHECKSUMS)
    asked = len(server.asked)
    assert fetch_benchmark("tiny", tmp_path) == paths
    assert len(server.asked) == asked


def test_a_broken_transfer_goes_on_where_it_stopped(server, tmp_path):
    server.break_after = [100_000, 50_000]
    path = tmp_path / "train.csv"
    download(f"{server.address}/train.csv", path, sha256=sha256(TABLE))
    assert path.read_bytes() == TABLE
    assert [asked for _, asked in server.asked] == [None, "bytes=100000-", "bytes=150000-"]
    assert only(tmp_path, "train.csv")


def test_what_was_received_serves_the_next_call(server, tmp_path):
    path, url = tmp_path / "train.csv", f"{server.address}/train.csv"
    server.break_after = [100_000, 0]
    with pytest.raises(WhorlError, match="The 100000 bytes received are kept"):
        download(url, path, attempts=1)
    assert not path.exists()
    download(url, path, sha256=sha256(TABLE))
    assert path.read_bytes() == TABLE
    assert server.asked[-1] == ("train.csv", "bytes=100000-")


def test_a_server_without_ranges_sends_all_again(server, tmp_path):
    server.ranges, server.break_after = False, [100_000]
    path = tmp_path / "train.csv"
    download(f"{server.address}/train.csv", path, sha256=sha256(TABLE))
    assert path.read_bytes() == TABLE


def test_a_server_that_always_breaks_off_is_given_up(server, tmp_path):
    server.ranges, server.break_after = False, [100_000] * 20
    with pytest.raises(WhorlError, match=r"the connection ended after 100000 bytes.*run the same command"):
        download(f"{server.address}/train.csv", tmp_path / "train.csv")
    assert len(server.asked) == 5  # the first brought something, four did not


@pytest.mark.parametrize("extra", [b"", b"more than the file has"])
def test_a_part_that_is_whole_or_too_long(server, tmp_path, extra):
    path, url = tmp_path / "val.csv", f"{server.address}/val.csv"
    server.break_after = [1000, 0]
    with pytest.raises(WhorlError):
        download(url, path, attempts=1)
    (part,) = tmp_path.glob(".*.part")
    part.write_bytes(FILES["val.csv"] + extra)
    download(url, path, sha256=sha256(FILES["val.csv"]))
    assert path.read_bytes() == FILES["val.csv"]


def test_a_wrong_checksum_leaves_nothing(server, tiny, tmp_path):
    server.files["train.csv"] = TABLE.replace(b"0.5", b"0.6")
    with pytest.raises(InputError, match=f"expected {sha256(TABLE)}.*run the same command again"):
        fetch_benchmark("tiny", tmp_path)
    assert only(tmp_path / "tiny")


def test_the_first_checksum_is_remembered_where_none_is_known(server, tiny, tmp_path):
    fetch_benchmark("tiny", tmp_path)
    path = tmp_path / "tiny" / "test.csv"
    path.write_bytes(path.read_bytes() + b"1,2\n")
    with pytest.raises(InputError, match=f"test.csv: got .*expected {sha256(FILES['test.csv'])}.*Move it"):
        fetch_benchmark("tiny", tmp_path)
    path.unlink()
    server.files["test.csv"] = TABLE[:2000]
    with pytest.raises(InputError, match=f"expected {sha256(FILES['test.csv'])}"):
        fetch_benchmark("tiny", tmp_path)
    server.files = dict(FILES)
    fetch_benchmark("tiny", tmp_path)


def test_a_login_page_is_no_data(server, tiny, tmp_path):
    server.files["test.csv"] = b"<html>Please log in</html>"
    with pytest.raises(InputError, match=r"begins with '<html>Please log in.*column 'cif'"):
        fetch_benchmark("tiny", tmp_path)
    assert not (tmp_path / "tiny" / "test.csv").exists()
    server.files = dict(FILES)
    fetch_benchmark("tiny", tmp_path)


def test_a_missing_file_is_not_asked_for_again(server, tmp_path):
    with pytest.raises(WhorlError, match=r"got '404 Not Found', expected a file\. Remedy: .*put a copy at"):
        download(f"{server.address}/none.csv", tmp_path / "none.csv")
    assert len(server.asked) == 1


def test_a_server_in_trouble_is_asked_again(server, tmp_path):
    server.statuses = [503, 500]
    download(f"{server.address}/val.csv", tmp_path / "val.csv")
    assert (tmp_path / "val.csv").read_bytes() == FILES["val.csv"]
    server.statuses = [503] * 9
    with pytest.raises(WhorlError, match="the server answered '503"):
        download(f"{server.address}/val.csv", tmp_path / "again.csv")


def test_without_a_network_the_remedy_is_told(server, tmp_path):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    with pytest.raises(WhorlError, match=r"cannot be downloaded \(.*refused.*Expected a network connection"):
        download(f"http://127.0.0.1:{port}/x.csv", tmp_path / "x.csv")
    assert only(tmp_path)


def test_files_put_there_by_hand_are_verified(server, tiny, tmp_path):
    folder = tmp_path / "tiny"
    folder.mkdir()
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    fetch_benchmark("tiny", tmp_path)
    assert server.asked == []
    (folder / "val.csv").write_bytes(b"other")
    with pytest.raises(InputError, match=r"val\.csv: got a file with SHA-256"):
        fetch_benchmark("tiny", tmp_path)


def test_unknown_names_are_told(tmp_path):
    with pytest.raises(InputError, match=r"unknown benchmark 'mp20'\. Did you mean 'mp_20'"):
        fetch_benchmark("mp20", tmp_path)


def test_every_address_names_a_commit():
    assert set(BENCHMARKS) >= {"perov_5", "carbon_24", "mp_20", "mpts_52"}
    for name in ("perov_5", "carbon_24", "mp_20", "mpts_52"):
        benchmark = BENCHMARKS[name]
        assert re.fullmatch(rf"https://\S+/[0-9a-f]{{40}}/data/{name}", benchmark.address)
        assert set(benchmark.sha256) == {"train.csv", "val.csv", "test.csv"}
        assert all(
            known is None or re.fullmatch("[0-9a-f]{64}", known) for known in benchmark.sha256.values()
        )


@pytest.mark.parametrize("name", ["perov_5", "carbon_24"])
def test_checksums_are_those_of_the_real_files(shared_data, name):
    content = gzip.decompress((shared_data / f"{name}_val.csv.gz").read_bytes())
    assert sha256(content) == BENCHMARKS[name].sha256["val.csv"]


def test_a_table_without_structures_is_known_by_its_own_column(server, monkeypatch, tmp_path):
    server.files["energies.csv"] = b"formula,target\nNaCl,-2.0\n"
    server.files["login.csv"] = b"<html>\n"
    for name, file in (("hull", "energies.csv"), ("login", "login.csv")):
        benchmark = Benchmark(
            address=f"{server.address}/x", sha256={file: None}, licence="MIT", column="formula"
        )
        monkeypatch.setitem(BENCHMARKS, name, benchmark)
    assert fetch_benchmark("hull", tmp_path)[0].read_bytes() == server.files["energies.csv"]
    with pytest.raises(InputError, match="a column 'formula'"):
        fetch_benchmark("login", tmp_path)
