"""Downloads that break off, mirrors that are wrong or gone, and two processes that need one file."""

import http.server
import os
import threading
import time
from hashlib import sha256

import numpy as np
import pytest

from made_up import start_together
from rank_increase import ownership
from rank_increase.data.download import download
from rank_increase.data.packed import DatasetError

CONTENT = np.random.default_rng(1).bytes(300_000)


@pytest.fixture
def server():
    """Address of a server with /good, /slow, /wrong, and /flaky, which breaks off after a third of the file."""
    requests = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            begun = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
            requests.append((self.path, begun))
            if self.path == "/missing":
                self.send_error(404)
                return
            if begun >= len(CONTENT):
                self.send_error(416)
                return
            content = (b"x" * len(CONTENT) if self.path == "/wrong" else CONTENT)[begun:]
            self.send_response(206 if begun else 200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.path == "/slow":
                time.sleep(0.5)
            self.wfile.write(content[: len(CONTENT) // 3] if self.path == "/flaky" else content)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}", requests
        httpd.shutdown()


def fetch(server, path, *names):
    return download([f"{server}/{name}" for name in names], path, sha256(CONTENT).hexdigest(), pause=0)


def test_interrupted_download_resumes_where_it_was(tmp_path, server):
    address, requests = server
    fetch(address, tmp_path / "file", "flaky")
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert [begun for _, begun in requests] == [0, 100_000, 200_000]
    fetch(address, tmp_path / "file", "flaky")
    assert len(requests) == 3  # what is there is not asked for again
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def download_slowly(barrier, address, path):
    ownership.POLL = 0.01
    barrier.wait()
    fetch(address, path, "slow")


def test_two_processes_download_a_file_once(tmp_path, server):
    address, requests = server
    assert start_together(download_slowly, address, tmp_path / "file") == [0, 0]
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert len(requests) == 1
    assert os.listdir(tmp_path) == ["file"]


def test_mirror_with_another_file_is_passed_over(tmp_path, server):
    address, requests = server
    fetch(address, tmp_path / "file", "missing", "wrong", "good")
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert [path for path, _ in requests] == ["/missing", "/wrong", "/good"]


def test_rest_of_another_file_spoils_no_mirror(tmp_path, server):
    (tmp_path / "file.part").write_bytes(b"z" * 1000)
    fetch(server[0], tmp_path / "file", "good")
    (tmp_path / "file").unlink()
    (tmp_path / "file.part").write_bytes(b"z" * (len(CONTENT) + 1))
    fetch(server[0], tmp_path / "file", "good")
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_no_mirror_is_a_sentence_that_says_what_to_do(tmp_path, server):
    with pytest.raises(DatasetError, match=r"cannot download file .*missing: .*404.*wrong: another SHA-256.*by hand"):
        fetch(server[0], tmp_path / "file", "missing", "wrong")
    assert list(tmp_path.iterdir()) == []


def test_local_file_is_a_mirror(tmp_path):
    (tmp_path / "here").write_bytes(CONTENT)
    fetch(f"file://{tmp_path}", tmp_path / "file", "here")
    assert (tmp_path / "file").read_bytes() == CONTENT
