"""The command line: quick help, options to configuration, messages for what users get wrong."""

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from synthetic import write_synthetic_labels, write_synthetic_model

from wm3dr_training.cli import main, training_config

VERBS = ("label", "build-face-model", "stage1", "stage2", "export", "evaluate", "import-checkpoint")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    write_synthetic_labels(folder / "labels", count=4)
    write_synthetic_model(folder / "model.safetensors")
    return folder


def config(folder: Path, stage: int = 1, profile: str = "fast", **options):
    return training_config(stage, profile, labels=folder / "labels", face_model=folder / "model.safetensors", **options)


def test_help_loads_no_torch():
    program = (
        "import sys; from click.testing import CliRunner; from wm3dr_training.cli import main; "
        "out = CliRunner().invoke(main, ['--help']); assert out.exit_code == 0, out.output; print(out.output); "
        "print('LOADED', sorted({'torch', 'cv2', 'onnxruntime', 'timm'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "LOADED []" in done.stdout
    for verb in VERBS:
        assert f"  {verb}" in done.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb):
    outcome = CliRunner().invoke(main, [verb, "--help"])
    assert outcome.exit_code == 0 and "Options:" in outcome.output


def test_options_become_the_configuration(folder):
    made = config(
        folder,
        stage=2,
        minutes=12.5,
        batch=3,
        size=96,
        learning_rate=0.002,
        render_share=0.25,
        seed=7,
        weights={"perceptual": "0", "photometric": "3.5"},
        settings={"neighbours": "1", "schedule": "step", "compile": "true"},
        frozen=("",),
    )
    assert (made.stage, made.minutes, made.iterations, made.batch, made.size) == (2, 12.5, 0, 3, 96)
    assert (made.learning_rate, made.render_share, made.seed, made.neighbours) == (0.002, 0.25, 7, 1)
    assert (made.losses.perceptual, made.losses.photometric) == (0.0, 3.5)
    assert made.schedule == "step" and made.compile is True and made.frozen == ()
    assert made.sources == ("synthetic",) and made.face_model.endswith("model.safetensors")


def test_profiles_differ_and_budgets_replace_theirs(folder):
    paper = config(folder, profile="paper", weights={"perceptual": "0"})
    assert (paper.backbone, paper.size, paper.batch, paper.iterations) == ("resnet50", 224, 128, 200_000)
    assert config(folder, profile="paper", minutes=5.0, weights={"perceptual": "0"}).iterations == 0
    fast = config(folder)
    assert fast.backbone == "efficientnet_lite0" and fast.losses.photometric == 0 and fast.minutes > 0


def test_mistakes_are_named(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no train_\*\.npz: run `wm3dr-train label"):
        training_config(1, "fast", labels=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"'face_model' .*no\.safetensors does not exist"):
        training_config(1, "fast", labels=folder / "labels", face_model=tmp_path / "no.safetensors")
    with pytest.raises(ValueError, match=r"'--weight' names 'beauty', expected one of center, landmark"):
        config(folder, weights={"beauty": "1"})
    with pytest.raises(ValueError, match=r"'--set' names 'colour', expected one of"):
        config(folder, settings={"colour": "1"})
    with pytest.raises(ValueError, match=r"'--set neighbours' is 'two', expected int"):
        config(folder, settings={"neighbours": "two"})
    with pytest.raises(FileNotFoundError, match=r"holds no mobileface_v2\.npz, .* or do without it by --weight"):
        config(folder, stage=2, mobileface=tmp_path)
    with pytest.raises(ValueError, match=r"'size' is 100, expected a multiple of 32"):
        config(folder, size=100)


def test_messages_reach_the_terminal_in_one_line(folder, tmp_path):
    common = ["--labels", str(folder / "labels"), "--face-model", str(folder / "model.safetensors")]
    run = ["stage1", *common, "--out", str(tmp_path / "run"), "--iterations", "1"]
    cases = [
        (["stage1", "--labels", str(tmp_path), "--out", str(tmp_path / "run")], "Error: 'labels'"),
        ([*run, "--device", "cuda:9"], "Error: 'device' is 'cuda:9'"),
        ([*run, "--backbone", "vgg", "--device", "cpu"], "Error: 'backbone' is 'vgg', expected one of"),
        ([*run, "--weight", "center"], "'center' is not NAME=VALUE"),
        ([*run, "--sources", "nothing", "--device", "cpu"], "train_nothing.npy is missing: run 'wm3dr-train label'"),
    ]
    import torch

    for arguments, message in cases:
        if "cuda:9" in arguments and torch.cuda.is_available():
            continue
        outcome = CliRunner().invoke(main, arguments)
        assert outcome.exit_code in (1, 2), outcome.output
        assert message in outcome.output
