"""Load on `wm3dr serve` over HTTP: requests per second and latencies; standard library only (docs/serve.md).

    wm3dr serve --port 8000 &
    python benches/serve_load.py PHOTO --port 8000 [--clients 1,2,4,8] [--requests 40]

Each client sends its next request when it has its answer, on one connection. Refusals (503) are counted apart and tried
again after a tenth of a second; any other answer than 200 ends the measurement.
"""

import argparse
import http.client
import statistics
import sys
import threading
import time
from pathlib import Path


def client(host: str, port: int, body: bytes, left: list[int], lock: threading.Lock, times: list[float]) -> int:
    """Send requests until none are left; append the seconds of each answer, return the number of refusals."""
    connection, refused = http.client.HTTPConnection(host, port, timeout=120), 0
    try:
        while True:
            with lock:
                if not left[0]:
                    return refused
                left[0] -= 1
            while True:
                begin = time.perf_counter()
                connection.request("POST", "/reconstruct", body, {"Content-Type": "application/octet-stream"})
                response = connection.getresponse()
                content = response.read()
                if response.status == 200:
                    times.append(time.perf_counter() - begin)
                    break
                if response.status != 503:
                    raise RuntimeError(f"HTTP {response.status}: {content[:200]!r}")
                refused += 1
                time.sleep(0.1)
    finally:
        connection.close()


def measure(host: str, port: int, body: bytes, clients: int, requests: int) -> tuple[float, list[float], int]:
    """Return requests per second, the sorted seconds of each, and the number of refusals."""
    left, lock, times, refusals = [requests], threading.Lock(), [], []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            refusals.append(client(host, port, body, left, lock, times))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(clients)]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return requests / (time.perf_counter() - begin), sorted(times), sum(refusals)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photo", type=Path)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--clients", default="1,2,4,8")
    parser.add_argument("--requests", type=int, default=40)
    options = parser.parse_args()
    body = options.photo.read_bytes()
    try:
        measure(options.host, options.port, body, 1, 2)  # warm
    except (OSError, RuntimeError) as error:
        sys.exit(f"error: {options.host}:{options.port}: {error}")
    print(f"{options.photo.name}, {len(body)} bytes, {options.requests} requests")
    print("| clients | requests/s | p50 ms | p95 ms | refused |\n|---|---|---|---|---|")
    for clients in map(int, options.clients.split(",")):
        rate, times, refused = measure(options.host, options.port, body, clients, options.requests)
        p95 = times[min(len(times) - 1, round(0.95 * len(times)) - 1)]
        print(f"| {clients} | {rate:.1f} | {1e3 * statistics.median(times):.0f} | {1e3 * p95:.0f} | {refused} |")


if __name__ == "__main__":
    main()
