"""Videos in and out: frames, times, sound, and what happens to broken files, existing files and interruptions."""

import json
import sys
from fractions import Fraction

import numpy as np
import pytest
from builders import photo_with_faces
from click.testing import CliRunner

import wm3dr
from wm3dr.cli import main

av = pytest.importorskip("av", reason="PyAV is not installed: pip install 'wm3dr[video]'")

from wm3dr import video as video_module  # noqa: E402
from wm3dr.video import VideoReader, VideoWriter, Webcam, read_video, video_encoder, webcam  # noqa: E402
from wm3dr.video_overlay import draw_frame  # noqa: E402
from wm3dr.video_tracking import track_video  # noqa: E402

SIZE, FPS, N = (236, 180), 25, 20
TICKS = 512  # of 1/12800 s: a frame at 25/s


def frames(n=N, size=SIZE):
    """Two planted faces, one of which moves a cell to the right every third frame."""
    return [photo_with_faces(size, [(5 + k // 3, 7, 250, 0), (22, 15, 200, 128)]) for k in range(n)]


def write(path, images, *, pts=None, sound=False, encoder="libx264", **options):
    """Write a clip with PyAV itself; nearly lossless, so that planted faces stay what they are."""
    with av.open(str(path), "w", **options) as container:
        stream = container.add_stream(encoder, rate=FPS, options={"crf": "1"})
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = "yuv444p"
        stream.codec_context.time_base = Fraction(1, 12800)
        audio = container.add_stream("aac", rate=44100, layout="mono") if sound else None
        for k, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = (TICKS * k if pts is None else pts[k]), Fraction(1, 12800)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if audio is not None:
            tone = (8000 * np.sin(np.arange(32 * 1024) * 0.06)).astype(np.int16)
            for k in range(32):
                samples = av.AudioFrame.from_ndarray(tone[None, k * 1024 : (k + 1) * 1024], format="s16", layout="mono")
                samples.sample_rate, samples.pts = 44100, k * 1024
                container.mux(audio.encode(samples))
            container.mux(audio.encode())
    return path


@pytest.fixture
def clip(tmp_path):
    return write(tmp_path / "clip.mp4", frames())


@pytest.fixture
def run(encoder, face_model):
    """Run `wm3dr video` with the planted encoder."""

    def invoke(*arguments):
        models = ["--encoder", str(encoder), "--face-model", str(face_model.path), "--threads", "1"]
        return CliRunner().invoke(main, ["video", *map(str, arguments), *models])

    return invoke


def read_back(path):
    with av.open(str(path)) as container:
        decoded = list(container.decode(video=0))
        stream = container.streams.video[0]
        sound = [s.codec_context.name for s in container.streams.audio]
        return [f.to_ndarray(format="rgb24") for f in decoded], [f.time for f in decoded], stream.average_rate, sound


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_round_trip_of_a_small_video(run, clip, tmp_path):
    done = run(clip, "-o", tmp_path / "out.mp4", "--save", "overlay,json")
    assert done.exit_code == 0, done.output
    assert "20 frames, 2 ids," in done.output
    images, times, rate, sound = read_back(tmp_path / "out.mp4")
    assert len(images) == N and images[0].shape == (180, 236, 3) and rate == FPS and sound == []
    np.testing.assert_allclose(times, np.arange(N) / FPS, atol=1e-4)
    assert all(np.abs(a.astype(int) - b).max() > 60 for a, b in zip(images, frames(), strict=True))
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["frame"] for line in lines] == list(range(N))
    np.testing.assert_allclose([line["time"] for line in lines], np.arange(N) / FPS, atol=1e-9)
    assert all(sorted(face["id"] for face in line["faces"]) == [0, 1] for line in lines)
    moving = [next(face["center"][0] for face in line["faces"] if face["id"] == 0) for line in lines]
    assert moving == [(5 + k // 3 + 0.5) * 8 for k in range(N)]


def test_frames_and_times_of_a_variable_frame_rate(tmp_path):
    pts = [1000, 1512, 3560, 3700, 9000]
    path = write(tmp_path / "uneven.mkv", frames(5), pts=pts)
    read = list(read_video(path))
    np.testing.assert_allclose([f.time for f in read], (np.array(pts) - pts[0]) / 12800, atol=1.1e-3)  # mkv: ms
    assert all(np.abs(f.image.astype(int) - image).mean() < 3 for f, image in zip(read, frames(5), strict=True))
    out = tmp_path / "out.mp4"
    track_video(path, out, NoFaces())
    _, times, _, _ = read_back(out)
    np.testing.assert_allclose(np.subtract(times, times[0]), (np.array(pts) - pts[0]) / 12800, atol=1.1e-3)


class NoFaces(wm3dr.Tracker):
    """Finds nobody, quickly."""

    def update(self, image, time, *, color="rgb"):
        camera = wm3dr.Camera(1000.0, (image.shape[1] / 2, image.shape[0] / 2), (image.shape[1], image.shape[0]))
        return wm3dr.TrackedResult((), camera, camera.size, "none", {}, None, time)


def test_sound_is_passed_through(clip, tmp_path):
    loud = write(tmp_path / "loud.mp4", frames(), sound=True)
    track_video(loud, tmp_path / "out.mp4", NoFaces())
    track_video(loud, tmp_path / "mute.mp4", NoFaces(), audio=False)
    assert read_back(tmp_path / "out.mp4")[3] == ["aac"] and read_back(tmp_path / "mute.mp4")[3] == []

    def packets(path):
        with av.open(str(path)) as container:
            return [bytes(p) for p in container.demux(audio=0) if p.size]

    assert packets(tmp_path / "out.mp4") == packets(loud)


def test_sound_that_the_container_cannot_hold(tmp_path):
    loud = tmp_path / "loud.avi"
    with av.open(str(loud), "w") as container:
        stream, audio = container.add_stream("mpeg4", rate=FPS), container.add_stream("wmav2", rate=44100)
        stream.width, stream.height, stream.pix_fmt, audio.layout = 96, 64, "yuv420p", "mono"
        audio.bit_rate = 64000
        for k in range(3):
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(np.full((64, 96, 3), 9 * k, np.uint8), format="rgb24"))
            )
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        samples.sample_rate, samples.pts = 44100, 0
        container.mux(audio.encode(samples))
        container.mux([*stream.encode(), *audio.encode()])
    with pytest.warns(UserWarning, match=r"audio \(wmav2\) is left out"):
        track_video(loud, tmp_path / "out.mp4", NoFaces())
    assert len(read_back(tmp_path / "out.mp4")[0]) == 3


def test_odd_sides_are_made_even(tmp_path):
    images = [np.full((45, 63, 3), 30 * k, np.uint8) for k in range(3)]
    path = tmp_path / "odd.mp4"
    with path.open("wb") as file, VideoWriter(file, (63, 45), Fraction(25), Fraction(1, 25)) as writer:
        for k, image in enumerate(images):
            writer.write(image, k)
    back = read_back(path)[0]
    assert [image.shape for image in back] == [(46, 64, 3)] * 3
    assert np.abs(back[2].astype(int) - 60).max() < 5


def test_a_turned_phone(tmp_path):
    """A display matrix, as phones write it, is honoured."""
    images = [np.zeros((64, 96, 3), np.uint8) for _ in range(3)]
    for image in images:
        image[:20, :20] = 255  # the top-left corner of what is stored
    path = write(tmp_path / "clip.mp4", images)
    content = bytearray(path.read_bytes())
    one = (0x10000).to_bytes(4, "big")
    zero, last = bytes(4), (0x40000000).to_bytes(4, "big")
    identity = one + zero + zero + zero + one + zero + zero + zero + last
    quarter = zero + one + zero + (-0x10000).to_bytes(4, "big", signed=True) + zero + zero + zero + zero + last
    place = content.index(identity, content.index(b"tkhd"))
    content[place : place + 36] = quarter  # a quarter clockwise
    path.write_bytes(content)
    read = list(read_video(path))
    assert [f.image.shape for f in read] == [(96, 64, 3)] * 3
    assert read[0].image[:18, -18:].min() > 200 and read[0].image[:18, :18].max() < 50  # now at the top right


def test_broken_inputs(run, tmp_path, clip):
    (tmp_path / "text.mp4").write_text("no video " * 100)
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "headless.mp4").write_bytes(clip.read_bytes()[:2000])  # the index is at the end
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        audio = container.add_stream("aac", rate=44100, layout="mono")
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        samples.sample_rate, samples.pts = 44100, 0
        container.mux([*audio.encode(samples), *audio.encode()])
    for name, message in (
        ("text.mp4", "cannot be read as a video: FFmpeg does not know it, or it is broken"),
        ("empty.mp4", "cannot be read as a video: it is empty"),
        ("headless.mp4", "holds no frame that can be decoded: "),
        ("sound.mp4", "has no video stream, but audio"),
        ("none.mp4", "no such file"),
    ):
        before = names(tmp_path)
        done = run(tmp_path / name, "-o", tmp_path / "out.mp4")
        assert done.exit_code == 1 and message in done.output and name in done.output, done.output
        assert names(tmp_path) == before
    with pytest.raises(ValueError, match="is a folder, not a video"):
        list(read_video(tmp_path))


def test_a_file_cut_short_is_done_as_far_as_it_goes(tmp_path):
    whole = write(tmp_path / "whole.mp4", frames(), options={"movflags": "faststart"})
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.read_bytes()[: int(0.9 * whole.stat().st_size)])
    with pytest.warns(UserWarning, match=r"cut\.mp4 is damaged or cut short: \d+ of 20 frames could be read"):
        summary = track_video(cut, tmp_path / "out.mp4", NoFaces())
    assert 1 <= summary.frames < N and len(read_back(tmp_path / "out.mp4")[0]) == summary.frames


def test_output_that_exists(run, clip, tmp_path):
    out = tmp_path / "out.mp4"
    out.write_text("mine")
    done = run(clip, "-o", out)
    assert done.exit_code == 1 and "out.mp4 exists; --overwrite replaces it" in done.output
    assert out.read_text() == "mine"
    assert run(clip, "-o", out, "--overwrite").exit_code == 0
    assert len(read_back(out)[0]) == N


@pytest.mark.parametrize("live", [False, True])
def test_an_interruption_leaves_a_valid_file_or_nothing(clip, tmp_path, monkeypatch, live):
    class Interrupted(NoFaces):
        def update(self, image, time, *, color="rgb"):
            if time > 0.3:
                raise KeyboardInterrupt
            return super().update(image, time)

    source, before = clip, names(tmp_path)
    if live:
        source = Webcam("testsrc=size=96x64:rate=25", "lavfi")
        summary = track_video(source, tmp_path / "out.mp4", Interrupted())
        assert summary.frames == 8 and len(read_back(tmp_path / "out.mp4")[0]) == 8
    else:
        with pytest.raises(KeyboardInterrupt):
            track_video(source, tmp_path / "out.mp4", Interrupted())
        assert names(tmp_path) == before


def test_an_error_in_the_middle_leaves_nothing(clip, tmp_path):
    class Failing(NoFaces):
        def update(self, image, time, *, color="rgb"):
            if time > 0.3:
                raise RuntimeError("no more")
            return super().update(image, time)

    before = names(tmp_path)
    with pytest.raises(RuntimeError, match="no more"):
        track_video(clip, tmp_path / "out.mp4", Failing())
    assert names(tmp_path) == before


def test_a_webcam(run, tmp_path, monkeypatch):
    """FFmpeg's test picture in the place of a webcam, for a given time."""
    monkeypatch.setattr(video_module, "webcam", lambda number: Webcam("testsrc=size=96x64:rate=25", "lavfi"))
    done = run("--camera", 0, "-o", tmp_path / "out.mkv", "--seconds", 0.4)
    assert done.exit_code == 0, done.output
    images, times, _, _ = read_back(tmp_path / "out.mkv")
    assert len(images) == 10 and times[-1] == pytest.approx(0.36, abs=2e-3)


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/video* is Linux'")
def test_no_webcam(run, tmp_path):
    done = run("--camera", 97, "-o", tmp_path / "out.mp4")
    assert done.exit_code == 1 and "no webcam 97: /dev/video97 does not exist" in done.output
    assert not (tmp_path / "out.mp4").exists()
    with pytest.raises(ValueError, match="'camera' must be the number of a webcam, from 0, not -1"):
        webcam(-1)
    with pytest.raises(ValueError, match=r"cannot open the webcam /dev/null \(v4l2\)"):
        VideoReader(Webcam("/dev/null", "v4l2"))


def test_encoders(run, clip, tmp_path):
    assert video_encoder() in video_module.ENCODERS and video_encoder("mpeg4") == "mpeg4"
    done = run(clip, "-o", tmp_path / "out.mp4", "--codec", "h265_of_the_future")
    assert done.exit_code == 1 and "has no video encoder 'h265_of_the_future'" in done.output
    with pytest.raises(RuntimeError, match="has no video encoder 'aac'"):
        video_encoder("aac")
    assert names(tmp_path) == ["clip.mp4"]


def test_without_pyav(run, clip, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    done = run(clip, "-o", tmp_path / "out.mp4")
    assert done.exit_code == 1 and "'av' is not installed: pip install 'wm3dr[video]'" in done.output


def test_bad_options(run, clip, tmp_path):
    for arguments, message in (
        ([clip, "-o", tmp_path / "out.avi"], "videos are written as .mp4, .m4v, .mov, .mkv, not '.avi'"),
        (["-o", tmp_path / "out.mp4"], "give either VIDEO or --camera NUMBER"),
        ([clip, "--camera", 0, "-o", tmp_path / "out.mp4"], "give either VIDEO or --camera NUMBER"),
        ([clip, "-o", tmp_path / "out.mp4", "--save", "overlay,gif"], "gif is none of overlay, json"),
        ([clip, "-o", tmp_path / "new" / "out.mp4"], "cannot write"),
    ):
        done = run(*arguments)
        assert done.exit_code != 0 and message in done.output, done.output


def test_reading_stops_when_nobody_listens(clip):
    reader = VideoReader(clip)
    next(iter(reader))
    reader.close()
    reader.close()
    assert not reader._thread.is_alive()


def test_frames_are_drawn_where_the_faces_are(reconstructor):
    image = frames(1)[0]
    tracked = wm3dr.Tracker(reconstructor).update(image, 0.0)
    drawn = draw_frame(tracked, image)
    assert drawn.shape == image.shape and drawn.dtype == np.uint8
    changed = (drawn != image).any(axis=2)
    render = tracked.render()
    inside = render.alpha > 0
    assert changed[inside].mean() > 0.95
    away = np.ones_like(inside)
    for face in tracked:
        x0, y0, x1, y1 = np.add(np.round(face.box).astype(int), (-50, -50, 50, 50))
        away[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)] = False
    assert not changed[away].any()
    only = draw_frame(tracked, image, marks=False, opacity=1.0)
    core = inside & np.roll(inside, 1, 0) & np.roll(inside, -1, 0) & np.roll(inside, 1, 1) & np.roll(inside, -1, 1)
    core &= np.roll(core, 1, 0) & np.roll(core, -1, 0) & np.roll(core, 1, 1) & np.roll(core, -1, 1)
    np.testing.assert_array_equal(only[core], render.color[core])
    with pytest.raises(ValueError, match="'image' is 100 x 90 pixels, but the result is of"):
        draw_frame(tracked, image[:90, :100])
