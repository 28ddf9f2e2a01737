"""The HTTP server over loopback: answers, every limit, and a server that goes on after all of it."""

import http.client
import io
import json
import socket
import struct
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import PIL.Image
import pytest
from click.testing import CliRunner

from wm3dr.cli import main
from wm3dr.serve import Limits, create_app

pytest.importorskip("fastapi", reason="fastapi is not installed: pip install 'wm3dr[serve]'")
uvicorn = pytest.importorskip("uvicorn", reason="uvicorn is not installed: pip install 'wm3dr[serve]'")


def encoded(photo, suffix="PNG", **options):
    stream = io.BytesIO()
    PIL.Image.fromarray(photo).save(stream, suffix, **options)
    return stream.getvalue()


class Server:
    """The application on a free port of loopback, in a thread."""

    def __init__(self, model, **limits):
        self.app = create_app(model, Limits(**limits))
        self._server = uvicorn.Server(uvicorn.Config(self.app, host="127.0.0.1", port=0, log_level="error"))
        self._thread = threading.Thread(target=self._server.run)

    def __enter__(self):
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        self.port = self._server.servers[0].sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_):
        self._server.should_exit = True
        self._thread.join(20)

    def ask(self, method="POST", path="/reconstruct", body=None, headers=None, **options):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, headers or {}, **options)
            response = connection.getresponse()
            return response.status, response.read(), response.headers
        finally:
            connection.close()

    def detail(self, *arguments, **options):
        status, content, _ = self.ask(*arguments, **options)
        return status, json.loads(content)["detail"]


class Slow:
    """A reconstructor that waits for an event before each photo."""

    def __init__(self, model):
        self.model, self.go, self.running, self.most = model, threading.Event(), 0, 0
        self.provider, self.face_model = model.provider, model.face_model

    def reconstruct(self, body):
        self.running += 1
        self.most = max(self.most, self.running)
        self.go.wait(20)
        self.running -= 1
        return self.model.reconstruct(body)


@pytest.fixture(scope="module")
def server(reconstructor):
    with Server(reconstructor, max_bytes=200_000, max_pixels=100_000, receive_seconds=0.5) as running:
        yield running


def test_json_is_that_of_the_library(server, reconstructor, photo):
    for suffix in ("PNG", "JPEG", "WEBP"):
        body = encoded(photo, suffix)
        status, content, headers = server.ask(body=body)
        assert status == 200 and headers["content-type"] == "application/json"
        answer, wanted = json.loads(content), reconstructor.reconstruct(body).to_dict()
        assert answer.pop("timings").keys() == wanted.pop("timings").keys()
        assert answer == wanted and (len(answer["faces"]) == 3 or suffix != "PNG")
    status, content, _ = server.ask(body=encoded(np.zeros((64, 96, 3), np.uint8)))
    assert status == 200 and json.loads(content)["faces"] == []


def test_glb(server, photo):
    status, content, headers = server.ask(path="/reconstruct?format=glb", body=encoded(photo))
    assert status == 200 and headers["content-type"] == "model/gltf-binary"
    assert struct.unpack_from("<III", content) == (0x46546C67, 2, len(content))
    assert server.ask(path="/reconstruct?format=exe", body=encoded(photo))[0] == 422


def test_health(server):
    status, content, _ = server.ask("GET", "/health")
    answer = json.loads(content)
    assert status == 200 and answer["status"] == "ok" and answer["provider"] == "CPUExecutionProvider"
    assert (answer["requests"], answer["most_requests"]) == (0, 17)


def png_header(width, height):
    """A PNG file that claims a size and holds next to nothing."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_bad_photos(server, photo):
    good = encoded(photo)
    assert server.detail(body=b"") == (400, "the body is empty; send the bytes of an image file")
    assert server.detail(body=b"not a photo") == (415, "the body is no JPEG, PNG or WEBP file")
    assert server.detail(body=encoded(photo, "TIFF"))[0] == 415
    assert server.detail(body=b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")[0] == 415
    status, detail = server.detail(body=good[: len(good) // 2])
    assert status == 422 and "cannot be decoded" in detail
    assert server.detail(body=png_header(500, 400)) == (413, "the photo is 500 x 400, more than 100000 pixels")
    assert server.ask("GET", "/reconstruct")[0] == 405 and server.ask("GET", "/../etc/passwd")[0] == 404
    assert server.ask(body=good)[0] == 200


def test_paths_are_never_opened(server, photo, tmp_path):
    """A path or an address is a body that is no photo, also as query, form or JSON."""
    file = tmp_path / "photo.png"
    file.write_bytes(encoded(photo))
    for body in (str(file), f"file://{file}", json.dumps({"path": str(file), "url": "http://localhost/"})):
        assert server.detail(body=body)[0] == 415
    assert server.detail(path=f"/reconstruct?path={file}", body=b"")[0] == 400


def test_large_bodies_are_stopped(server):
    assert server.detail(body=b"x" * 200_001) == (413, "the photo is larger than 200000 bytes")
    chunks = iter([b"x" * 65536] * 5)  # no Content-Length: counted as they come
    status, _, headers = server.ask(body=chunks, encode_chunked=True, headers={"Transfer-Encoding": "chunked"})
    assert status == 413 and headers["connection"] == "close"


def test_a_body_that_trickles_times_out(server):
    begin = time.monotonic()
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as line:
        line.sendall(b"POST /reconstruct HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc")
        answer = line.recv(4096)
    assert b" 408 " in answer.split(b"\r\n")[0] and 0.4 < time.monotonic() - begin < 8
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as line:
        line.sendall(b"POST /reconstruct HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc")  # and gone
    wait_for_rest(server)


def wait_for_rest(server):
    deadline = time.monotonic() + 10
    while json.loads(server.ask("GET", "/health")[1])["requests"]:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_requests_at_once_are_bounded(reconstructor, photo):
    """Two at work, one waits, the rest is refused at once; all who were let in get their answer."""
    slow, body = Slow(reconstructor), encoded(photo)
    with Server(slow, workers=2, queue=1) as server, ThreadPoolExecutor(8) as clients:
        asked = [clients.submit(server.ask, body=body) for _ in range(8)]
        deadline = time.monotonic() + 10
        while sum(job.done() for job in asked) < 5 and time.monotonic() < deadline:
            time.sleep(0.02)
        refused = [job.result() for job in asked if job.done()]
        assert [status for status, _, _ in refused] == [503] * 5
        assert all(headers["retry-after"] == "1" for _, _, headers in refused)
        slow.go.set()
        assert sorted(job.result()[0] for job in asked) == [200] * 3 + [503] * 5
        assert slow.most == 2
        wait_for_rest(server)


def test_answers_that_take_too_long(reconstructor, photo):
    """504; what runs keeps its place until it ends, what waits is dropped, and then the server goes on."""
    slow, body = Slow(reconstructor), encoded(photo)
    with Server(slow, workers=1, queue=1, answer_seconds=0.3) as server, ThreadPoolExecutor(2) as clients:
        late = list(clients.map(lambda _: server.detail(body=body), range(2)))
        assert late == [(504, "no answer within 0.3 s")] * 2
        assert json.loads(server.ask("GET", "/health")[1])["requests"] == 1
        slow.go.set()
        wait_for_rest(server)
        assert slow.most == 1
    with Server(reconstructor) as server:
        assert server.ask(body=body)[0] == 200


def test_failures_of_the_model_say_nothing_about_the_machine(reconstructor, photo):
    class Broken(Slow):
        def reconstruct(self, body):
            raise RuntimeError("/secret/place/model.onnx")

    with Server(Broken(reconstructor)) as server:
        assert server.detail(body=encoded(photo)) == (500, "the model failed: RuntimeError")


def test_bad_settings(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="'workers' must be above 0, not 0"):
        Limits(workers=0)
    with pytest.raises(ValueError, match="'answer_seconds' must be above 0, not nan"):
        Limits(answer_seconds=float("nan"))
    failed = CliRunner().invoke(main, ["serve", "--encoder", str(tmp_path / "absent.onnx")])
    assert failed.exit_code == 1 and "absent.onnx: no such file" in failed.output
    monkeypatch.setitem(sys.modules, "fastapi", None)
    with pytest.raises(ImportError, match=r"'fastapi' is not installed: pip install 'wm3dr\[serve\]'"):
        create_app(None)
