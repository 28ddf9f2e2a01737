"""The HTTP face: a photo in, its faces out (docs/serve.md). FastAPI is imported when the application is made.

Thin: it bounds what a client may ask for and calls `Reconstructor.reconstruct` on the bytes of the body. It opens no
path, fetches no address and keeps nothing.
"""

import asyncio
import io
import json
from collections.abc import AsyncIterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from ._native import ModelError
from .api import Reconstructor
from .optional import require

if TYPE_CHECKING:
    from fastapi import FastAPI, Request

FORMATS = ("JPEG", "PNG", "WEBP")
"""Image formats that are taken; Pillow knows others whose readers start programs or are little tested."""
JSON, GLB = "application/json", "model/gltf-binary"


@dataclass(frozen=True)
class Limits:
    """What a client may ask for.

    Raises
    ------
    ValueError
        A limit is not above zero (`queue` may be zero).
    """

    max_bytes: int = 20_000_000
    """Largest body."""
    max_pixels: int = 50_000_000
    """Largest width times height of a photo, looked up before it is decoded."""
    workers: int = 1
    """Photos in work at once."""
    queue: int = 16
    """Requests that may wait beside those in work; more are refused at once (503)."""
    receive_seconds: float = 15.0
    """Time for a body to arrive (408)."""
    answer_seconds: float = 60.0
    """Time from the body's arrival to the answer, waiting included (504)."""

    def __post_init__(self) -> None:
        for limit in fields(self):
            value = getattr(self, limit.name)
            if not value >= (0 if limit.name == "queue" else 1e-3):
                raise ValueError(f"'{limit.name}' must be above 0, not {value!r}")


class _Refused(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail


class _Desk:
    """Counts requests and runs photos on a bounded number of threads."""

    def __init__(self, model: Reconstructor, limits: Limits) -> None:
        self.model, self.limits = model, limits
        self.present = 0
        """Requests whose body is arriving, that wait or are in work, threads that outlived their request included."""
        self._threads = ThreadPoolExecutor(limits.workers, thread_name_prefix="wm3dr-serve")

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def handle(self, request: "Request", kind: str) -> tuple[bytes, str]:
        """Return the body and the media type of the answer; _Refused where there is none."""
        if self.present >= self.limits.workers + self.limits.queue:
            raise _Refused(503, "too many requests at once; try again in a second")
        self.present += 1
        job: Future[tuple[bytes, str]] | None = None
        try:
            try:
                async with asyncio.timeout(self.limits.receive_seconds):
                    body = await self._receive(request)
            except TimeoutError:
                raise _Refused(408, f"the photo did not arrive within {self.limits.receive_seconds:g} s") from None
            loop = asyncio.get_running_loop()
            job = self._threads.submit(self._answer, body, kind)
            job.add_done_callback(lambda _: loop.call_soon_threadsafe(self._leave))
            try:
                return await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(job)), self.limits.answer_seconds)
            except TimeoutError:
                job.cancel()  # what waits is dropped; what runs cannot be stopped and keeps its place until it ends
                raise _Refused(504, f"no answer within {self.limits.answer_seconds:g} s") from None
        finally:
            if job is None:
                self._leave()

    def _leave(self) -> None:
        self.present -= 1

    async def _receive(self, request: "Request") -> bytes:
        """Read the body, and stop at the first byte too many."""
        from starlette.requests import ClientDisconnect

        most = self.limits.max_bytes
        too_large = _Refused(413, f"the photo is larger than {most} bytes")
        length = request.headers.get("content-length", "")
        if length.isdigit() and int(length) > most:
            raise too_large
        body = bytearray()
        try:
            async for chunk in request.stream():
                if len(body) + len(chunk) > most:
                    raise too_large
                body += chunk
        except ClientDisconnect:
            raise _Refused(400, "the connection ended before the photo had arrived") from None
        if not body:
            raise _Refused(400, "the body is empty; send the bytes of an image file")
        return bytes(body)

    def _answer(self, body: bytes, kind: str) -> tuple[bytes, str]:
        """Do a photo, on a thread."""
        self._check(body)
        try:
            result = self.model.reconstruct(body)
        except ValueError as error:
            raise _Refused(422, str(error)) from error
        if kind == "glb":
            from .export import glb_from_faces

            return glb_from_faces(result.faces, result.camera), GLB
        return json.dumps(result.to_dict(), allow_nan=False, separators=(",", ":")).encode(), JSON

    def _check(self, body: bytes) -> None:
        """Look at the header of the file: its format and size."""
        import PIL.Image

        try:
            with PIL.Image.open(io.BytesIO(body), formats=FORMATS) as image:
                width, height = image.size
        except PIL.Image.DecompressionBombError:
            raise _Refused(413, f"the photo has more than {self.limits.max_pixels} pixels") from None
        except Exception as error:  # readers of broken headers raise what they like
            raise _Refused(415, f"the body is no {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file") from error
        if width * height > self.limits.max_pixels:
            raise _Refused(413, f"the photo is {width} x {height}, more than {self.limits.max_pixels} pixels")


def create_app(model: Reconstructor, limits: Limits | None = None) -> "FastAPI":
    """Return the application: POST /reconstruct and GET /health.

    Parameters
    ----------
    model : Reconstructor
        What does the photos.
    limits : Limits, optional
        None takes the defaults.

    Raises
    ------
    ImportError
        FastAPI is not installed.
    """
    fastapi = require("fastapi", "serve")
    from fastapi import Request, Response
    from fastapi.responses import JSONResponse

    from . import __version__

    desk = _Desk(model, limits or Limits())

    @asynccontextmanager
    async def lifespan(_app: Any) -> AsyncIterator[None]:
        yield
        desk.close()

    app: FastAPI = fastapi.FastAPI(title="wm3dr", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan)

    async def reconstruct(request: Request, format: Literal["json", "glb"] = "json") -> Response:
        """The body is the photo, a JPEG, PNG or WebP file; the answer `Result.to_dict` as JSON, or a GLB scene."""
        try:
            content, media_type = await desk.handle(request, format)
        except _Refused as refused:
            headers = {"Retry-After": "1"} if refused.status == 503 else {}
            if refused.status in (408, 413):
                headers["Connection"] = "close"  # the rest of the body is not read
            return JSONResponse({"detail": refused.detail}, refused.status, headers)
        except (ModelError, RuntimeError) as error:
            return JSONResponse({"detail": f"the model failed: {type(error).__name__}"}, 500)
        return Response(content, media_type=media_type)

    async def health() -> dict[str, Any]:
        return {
            "status": "ok",
            "version": __version__,
            "provider": model.provider,
            "face_model": model.face_model.name,
            "requests": desk.present,
            "most_requests": desk.limits.workers + desk.limits.queue,
        }

    app.add_api_route("/reconstruct", reconstruct, methods=["POST"], summary="Every face of a photo, in 3D")
    app.add_api_route("/health", health, summary="What runs, and how busy it is")
    return app


def run(app: "FastAPI", host: str, port: int, limits: Limits) -> None:
    """Serve the application with uvicorn until interrupted; connections are bounded too.

    Raises
    ------
    ImportError
        uvicorn is not installed.
    """
    uvicorn = require("uvicorn", "serve")
    uvicorn.run(
        app,
        host=host,
        port=port,
        limit_concurrency=limits.workers + limits.queue + 16,  # room for /health and for refusals
        timeout_keep_alive=5,
        timeout_graceful_shutdown=10,
        server_header=False,
    )
