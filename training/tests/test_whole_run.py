"""One command from shards to an encoder file: both stages, the export, going on after an interruption."""

import json

from click.testing import CliRunner
from synthetic import MODEL, needs_model, write_synthetic_labels

import wm3dr
from wm3dr_training import whole_run
from wm3dr_training.data import shards

# bounded by steps: the minutes only divide the budget
TINY = {
    "imagenet": "none",
    "iterations": "2",
    "size": "64",
    "batch": "2",
    "render_share": "0",
    "render_size": "32",
    "smallest_face": "24",
    "largest_face": "50",
    "largest_count": "2",
    "close_share": "0",
    "checkpoint_every": "1",
}


@needs_model
def test_from_shards_to_an_encoder_file(tmp_path):
    labels = write_synthetic_labels(tmp_path / "labels", count=6)
    packed = CliRunner().invoke(shards.main, ["--labels", str(labels), "--out", str(tmp_path / "shards")])
    assert packed.exit_code == 0 and packed.output.startswith("1 shards")
    arguments = ["--shards", str(tmp_path / "shards"), "--out", str(tmp_path / "run"), "--device", "cpu"]
    arguments += ["--backbone", "mobilenetv4_conv_small", "--minutes", "60", "--face-model", str(MODEL)]
    arguments += [word for name, value in TINY.items() for word in ("--set", f"{name}={value}")]
    done = CliRunner().invoke(whole_run.main, arguments)
    assert done.exit_code == 0, done.output
    summary = json.loads((tmp_path / "run" / "encoder.json").read_text())
    assert (summary["stage"], summary["backbone"], summary["steps"]) == (2, "mobilenetv4_conv_small", 2)
    contract = wm3dr.Reconstructor(tmp_path / "run" / "encoder.onnx", MODEL, threads=1).encoder.contract
    assert contract.training["sources"] == ["synthetic"]
    again = CliRunner().invoke(whole_run.main, arguments)  # nothing is left to train or unpack
    assert again.exit_code == 0 and "unpacked" not in again.output
    assert json.loads((tmp_path / "run" / "encoder.json").read_text())["sha256"] == summary["sha256"]


@needs_model
def test_on_a_gpu_the_sizes_are_methods_and_everything_is_trained(tmp_path):
    labels = write_synthetic_labels(tmp_path / "labels", count=2)
    (tmp_path / "mobileface_v2.npz").touch()  # its place is checked, it is not read
    one, two = whole_run.stage_configs(labels, MODEL, "resnet50", 25.0, True, {"batch": "24"}, tmp_path)
    assert (one.size, one.batch, two.size, two.batch, two.largest_face) == (224, 24, 512, 24, 400.0)
    assert two.close_share == 0.0  # canvases of 512 px show close-ups as they are
    assert one.amp and two.amp and one.frozen == two.frozen == ()
    assert one.minutes + two.minutes == 25.0 and one.minutes == 25 * whole_run.STAGE1_SHARE


def test_what_is_missing_is_named(tmp_path):
    nothing = CliRunner().invoke(whole_run.main, ["--out", str(tmp_path)])
    assert nothing.exit_code == 2 and "pass --shards or --labels" in nothing.output
    (tmp_path / "shards").mkdir()
    empty = CliRunner().invoke(whole_run.main, ["--out", str(tmp_path), "--shards", str(tmp_path / "shards")])
    assert empty.exit_code == 1 and "holds no shard_*.zip" in empty.output
    packed = CliRunner().invoke(shards.main, ["--labels", str(tmp_path), "--out", str(tmp_path / "shards")])
    assert packed.exit_code == 1 and "holds no train_*.npz" in packed.output
