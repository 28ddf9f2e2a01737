"""Many photos on one or many machines with Ray Data: read, `map_batches` with actors, Parquet (docs/ray.md).

Ray schedules; this module holds what runs in its actors, and a loop over partitions of the input that can be given
again after an interruption. Rows have the schema `wm3dr.tables.photo_schema`: a photo each, its faces in a list; a
photo that cannot be done is a row with the text of its error.
"""

import hashlib
import json
import posixpath
import time
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from .api import Reconstructor
from .files import PHOTO_SUFFIXES
from .optional import require
from .result import Result
from .tables import photo_rows

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.fs

    from .image import ImageSource

MARKER = "_SUCCESS"
"""File in a partition's folder that says it is whole; Parquet readers pass over names that begin with _."""
READERS = 4
"""Files that an actor reads at once, ahead of the network."""
BLOCKS_PER_ACTOR = 16
"""A partition is dealt out in so many pieces, at most: the actors end within a sixteenth of the time of each other."""
_PHOTO_ERRORS = (OSError, TypeError, ValueError, MemoryError)
"""What one photo can cause. Anything else, such as a lost GPU, ends the job rather than making every row an error."""


class ReconstructBatch:
    """Reconstructs batches of photos: the class to give to `ray.data.Dataset.map_batches`.

    Parameters
    ----------
    folder : str
        What the paths of the column `path` are relative to; "" where they are whole.
    filesystem : pyarrow.fs.FileSystem, optional
        Where the paths lead; None is the local one.
    threads : int
        Threads of each actor; give `map_batches` the same as `num_cpus`.
    options
        As `wm3dr.Reconstructor` takes them: `encoder`, `face_model` (paths), `providers`, `max_side`,
        `score_threshold`, `large_faces`.

    Raises
    ------
    ImportError
        pyarrow is not installed.
    FileNotFoundError, wm3dr.ModelError, RuntimeError, TypeError, ValueError
        As `wm3dr.Reconstructor`.
    """

    def __init__(
        self, *, folder: str = "", filesystem: "pa.fs.FileSystem | None" = None, threads: int = 1, **options: Any
    ) -> None:
        fs = require("pyarrow.fs", "ray")
        self._folder = folder
        self._filesystem = fs.LocalFileSystem() if filesystem is None else filesystem
        self._model = Reconstructor(threads=threads, **options)

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> "pa.Table":
        """Return a row per photo of the batch, in order (`wm3dr.tables.photo_schema`).

        Parameters
        ----------
        batch : mapping of columns
            As `batch_format="numpy"` gives it, with the photos in one of `image` (uint8 RGB arrays, as `read_images`
            gives them), `bytes` (files, as `read_binary_files`) or `path` alone, which the actor then opens; `path` is
            also the photo's name in the result.

        Raises
        ------
        ValueError
            The batch has none of these columns.
        RuntimeError
            The encoder failed, such as for a lost GPU. A photo that cannot be decoded is a row, not an exception.
        """
        column = next((name for name in ("image", "bytes", "path") if name in batch), None)
        if column is None:
            raise ValueError(f"the batch has no column 'image', 'bytes' or 'path', but {', '.join(batch) or 'none'}")
        values = list(batch[column])
        names = [str(path) for path in batch["path"]] if "path" in batch else [None] * len(values)
        results: list[Result | None] = []
        errors: list[str | None] = []
        with ThreadPoolExecutor(READERS, thread_name_prefix="wm3dr-read") as readers:
            photos = readers.map(self._read if column == "path" else lambda value: (value, None), values)
            for photo, error in photos:
                result = None
                if error is None:
                    result, error = self._reconstruct(photo)
                results.append(result)
                errors.append(error)
        return photo_rows(results, names, errors, self._model.face_model)

    def _read(self, path: str) -> tuple[bytes | None, str | None]:
        try:
            with self._filesystem.open_input_stream(posixpath.join(self._folder, str(path))) as file:
                return file.readall(), None
        except Exception as error:  # file systems raise what they like; the photo's row says it
            return None, _text(error)

    def _reconstruct(self, photo: "ImageSource | None") -> tuple[Result | None, str | None]:
        try:
            return self._model.reconstruct(photo), None  # type: ignore[arg-type]  # None is refused, as a row
        except _PHOTO_ERRORS as error:
            return None, _text(error)


@dataclass(frozen=True)
class Partition:
    """What was written for one part of the input."""

    folder: str
    """Where its Parquet files lie."""
    photos: int
    """Rows."""
    faces: int
    """Faces in them."""
    errors: int
    """Photos that could not be done."""
    seconds: float
    """Time that it took, start of the actors included."""
    digest: str
    """SHA-256 of the photos' names and the settings."""


def reconstruct_folder(
    source: str,
    output: str,
    *,
    actors: int = 2,
    threads: int = 1,
    partition_size: int = 10_000,
    batch_size: int = 16,
    overwrite: bool = False,
    actor_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> list[Partition]:
    """Reconstruct all photos below a folder into Parquet, by partitions; given again, it goes on where it was.

    OUTPUT/partition=00000, 00001, … hold `partition_size` photos each, in the order of their names, and a file
    `_SUCCESS` once they are whole; what an interruption left of a partition is removed and done again.

    Parameters
    ----------
    source, output : str
        Folders, or URIs as pyarrow knows them (s3://, gs://, hdfs://); `photo` in the rows is relative to `source`.
    actors, threads : int
        Processes of Ray, and the threads of each, which Ray counts as CPUs.
    partition_size : int
        Photos of a partition. Actors are started for each, which takes seconds: let it last minutes.
    batch_size : int
        Photos that an actor takes at once.
    overwrite : bool
        Do partitions anew that were made of other photos or with other settings; without it they are an error.
    actor_options : mapping, optional
        More for `map_batches`, such as {"num_gpus": 1}.
    options
        As `ReconstructBatch` and `wm3dr.Reconstructor` take them; JSON-able.

    Returns
    -------
    partitions : list of Partition
        All of them, also those that were there.

    Raises
    ------
    ImportError
        Ray is not installed.
    FileNotFoundError
        There is no such folder.
    ValueError
        There is no photo in it, a number is less than 1, or a partition belongs to other photos or settings.
    RuntimeError
        The encoder failed, or Ray lost rows. The partition is not marked; the next call does it again.

    Warns
    -----
    RuntimeWarning
        The actors want more CPUs than Ray has; Ray waits until the cluster has grown.
    """
    fs = require("pyarrow.fs", "ray")
    require("ray.data", "ray")
    counts = {"actors": actors, "threads": threads, "partition_size": partition_size, "batch_size": batch_size}
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"'{name}' must be a whole number of at least 1, not {count!r}")
    files, folder = fs.FileSystem.from_uri(_uri(source))
    target, place = fs.FileSystem.from_uri(_uri(output))
    names = _photos_below(files, folder, source)
    settings = json.dumps(options, sort_keys=True, default=str)
    pool = {"num_cpus": threads, **(actor_options or {})}
    done = []
    for number, start in enumerate(range(0, len(names), partition_size)):
        part = names[start : start + partition_size]
        digest = hashlib.sha256("\n".join([settings, *part]).encode()).hexdigest()
        path = posixpath.join(place, f"partition={number:05d}")
        found = _finished(target, path)
        if found is not None and found.digest != digest and not overwrite:
            raise ValueError(
                f"{path} was made of other photos or with other settings; overwrite=True does it again, "
                f"or give another 'output'"
            )
        if found is None or found.digest != digest:
            _warn_of_waiting(actors * pool["num_cpus"])
            make = {"folder": folder, "filesystem": files, "threads": threads, **options}
            found = _do_partition(part, target, path, digest, make, actors, {"batch_size": batch_size, **pool})
        done.append(found)
    return done


def _do_partition(
    names: Sequence[str],
    target: "pa.fs.FileSystem",
    path: str,
    digest: str,
    make: Mapping[str, Any],
    actors: int,
    pool: Mapping[str, Any],
) -> Partition:
    """Run one partition through Ray Data, count what was written, and mark it as whole."""
    ray_data = require("ray.data", "ray")
    pc, dataset = require("pyarrow.compute", "ray"), require("pyarrow.dataset", "ray")
    begin = time.perf_counter()
    if target.get_file_info(path).type.name != "NotFound":
        target.delete_dir(path)
    target.create_dir(path, recursive=True)
    blocks = min(-(-len(names) // pool["batch_size"]), BLOCKS_PER_ACTOR * actors)
    (
        ray_data.from_items([{"path": name} for name in names], override_num_blocks=blocks)
        .map_batches(
            ReconstructBatch,
            fn_constructor_kwargs=dict(make),
            batch_format="numpy",
            compute=ray_data.ActorPoolStrategy(size=actors),
            **pool,
        )
        .write_parquet(
            path,
            filesystem=target,
            min_rows_per_file=len(names),
            compression="zstd",
            ray_remote_args={"num_cpus": 0},  # the actors may hold every CPU
        )
    )
    written = dataset.dataset(path, filesystem=target, format="parquet").to_table(
        columns={"error": dataset.field("error"), "faces": pc.list_value_length(dataset.field("faces"))}
    )
    if written.num_rows != len(names):
        raise RuntimeError(f"{path} has {written.num_rows} rows, but {len(names)} photos went in")
    faces = pc.sum(written["faces"]).as_py() or 0
    errors = written.num_rows - written["error"].null_count
    partition = Partition(path, len(names), faces, errors, round(time.perf_counter() - begin, 3), digest)
    with target.open_output_stream(posixpath.join(path, MARKER)) as file:
        file.write(json.dumps(asdict(partition), indent=1).encode())
    return partition


def _warn_of_waiting(wanted: float) -> None:
    """Warn where Ray has fewer CPUs than the actors ask for: it says nothing, and waits for more machines."""
    ray = require("ray", "ray")
    if not ray.is_initialized():
        ray.init()
    there = ray.cluster_resources().get("CPU", 0.0)
    if wanted > there:
        warnings.warn(
            f"the actors want {wanted:g} CPUs (actors x threads), Ray has {there:g}: it waits until there are more",
            RuntimeWarning,
            stacklevel=3,
        )


def _finished(target: "pa.fs.FileSystem", path: str) -> Partition | None:
    """Return what a partition's marker says, None where there is none."""
    marker = posixpath.join(path, MARKER)
    if target.get_file_info(marker).type.name != "File":
        return None
    with target.open_input_stream(marker) as file:
        content = file.readall()
    try:
        return Partition(**json.loads(content))
    except (ValueError, TypeError):
        return None  # cut short: the partition is done again


def _photos_below(files: "pa.fs.FileSystem", folder: str, source: str) -> list[str]:
    """Return the paths of all photos, relative to the folder, sorted."""
    fs = require("pyarrow.fs", "ray")
    if files.get_file_info(folder).type.name != "Directory":
        raise FileNotFoundError(f"'source': no such folder: {source}")
    entries = files.get_file_info(fs.FileSelector(folder, recursive=True))
    names = [
        posixpath.relpath(entry.path, folder)
        for entry in entries
        if entry.type.name == "File" and posixpath.splitext(entry.path)[1].lower() in PHOTO_SUFFIXES
    ]
    if not names:
        raise ValueError(f"'source': no photo in {source} (looked for {', '.join(sorted(PHOTO_SUFFIXES))})")
    return sorted(names)


def _uri(place: str) -> str:
    """Return a URI as it is, and a local path made absolute."""
    if "://" in str(place):
        return str(place)
    from pathlib import Path

    return str(Path(place).resolve())


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
